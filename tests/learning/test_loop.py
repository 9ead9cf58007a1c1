"""The loop of a stage: steps and reports, checkpoints, parts of a batch, and what stops it."""

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.optim.optimizer import register_optimizer_step_pre_hook

from tests.tiny_training import CONFIG, LABELS_ALONE, STILL, Told, settings_with, state_of
from tnet_cli.errors import TrainingError
from tnet_cli.learning.checkpoint import load_checkpoint
from tnet_cli.learning.loop import Stage, StageRun, StepOutput
from tnet_cli.learning.state import TrainingState
from tnet_cli.model.tnet import TNet
from tnet_cli.training.train import train


class Numbers(list[float]):
    """A batch of numbers that knows whether it was closed."""

    is_open = True

    def part(self, rows: slice) -> "Numbers":
        return Numbers(self[rows])

    def close(self) -> None:
        self.is_open = False


class Slope(Stage[Numbers]):
    """Moves the classifier's bias; the terms are known: step n works on the numbers n and n + 1."""

    def __init__(self, state: TrainingState, steps: int = 6, **numbers: Any) -> None:
        given: dict[str, Any] = {"report_every": 4, "carried": {"seen": 0.0}, **numbers}
        super().__init__(state=state, name="slope", steps=steps, learning_rate=1e-2, **given)
        self.batches: list[Numbers] = []
        self.parts: list[list[float]] = []
        self.items = 2
        self.at: dict[int, Callable[[StepOutput], StepOutput]] = {}

    def begin(self) -> None: ...

    def resume(self) -> None: ...

    def prepare(self, rng: np.random.Generator, step: int) -> Numbers:
        self.batches.append(Numbers([step, step + 1][: self.items]))
        return self.batches[-1]

    def compute(self, batch: Numbers, share: float) -> StepOutput:
        self.parts.append(list(batch))
        bias = self.state.network.classification.linear.bias
        terms = {"first": bias.sum() * sum(batch), "second": torch.zeros(()) + sum(batch)}
        seen = self.carried["seen"] + len(self.batches)
        output = StepOutput(terms, {"accuracy": share * 0.5}, {"seen": share * seen})
        step = int(min(batch, default=0))
        return self.at[step](output) if step in self.at else output


def bias_of(state: TrainingState) -> Tensor:
    return state.network.classification.linear.bias.detach().clone()


def test_terms_are_reported_as_their_means_and_validation_after_each_epoch():
    told = Told()
    state = state_of([], progress=told)
    depths: list[int | None] = []

    def validation(depth: int | None) -> dict[str, float]:
        depths.append(depth)
        state.network.eval()
        return {"accuracy": 0.25}

    modes: list[bool] = []

    def mode(same: StepOutput) -> StepOutput:
        modes.append(state.network.training)
        return same

    stage = Slope(state, epoch=3, depth=2)
    stage.at = dict.fromkeys(range(1, 7), mode)
    StageRun(stage, validation).run()
    assert [(report.stage, report.step, report.steps) for report in told.reports] == [
        ("validation slope", 3, 6),
        ("slope", 4, 6),
        ("slope", 6, 6),
        ("validation slope", 6, 6),
    ]
    assert told.reports[1].terms["second"] == np.mean([3, 5, 7, 9])
    assert told.reports[2].terms["second"] == np.mean([11, 13])
    for report in told.reports[1:3]:
        assert report.terms["total"] == pytest.approx(report.terms["first"] + report.terms["second"])
        assert report.terms["accuracy"] == 0.5
    assert told.reports[0].terms == {"accuracy": 0.25}
    assert depths == [2, 2]
    assert modes == [True] * 6
    assert not any(batch.is_open for batch in stage.batches)


def test_a_step_in_which_nothing_could_be_learnt_leaves_the_weights_and_goes_on():
    state = state_of([], settings_with(weight_decay=0.0))
    stage = Slope(state, 1)
    stage.at = {1: lambda _: StepOutput({}, {"baseline": 0.5})}
    before = bias_of(state)
    StageRun(stage).run()
    assert torch.equal(bias_of(state), before)


def test_a_run_goes_on_from_its_last_checkpoint_as_if_it_had_not_stopped(tmp_path):
    whole = state_of([])
    StageRun(Slope(whole)).run()

    def stop(_output: StepOutput) -> StepOutput:
        raise KeyboardInterrupt

    stopped = state_of([], folder=tmp_path)  # a checkpoint every two steps
    stage = Slope(stopped)
    stage.at = {4: stop}
    with pytest.raises(KeyboardInterrupt):
        StageRun(stage).run()
    # What was prepared for the step after is closed too.
    assert not any(batch.is_open for batch in stage.batches)

    told = Told()
    resumed = state_of([], folder=tmp_path, progress=told)
    restored = load_checkpoint(resumed)
    assert restored is not None
    assert (restored.checkpoint.stage, restored.checkpoint.step) == (0, 2)
    run = StageRun(Slope(resumed))
    resumed.network.load_state_dict(restored.network)
    run.restore(restored.checkpoint)
    run.run()
    assert torch.equal(bias_of(resumed), bias_of(whole))
    assert told.reports[0].terms["second"] == np.mean([3, 5, 7, 9])


def not_finite(_output: StepOutput) -> StepOutput:
    raise FloatingPointError


