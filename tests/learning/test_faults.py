"""What may go wrong in training: losses that explode, memory that runs out, slides that cannot be read."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.training.conftest import CONFIG, SETTINGS
from tnet_cli.errors import SlideError, TrainingError, UnreadableRegionError, UsageError
from tnet_cli.learning.state import StepReport
from tnet_cli.model.tnet import TNet
from tnet_cli.training.hard_attention import HardAttention
from tnet_cli.training.rollout import OpenedSlide
from tnet_cli.training.train import train

HARD = SETTINGS.model_copy(update={"rounds": 0, "hard_epochs": 1, "checkpoint_every": 1})


def test_a_loss_that_explodes_stops_the_run_and_names_the_last_good_checkpoint(tmp_path, tiny_inputs):
    wild = HARD.model_copy(update={"hard_learning_rate": 1e30, "hard_epochs": 4})
    with pytest.raises(TrainingError) as caught:
        train(tiny_inputs, CONFIG, wild, folder=tmp_path)
    message = str(caught.value)
    assert message.startswith("hard attention, step ")
    assert "not finite any more" in message
    assert f"the last good checkpoint is {tmp_path / 'checkpoint.safetensors'} (hard attention, step " in message
    assert caught.value.exit_code == 1
    kept = load_file(tmp_path / "checkpoint.safetensors")
    assert all(bool(torch.isfinite(tensor).all()) for tensor in kept.values() if tensor.is_floating_point())


def test_without_a_folder_the_sentence_says_that_nothing_was_kept(tiny_inputs, monkeypatch):
    real = HardAttention.compute

    def broken(self: HardAttention, course: Any, work: Any) -> Any:
        computed = real(self, course, work)
        return replace(computed, terms={**computed.terms, "reinforce": computed.terms["reinforce"] * float("nan")})

    monkeypatch.setattr(HardAttention, "compute", broken)
    with pytest.raises(TrainingError, match=r"step 1: .*\(.*reinforce nan\); no checkpoint was kept"):
        train(tiny_inputs, CONFIG, HARD)


def out_of_memory(monkeypatch: pytest.MonkeyPatch, fails: Callable[[int, int], bool]) -> list[int]:
    """Let looks fail as a GPU does, and list how many patches each was given."""
    real, sizes = TNet.look, list[int]()

    def look(self: TNet, patches: torch.Tensor, *rest: Any, **named: Any) -> Any:
        if torch.is_grad_enabled():
            sizes.append(len(patches))
            if fails(len(sizes), len(patches)):
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1.00 GiB.")
        return real(self, patches, *rest, **named)

    monkeypatch.setattr(TNet, "look", look)
    return sizes


def test_memory_that_runs_out_halves_the_batch_once_and_says_so(tiny_inputs, monkeypatch):
    out_of_memory(monkeypatch, lambda call, _: call == 2)
    notes: list[str] = []
    reports: list[StepReport] = []
    train(tiny_inputs, CONFIG, HARD, on_note=notes.append, on_step=reports.append)
    assert notes == [
        "hard attention, step 1: memory on cpu did not suffice; from here on each batch is computed in two halves"
    ]
    assert [(report.step, report.steps) for report in reports] == [(2, 2)]


def test_memory_that_does_not_suffice_for_half_a_batch_ends_the_run(tiny_inputs, monkeypatch):
    out_of_memory(monkeypatch, lambda *_: True)
    with pytest.raises(TrainingError, match="memory on cpu does not suffice for half a batch; give smaller batches"):
        train(tiny_inputs, CONFIG, HARD)


def test_half_batches_of_the_warm_up_are_half_as_large(tiny_inputs, monkeypatch):
    sizes = out_of_memory(monkeypatch, lambda call, size: call == 1)
    notes: list[str] = []
    warm = SETTINGS.model_copy(update={"rounds": 1, "warmup_steps": 2, "hard_epochs": 0})
    train(tiny_inputs, CONFIG, warm, on_note=notes.append)
    assert sizes == [8, 4, 4, 4, 4]
    assert len(notes) == 1


@pytest.fixture
def with_a_bad_one(tiny_inputs, tmp_path):
    bad = tmp_path / "torn.tif"
    bad.write_bytes(Path(tiny_inputs[0].path).read_bytes()[:200])
    return [*tiny_inputs, replace(tiny_inputs[0], path=str(bad), name="torn")]


def test_a_slide_that_cannot_be_opened_is_named_or_left_out(with_a_bad_one):
    with pytest.raises(SlideError, match=r"torn\.tif"):
        train(with_a_bad_one, CONFIG, HARD)
    notes: list[str] = []
    train(with_a_bad_one, CONFIG, HARD, skip_bad=True, on_note=notes.append)
    assert len(notes) == 1
    assert notes[0].startswith("left out: ")
    assert "torn.tif" in notes[0]


def test_a_slide_that_breaks_while_training_is_named_or_left_out(tiny_inputs, monkeypatch):
    real, broken = OpenedSlide.read, tiny_inputs[1].path

    def read(self: OpenedSlide, region: Any) -> Any:
        if self.slide.entry.path == broken and region not in self.roots:
            raise UnreadableRegionError(broken, f"the region at {region.x}, {region.y} cannot be decoded")
        return real(self, region)

    monkeypatch.setattr(OpenedSlide, "read", read)
    with pytest.raises(UnreadableRegionError, match="cannot be decoded"):
        train(tiny_inputs, CONFIG, HARD)
    notes: list[str] = []
    # Alone in its batch, it leaves a step without any slide.
    alone = HARD.model_copy(update={"batch_slides": 1, "hard_epochs": 2})
    train(tiny_inputs, CONFIG, alone, skip_bad=True, on_note=notes.append)
    assert len(notes) == 1
    assert notes[0].startswith(f"left out: {broken}: the region at ")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"hard_locations": (2, 3, 4)}, "hard_locations needs 2 numbers"),
        ({"normal_class": "healthy"}, "normal_class 'healthy' is not among"),
        ({"staged_depth": ((3, 1),)}, "staged_depth names processing levels before all 3"),
    ],
)
def test_settings_that_do_not_fit_the_model_are_refused(change, said):
    with pytest.raises(UsageError, match=said):
        train([], CONFIG, SETTINGS.model_copy(update=change))
