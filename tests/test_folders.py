"""Whose a folder is, for every command: nothing of somebody else is replaced or deleted, and no link is followed."""

import contextlib
import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import tnet_cli
from tests.results.runs_made_by_hand import done
from tnet_cli.distillation.folder import DISTILLATION, DistillRequest
from tnet_cli.distillation.run import run_distill
from tnet_cli.errors import TnetError, UsageError
from tnet_cli.evaluation.agreement import COMPARISON, AgreementRequest, run_agreement
from tnet_cli.evaluation.folder import EVALUATION
from tnet_cli.files import STATE, FolderKind, claim, held_by_command, path_given
from tnet_cli.inputs.names import OVERLAY, SLIDE_FILES
from tnet_cli.inputs.options import TraversalOptions
from tnet_cli.modelfile.export_onnx import EXPORT
from tnet_cli.modelfile.export_wsinfer import WSINFER_EXPORT
from tnet_cli.places import Place
from tnet_cli.results.layout import CLASSIFICATION, PREDICTIONS, RUN_RECORD, SLIDES, RunDirectory
from tnet_cli.synth.synthesis import SYNTHESIS
from tnet_cli.training.folder import TRAINING

SINCE_BEFORE_CLAIMS = (CLASSIFICATION, TRAINING, EVALUATION)
WITH_RECORD = (*SINCE_BEFORE_CLAIMS, DISTILLATION)
RUNS = (*WITH_RECORD, COMPARISON)
KINDS = (*RUNS, SYNTHESIS, EXPORT, WSINFER_EXPORT)


def real_name(name: str) -> str:
    """Return a name that a pattern stands for."""
    return re.sub(r"\*", "", name.replace("[0-9]", "1"))


PLACES = [(kind, real_name(name)) for kind in RUNS for name in (f"{STATE}/", kind.claim, *kind.names)]
each_place = pytest.mark.parametrize(("kind", "name"), PLACES, ids=[f"{kind.command}-{name}" for kind, name in PLACES])


def run(kind: FolderKind, out: Path, manifest: Path, model: Path, *, overwrite: bool) -> None:
    if kind is CLASSIFICATION:
        tnet_cli.classify(manifest, out=out, model=model, overwrite=overwrite)
    elif kind is TRAINING:
        tnet_cli.train(manifest, out, overwrite=overwrite, backbone="tnet_small")
    elif kind is DISTILLATION:
        run_distill(
            DistillRequest(inputs=[Place(manifest)], teacher="synthetic-demo", out=out, overwrite=overwrite, steps=1)
        )
    elif kind is COMPARISON:
        given: dict[str, Any] = {
            "inputs": [Place(manifest)],
            "teacher": "synthetic-demo",
            "traversal": TraversalOptions(),
        }
        run_agreement(AgreementRequest(model=str(model), out=out, **given))
    else:
        tnet_cli.evaluate(manifest, model, out=out, overwrite=overwrite)


def placed(out: Path, name: str) -> Path:
    path = out / name.rstrip("/")
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.is_file():
        path.unlink()
    elif path.is_dir():
        path.rename(out.parent / "moved")
    return path


