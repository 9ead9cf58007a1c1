"""Two processes over gloo compute what one computes with the joined batch: gradients, statistics, baseline, metrics.

With dropout, and with statistics of batches: neither depends on how a batch is shared out.
"""

import json
import os
import socket
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tnet_cli.learning.feature_store import list_features

ROOT = Path(__file__).resolve().parents[2]

DRIVER = """
import json, os, sys
from pathlib import Path
import torch, torch._dynamo  # once for all processes
from safetensors.torch import save_file
from torch.optim.optimizer import register_optimizer_step_pre_hook
from tests.tiny_training import CONFIG, Told, settings_with
from tnet_cli.inputs.inputs import read_manifest
from tnet_cli.training.train import train

torch.set_num_threads(1)
folder, manifest, *ports = Path(sys.argv[1]), Path(sys.argv[2]), *sys.argv[3:]
# Batches of three and of one: the second process has one slide in the first, and none in the second. Steps are so
# small that all gradients are those of the first weights.
settings = settings_with(
    warmup_steps=2, rounds=1, normalisation="none", batch_patches=7, soft_steps=1, hard_epochs=1, batch_slides=3,
    entropy_weight=0.1, warmup_learning_rate=1e-9, hard_learning_rate=1e-9, soft_learning_rate=1e-9,
)

def run(name, checkpoints, **changes):
    steps = []
    def keep(optimiser, *_):
        taken = enumerate(optimiser.param_groups[0]["params"])
        steps.append({n: p.grad.clone().contiguous() for n, p in taken if p.grad is not None})
    hook = register_optimizer_step_pre_hook(keep)
    told, inputs = Told(), read_manifest(manifest)
    train(
        inputs, CONFIG, settings.model_copy(update=changes), validation=inputs[:3],
        folder=folder / checkpoints, progress=told,
    )
    hook.remove()
    gradients = {f"{step} {n}": values for step, taken in enumerate(steps) for n, values in taken.items()}
    save_file(gradients, folder / f"{name}.safetensors")
    (folder / f"{name}.json").write_text(json.dumps([[each.stage, each.terms] for each in told.reports]))

def child(name, **environment):
    number = os.fork()
    if number == 0:
        os.environ.update(environment, MASTER_PORT=ports[0])
        run(name, "shared" if environment else "alone")
        os.environ["MASTER_PORT"] = ports[1]  # whoever is first must not meet the group before
        learnt = {"normalisation": "frozen", "soft_steps": 0, "hard_epochs": 0}
        run(f"{name}-learnt", "shared-learnt" if environment else "alone-learnt", **learnt)
        if environment:
            os.environ["MASTER_PORT"] = ports[2]
            run(f"{name}-in-parts", "in-parts", accumulate=2)
        os._exit(0)
    return number

here = {"MASTER_ADDR": "127.0.0.1", "WORLD_SIZE": "2"}
children = [child("alone"), child("first", RANK="0", LOCAL_RANK="0", **here)]
children.append(child("second", RANK="1", LOCAL_RANK="1", **here))
print(json.dumps([os.waitstatus_to_exitcode(os.waitpid(number, 0)[1]) for number in children]))
"""