NOT_FINITE: dict[str, tuple[Callable[[StepOutput], StepOutput], str]] = {
    "loss": (lambda _: StepOutput({"first": torch.tensor(math.nan, requires_grad=True)}), r"total nan, first nan"),
    "network": (not_finite, r"network nan"),
    "gradient": (lambda output: StepOutput({"root": output.terms["first"].mul(0).sqrt()}), r"gradient nan"),
}


@pytest.mark.parametrize("what", NOT_FINITE)
def test_what_is_not_finite_stops_the_run_and_names_the_last_good_checkpoint(tmp_path, what):
    broken, said = NOT_FINITE[what]
    for folder, kept in (
        (tmp_path, rf"the last good checkpoint is {tmp_path / 'checkpoint.safetensors'} \(slope, step 4\)"),
        (None, "no checkpoint was kept"),
    ):
        stage = Slope(state_of([], folder=folder))
        stage.at = {5: broken}
        with pytest.raises(TrainingError, match=rf"^slope, step 5: .*not finite any more \({said}\); {kept}; try"):
            StageRun(stage).run()
    kept_tensors = load_file(tmp_path / "checkpoint.safetensors")
    assert all(bool(torch.isfinite(tensor).all()) for tensor in kept_tensors.values() if tensor.is_floating_point())


def test_weights_that_explode_are_not_kept(tmp_path, tiny_inputs):
    wild = settings_with(rounds=0, hard_epochs=4, hard_learning_rate=1e30, checkpoint_every=1)
    with pytest.raises(TrainingError, match=r"^hard attention, step \d+: .*not finite any more.*hard attention, step"):
        train(tiny_inputs, CONFIG, wild, folder=tmp_path)
    kept = load_file(tmp_path / "checkpoint.safetensors")
    assert all(bool(torch.isfinite(tensor).all()) for tensor in kept.values() if tensor.is_floating_point())


def test_a_batch_is_computed_in_as_many_parts_as_it_has_items_for():
    state = state_of([], settings_with(accumulate=3))
    stage = Slope(state, 2)
    StageRun(stage).run()
    assert stage.parts == [[1], [2], [2], [3]]
    whole = state_of([])
    StageRun(Slope(whole, 2)).run()
    assert torch.equal(bias_of(state), bias_of(whole))


def test_a_batch_of_which_nothing_could_be_opened_is_computed_whole():
    state = state_of([], settings_with(accumulate=3))
    stage = Slope(state, 2)
    stage.items = 0
    StageRun(stage).run()
    assert stage.parts == [[], []]


def test_memory_that_does_not_suffice_names_the_setting(tiny_inputs, monkeypatch):
    real, sizes = TNet.look, list[int]()

    def look(self: TNet, patches: Tensor, *rest: Any, **named: Any) -> Any:
        if torch.is_grad_enabled():
            sizes.append(len(patches))
            if len(patches) > 4:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1.00 GiB.")
        return real(self, patches, *rest, **named)

    monkeypatch.setattr(TNet, "look", look)
    settings = settings_with(rounds=1, warmup_steps=2, hard_epochs=0)
    with pytest.raises(TrainingError, match=r"^warm-up 1, step 1: memory on cpu.*\[training\] accumulate, now 1\)"):
        train(tiny_inputs, CONFIG, settings)
    train(tiny_inputs, CONFIG, settings.model_copy(update={"accumulate": 2}))
    assert sizes == [8, 4, 4, 4, 4]


@pytest.fixture
def gradients() -> Iterator[list[list[Tensor]]]:
    """The gradients of every step that an optimiser takes."""
    taken: list[list[Tensor]] = []

    def keep(optimiser: torch.optim.Optimizer, *_: object) -> None:
        parameters = optimiser.param_groups[0]["params"]
        taken.append([torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in parameters])

    hook = register_optimizer_step_pre_hook(keep)
    yield taken
    hook.remove()


ONLY: dict[str, dict[str, Any]] = {
    "warm-up": {"rounds": 1, "warmup_steps": 1},
    "soft attention": {"soft_steps": 1, **LABELS_ALONE},
    "hard attention": {"hard_epochs": 1, "entropy_weight": 0.1, **LABELS_ALONE},
}


@pytest.mark.parametrize("stage", ONLY)
def test_added_gradients_are_those_of_the_whole_batch(tiny_inputs, tiny_slides, gradients, stage):
    # Without dropout and statistics of a batch, which are drawn and taken for each part, and on slides of which as much
    # is looked at as of the others.
    alike = [entry for entry, slide in zip(tiny_inputs, tiny_slides, strict=True) if len(slide.roots) == 2]
    assert len(alike) == 3
    settings = settings_with(
        **{"rounds": 0, "hard_epochs": 0, "normalisation": "none", "batch_slides": 3, "gradient_clip": 1e9}
        | ONLY[stage]
    )
    terms = []
    for parts in (1, 2):  # of two slides and of one
        told = Told()
        train(alike, STILL, settings.model_copy(update={"accumulate": parts}), progress=told)
        terms.append(told.reports[0].terms)
    whole, added = gradients
    largest = max(float(each.abs().max()) for each in whole)
    assert largest > 1e-3
    for expected, found in zip(whole, added, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5 * largest)
    assert terms[1] == pytest.approx(terms[0], rel=1e-5, abs=1e-6)