def tree(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@each_place
@pytest.mark.parametrize("overwrite", [False, True])
def test_what_a_link_points_to_stays_as_it_is(kind, name, overwrite, small_labelled_slides, untrained_model, tmp_path):
    out, target = tmp_path / "out", tmp_path / "target"
    claim(out, kind)
    link = placed(out, name)
    if name.endswith("/"):
        target.mkdir()
        for inner in ("123.0123456789ab", "holder.json", "checkpoint.safetensors"):
            (target / inner).write_text("somebody's")
    else:
        target.write_text("somebody's")
    before = tree(tmp_path)
    link.symlink_to(target)
    with pytest.raises(UsageError, match="is a link, and tnet follows none"):
        run(kind, out, small_labelled_slides, untrained_model, overwrite=overwrite)
    assert link.is_symlink()
    link.unlink()
    assert tree(tmp_path) == before


@each_place
def test_a_link_to_nothing_makes_nothing_and_a_pipe_keeps_nobody_waiting(
    kind, name, small_labelled_slides, untrained_model, tmp_path
):
    out = tmp_path / "out"
    claim(out, kind)
    place = placed(out, name)
    place.symlink_to(tmp_path / "nothing")
    with pytest.raises(UsageError, match="is a link"):
        run(kind, out, small_labelled_slides, untrained_model, overwrite=False)
    assert not (tmp_path / "nothing").exists()
    place.unlink()
    os.mkfifo(place)
    with pytest.raises(UsageError, match=r"is no ordinary file|is no folder"):
        run(kind, out, small_labelled_slides, untrained_model, overwrite=True)


FOREIGN = [(kind, name) for kind, name in PLACES if name != f"{STATE}/"]


@pytest.mark.parametrize(("kind", "name"), FOREIGN, ids=[f"{kind.command}-{name}" for kind, name in FOREIGN])
@pytest.mark.parametrize("overwrite", [False, True])
def test_what_another_program_left_stays_as_it_is(
    kind, name, overwrite, small_labelled_slides, untrained_model, tmp_path
):
    out = tmp_path / "out"
    out.mkdir()
    place = placed(out, name)
    if name.endswith("/"):
        place.mkdir()
        place = place / "epoch-1.ckpt"
    place.write_text(json.dumps({"program": "other", "version": "1", "finished": True, "metrics": {}}))
    (out / "notes.txt").write_text("mine")
    before = tree(tmp_path)
    with pytest.raises(UsageError, match=f"that no run of tnet {kind.command} left there; give another folder") as told:
        run(kind, out, small_labelled_slides, untrained_model, overwrite=overwrite)
    assert "--overwrite" not in str(told.value)
    assert tree(tmp_path) == before


@pytest.mark.parametrize("other", WITH_RECORD, ids=lambda kind: kind.command)
@pytest.mark.parametrize("kind", WITH_RECORD, ids=lambda kind: kind.command)
def test_a_run_of_one_command_is_in_the_way_of_another(kind, other, small_labelled_slides, untrained_model, tmp_path):
    claim(tmp_path, other)
    (tmp_path / RUN_RECORD).write_text("{}")
    if kind is other:
        assert held_by_command(tmp_path, kind)
        return
    before = tree(tmp_path)
    with pytest.raises(UsageError, match=f"holds run.json of a run of tnet {other.command}; give another folder"):
        run(kind, tmp_path, small_labelled_slides, untrained_model, overwrite=True)
    assert tree(tmp_path) == before


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.command)
def test_files_of_other_names_are_in_nobodys_way(kind, tmp_path):
    (tmp_path / "a.svs").write_text("a slide")
    (tmp_path / "fold-notes.txt").write_text("paper")
    (tmp_path / STATE).mkdir()
    (tmp_path / STATE / "lock").touch()
    assert not claim(tmp_path, kind)
    assert claim(tmp_path, kind)
    assert (tmp_path / "a.svs").read_text() == "a slide"


def test_the_folder_itself_may_be_reached_by_a_link(tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "out").symlink_to(tmp_path / "disk")
    assert not claim(tmp_path / "out", CLASSIFICATION)
    assert held_by_command(tmp_path / "disk", CLASSIFICATION)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda path: path.touch(), "is a file; give a folder"),
        (os.mkfifo, "is a file; give a folder"),
        (lambda path: path.symlink_to("nothing"), "is a link to what is not there"),
        (lambda path: path.symlink_to(path), "is a link to what is not there"),
    ],
    ids=["file", "pipe", "link to nothing", "link to itself"],
)
def test_what_cannot_be_a_folder_is_refused(make: Callable[[Path], None], said, tmp_path):
    make(tmp_path / "out")
    for kind in KINDS:
        with pytest.raises(UsageError, match=said):
            claim(tmp_path / "out", kind)
    with pytest.raises(UsageError, match=r"cannot be used|cannot be written"):
        claim(tmp_path / ("x" * 300), CLASSIFICATION)


@pytest.mark.parametrize(
    ("text", "said"),
    [("", "is empty"), (" ", "is empty"), ("a\0b", "no path can have"), ("s3://bucket/out", "is an address")],
)
def test_what_is_no_path_is_refused(text, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=f"^--out .*{said}"):
        tnet_cli.classify("a.svs", out=text)
    with pytest.raises(UsageError, match=f"^--out .*{said}"):
        tnet_cli.train("labels.csv", text)
    with pytest.raises(UsageError, match=f"^--out .*{said}"):
        tnet_cli.evaluate("labels.csv", "m.safetensors", out=text)
    with pytest.raises(UsageError, match=f"^--save-model .*{said}"):
        tnet_cli.evaluate("labels.csv", "m.safetensors", save_model=text)
    assert list(tmp_path.iterdir()) == []
    assert path_given("here") == Path("here")


def test_an_address_is_refused_without_its_secret():
    with pytest.raises(UsageError) as told:
        path_given("https://me:secret@host/out?sig=secret")
    assert "secret" not in str(told.value)


RECORDS: dict[FolderKind, tuple[str, dict[str, Any]]] = {
    CLASSIFICATION: (
        RUN_RECORD,
        {"version": "0", "finished": None, "model": {"sha256": "a" * 64}, "intended_use": "", "options": {}}
        | {"machine": {}, "slides": {}, "seconds": None},
    ),
    TRAINING: (
        RUN_RECORD,
        {"version": "0", "started": "", "finished": None, "manifest": {"path": "", "digest": "a" * 64}}
        | {"settings": "b" * 64, "options": {}, "machine": {}, "classes": [], "slides": {}, "notes": []},
    ),
    EVALUATION: (
        RUN_RECORD,
        {"version": "0", "finished": "", "model": {}, "calibrated_model": None, "intended_use": "", "manifest": ""}
        | {"options": {}, "machine": {}, "arms": {}, "seconds": 1},
    ),
}
"""What versions that left no claim wrote."""