def ends_of(driver: str, folder: Path, manifest: Path) -> list[int]:
    """Run a driver of processes with three ports; return how they ended."""
    with ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in range(3)]
        for free in sockets:
            free.bind(("127.0.0.1", 0))
        ports = [str(free.getsockname()[1]) for free in sockets]
    done = subprocess.run(
        [sys.executable, "-c", driver, str(folder), str(manifest), *ports],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    ends: list[int] = json.loads(done.stdout.splitlines()[-1])
    return ends


@pytest.fixture(scope="module")
def folder(tmp_path_factory, labelled_slides) -> Path:
    folder: Path = tmp_path_factory.mktemp("processes")
    assert ends_of(DRIVER, folder, labelled_slides) == [0, 0, 0]
    return folder


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_added_gradients_are_those_of_the_joined_batch(folder):
    alone, first, second = (load_file(folder / f"{name}.safetensors") for name in ("alone", "first", "second"))
    # Two steps of the warm-up, one of soft attention, and two of hard attention.
    assert {key.split(" ")[0] for key in alone} == set("01234")
    assert set(first) == set(second) == set(alone)
    largest = {
        step: max(float(value.abs().max()) for key, value in alone.items() if key.startswith(step)) for step in "01234"
    }
    for key, expected in alone.items():
        assert torch.equal(first[key], second[key])
        torch.testing.assert_close(first[key], expected, rtol=1e-3, atol=1e-5 * largest[key[0]])
    assert min(largest.values()) > 1e-3


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_all_processes_compute_the_same_parts_of_a_batch_though_some_are_empty(folder):
    alone, first, second = (
        load_file(folder / f"{name}.safetensors") for name in ("alone", "first-in-parts", "second-in-parts")
    )
    assert set(first) == set(second) == set(alone)
    assert all(torch.equal(first[key], second[key]) for key in alone)
    for key in alone:
        if key[0] in "01":  # of the warm-up all counts are known before
            largest = float(max(alone[other].abs().max() for other in alone if other[0] == key[0]))
            torch.testing.assert_close(first[key], alone[key], rtol=1e-3, atol=1e-5 * largest)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_statistics_of_batches_are_those_of_all_processes(folder):
    alone, first, second = (load_file(folder / f"{name}-learnt.safetensors") for name in ("alone", "first", "second"))
    assert set(first) == set(second) == set(alone)
    assert all(torch.equal(first[key], second[key]) for key in alone)
    ours, theirs = (torch.cat([each[key].flatten() for key in sorted(alone)]) for each in (first, alone))
    # Where a patch is all of one colour, rounding decides which of many equal values is the largest.
    assert float((ours - theirs).norm()) < 0.05 * float(theirs.norm())
    said = [json.loads((folder / f"{name}-learnt.json").read_text()) for name in ("alone", "first")]
    for (_, terms), (_, expected_terms) in zip(said[1], said[0], strict=True):
        assert terms == pytest.approx(expected_terms, rel=1e-4, abs=1e-5)
    shared, own = (load_file(folder / f"{name}-learnt" / "checkpoint.safetensors") for name in ("shared", "alone"))
    statistics = [name for name in own if name.endswith(("running_mean", "running_var"))]
    assert statistics
    for name in statistics:
        torch.testing.assert_close(shared[name], own[name], rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_only_the_first_process_speaks_and_says_what_one_alone_would(folder):
    alone, first, second = (json.loads((folder / f"{name}.json").read_text()) for name in ("alone", "first", "second"))
    assert second == []
    assert [stage for stage, _ in first] == [stage for stage, _ in alone]
    assert [stage for stage, _ in alone] == [
        f"{kind}{stage}" for stage in ("warm-up 1", "soft attention", "hard attention") for kind in ("", "validation ")
    ]
    for (_, ours), (_, theirs) in zip(first, alone, strict=True):
        assert ours == pytest.approx(theirs, rel=1e-4, abs=1e-5)
    # The baseline has moved with the rewards of both processes.
    assert alone[-2][1]["baseline"] != 0.5


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_one_checkpoint_is_written_and_holds_the_same_weights(folder):
    assert [path.name for path in (folder / "shared").iterdir()] == ["checkpoint.safetensors"]
    ours, theirs = (load_file(folder / name / "checkpoint.safetensors") for name in ("shared", "alone"))
    assert set(ours) == set(theirs)
    for name, tensor in theirs.items():
        torch.testing.assert_close(ours[name], tensor, rtol=1e-4, atol=1e-6)


STOPPED = """
import json, os, signal, sys
from pathlib import Path
import torch, torch._dynamo  # once for all processes
from torch.optim.optimizer import register_optimizer_step_pre_hook
from tests.tiny_training import CONFIG, settings_with
from tnet_cli.inputs.inputs import read_manifest
from tnet_cli.training.train import train

torch.set_num_threads(1)
folder, manifest, *ports = Path(sys.argv[1]), Path(sys.argv[2]), *sys.argv[3:]
settings = settings_with(warmup_steps=4, rounds=1, hard_epochs=1, batch_slides=4, checkpoint_every=1000)

def child(name, rank, port, stop_at):
    number = os.fork()
    if number == 0:
        steps = []
        def count(*_):
            steps.append(0)
            if len(steps) == stop_at:
                os.kill(os.getpid(), signal.SIGINT)
        register_optimizer_step_pre_hook(count)
        os.environ.update(MASTER_ADDR="127.0.0.1", WORLD_SIZE="2", MASTER_PORT=port, RANK=rank, LOCAL_RANK=rank)
        try:
            train(read_manifest(manifest), CONFIG, settings, folder=folder / name)
        except KeyboardInterrupt:
            os._exit(130)
        os._exit(0)
    return number

ends = []
for name, stop_at, port in [("whole", None, ports[0]), ("stopped", 3, ports[1]), ("stopped", None, ports[2])]:
    # The signal reaches the second process alone: the first hears of it and writes.
    children = [child(name, "0", port, None), child(name, "1", port, stop_at)]
    ends += [os.waitstatus_to_exitcode(os.waitpid(number, 0)[1]) for number in children]
print(json.dumps(ends))
"""


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_processes_stop_after_the_same_step_and_go_on_from_it(tmp_path, labelled_slides):
    assert ends_of(STOPPED, tmp_path, labelled_slides) == [0, 0, 130, 130, 0, 0]
    ours, theirs = (load_file(tmp_path / name / "checkpoint.safetensors") for name in ("stopped", "whole"))
    assert set(ours) == set(theirs)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


OWN_ENCODERS = """
import json, os, sys
from pathlib import Path
import torch, torch._dynamo  # once for all processes
from tests.tiny_training import OWN, Told, settings_with
from tnet_cli.inputs.inputs import read_manifest
from tnet_cli.training.train import train

torch.set_num_threads(1)
folder, manifest, *ports = Path(sys.argv[1]), Path(sys.argv[2]), *sys.argv[3:]
# Of two patches a step each process has one: of five steps some leave a process without a coarse one.
settings = settings_with(
    warmup_steps=5, rounds=1, batch_patches=2, hard_epochs=1, warmup_learning_rate=1e-9, hard_learning_rate=1e-9,
    features=str(folder / "features"),
)

def child(name, **environment):
    number = os.fork()
    if number == 0:
        os.environ.update(environment, MASTER_PORT=ports[0])
        train(read_manifest(manifest), OWN, settings, folder=folder / name)
        os._exit(0)
    return number

here = {"MASTER_ADDR": "127.0.0.1", "WORLD_SIZE": "2"}
children = [child("alone"), child("shared", RANK="0", LOCAL_RANK="0", **here)]
children.append(child("shared", RANK="1", LOCAL_RANK="1", **here))
print(json.dumps([os.waitstatus_to_exitcode(os.waitpid(number, 0)[1]) for number in children]))
"""


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_process_without_a_patch_of_an_encoder_takes_part_in_its_statistics(tmp_path, labelled_slides):
    assert ends_of(OWN_ENCODERS, tmp_path, labelled_slides) == [0, 0, 0]
    ours, theirs = (load_file(tmp_path / name / "checkpoint.safetensors") for name in ("shared", "alone"))
    statistics = [name for name in theirs if name.endswith(("running_mean", "running_var"))]
    assert any(".encoders.0." in name for name in statistics)
    for name in statistics:
        torch.testing.assert_close(ours[name], theirs[name], rtol=1e-3, atol=1e-4)
    # All three have kept what they saw in one place, at once.
    (kept,) = list_features(tmp_path / "features")
    assert kept["slides"] == 4
    assert not list((tmp_path / "features").rglob(".*"))  # no draft