@pytest.mark.parametrize("kind", SINCE_BEFORE_CLAIMS, ids=lambda kind: kind.command)
def test_a_folder_from_before_there_were_claims_is_known_by_its_record_in_full(kind, tmp_path):
    name, record = RECORDS[kind]
    (tmp_path / PREDICTIONS if kind is not TRAINING else tmp_path / "metrics.csv").write_text("rows")
    (tmp_path / name).write_text(json.dumps(record))
    assert held_by_command(tmp_path, kind)
    for other in set(SINCE_BEFORE_CLAIMS) - {kind}:
        with pytest.raises(UsageError, match=f"that no run of tnet {other.command} left there"):
            held_by_command(tmp_path, other)
    for part in record.keys() - {"seconds", "notes", "machine"}:
        (tmp_path / name).write_text(json.dumps({key: value for key, value in record.items() if key != part}))
        with pytest.raises(UsageError, match="left there"):
            held_by_command(tmp_path, kind)


def test_a_run_that_was_killed_before_its_record_is_known_by_who_held_it(tmp_path):
    (tmp_path / STATE).mkdir()
    (tmp_path / STATE / "holder.json").write_text('{"process": 1, "host": "h", "since": "2026-01-01T00:00:00+00:00"}')
    (tmp_path / PREDICTIONS).write_text("rows")
    assert held_by_command(tmp_path, CLASSIFICATION)


@pytest.mark.parametrize("text", ["", "[]", "{", "[" * 100_000, '{"program": "tnet-cli", "command": "classify"}'])
def test_what_is_no_claim_proves_nothing(text, tmp_path):
    (tmp_path / STATE).mkdir()
    (tmp_path / CLASSIFICATION.claim).write_text(text)
    (tmp_path / PREDICTIONS).write_text("rows")
    with pytest.raises(UsageError, match="left there"):
        held_by_command(tmp_path, CLASSIFICATION)


@pytest.mark.parametrize(
    "name", ["slides", "slides/deep", "slides/deep/a", *(f"slides/deep/a/{n}" for n in SLIDE_FILES)]
)
def test_no_link_is_followed_on_the_way_to_a_slide(name, tmp_path):
    directory, target = RunDirectory(tmp_path / "out"), tmp_path / "target"
    directory.make()
    result = done("deep/a")
    (directory.path / name).parent.mkdir(parents=True, exist_ok=True)
    is_file = name.endswith(SLIDE_FILES)
    if is_file:
        target.write_text("somebody's")
    else:
        target.mkdir()
    (directory.path / name).symlink_to(target)
    with pytest.raises(OSError, match=f"{name} is a link"):
        directory.write_slide(result, {OVERLAY: b"png"})
    assert target.read_text() == "somebody's" if is_file else not any(target.rglob("*"))
    (directory.path / name).unlink()
    directory.write_slide(result, {OVERLAY: b"png"})
    assert (directory.path / SLIDES / "deep" / "a" / "overlay.png").read_bytes() == b"png"


def test_only_drafts_that_are_named_as_ours_are_removed(tmp_path):
    directory = RunDirectory(tmp_path)
    directory.make()
    drafts = tmp_path / STATE / "drafts"
    for name in ("123.0123456789ab", "mine", "1.0123456789abc"):
        (drafts / name).mkdir()
    (tmp_path / "kept").mkdir()
    (drafts / "5.0123456789ab").symlink_to(tmp_path / "kept")
    for name in (".run.json.12.0123abcd.json", ".run.json.bak", ".run.json.12.0123abcd.txt", ".notes.12.0123abcd"):
        (tmp_path / name).touch()
    directory.clear_drafts()
    assert sorted(path.name for path in drafts.iterdir()) == ["1.0123456789abc", "5.0123456789ab", "mine"]
    left = sorted(path.name for path in tmp_path.iterdir() if path.name.startswith("."))
    assert left == [".notes.12.0123abcd", ".run.json.12.0123abcd.txt", ".run.json.bak", STATE]


def test_a_run_beside_the_users_own_files_leaves_them(small_labelled_slides, untrained_model, tmp_path):
    for name in ("notes.txt", "a.svs", "checkpoints.txt"):
        (tmp_path / name).write_text("mine")
    with contextlib.suppress(TnetError):
        tnet_cli.classify(small_labelled_slides, out=tmp_path, model=untrained_model, overlay=False)
    assert (tmp_path / PREDICTIONS).is_file()
    assert {(tmp_path / name).read_text() for name in ("notes.txt", "a.svs", "checkpoints.txt")} == {"mine"}
