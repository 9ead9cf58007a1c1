"""What a run keeps, and what need not be done again: every reason for which a slide is done once more."""

import csv
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from tests.results.runs_made_by_hand import done, failed_result
from tnet_cli.errors import InterruptedRunError, RunStoppedError, UsageError
from tnet_cli.inputs.fingerprint import fingerprint_of
from tnet_cli.inputs.inputs import SlideInput
from tnet_cli.inputs.names import OVERLAY
from tnet_cli.inputs.options import TraversalOptions
from tnet_cli.places import Place
from tnet_cli.results.layout import FAILURES, PREDICTIONS, RunDirectory
from tnet_cli.results.ledger import RunIdentity
from tnet_cli.results.resume import opened_store

CLASSES = ("benign", "lesion")
IDENTITY = RunIdentity("ab" * 32, TraversalOptions().record((2, 3)))


@pytest.fixture
def inputs(tmp_path: Path) -> list[SlideInput]:
    (tmp_path / "in").mkdir()
    entries = [SlideInput(path=Place(tmp_path / "in" / f"{name}.svs"), name=name) for name in "abc"]
    for entry in entries:
        Path(entry.path).write_text(entry.name)
    return entries


@contextmanager
def store_of(tmp_path: Path, inputs, identity=IDENTITY, **options):
    with opened_store(RunDirectory(tmp_path / "out"), identity, inputs, CLASSES, **options) as store:
        yield store


def keep_all(store, inputs, *, overlay: bytes | None = b"png") -> None:
    for position in list(store.pending):
        entry = inputs[position]
        result = failed_result(entry.name) if entry.name == "c" else done(entry.name)
        row = store.directory.write_slide(
            replace(result, path=entry.shown_path), {OVERLAY: overlay} if overlay and result.status == "ok" else {}
        )
        store.keep(position, row, fingerprint_of(entry.path))


def pending(tmp_path: Path, inputs, **options) -> list[str]:
    with store_of(tmp_path, inputs, **options) as store:
        return [inputs[position].name for position in store.pending]


@pytest.fixture
def run(tmp_path: Path, inputs) -> Path:
    with store_of(tmp_path, inputs) as store:
        assert [store.pending, store.skipped] == [[0, 1, 2], 0]
        keep_all(store, inputs)
    return tmp_path / "out"


def test_tables_hold_every_row_and_failures_are_a_manifest(run, inputs):
    with (run / PREDICTIONS).open(newline="") as file:
        assert [row["status"] for row in csv.DictReader(file)] == ["ok", "ok", "failed"]
    with (run / FAILURES).open(newline="") as file:
        (row,) = csv.DictReader(file)
    assert row["slide"] == inputs[2].shown_path
    assert "no such file" in row["error"]


def test_only_what_failed_is_tried_again(run, tmp_path, inputs):
    with store_of(tmp_path, inputs) as store:
        assert (store.pending, store.skipped) == ([2], 2)
        assert [row.values["slide"] for row in store.rows()] == ["a", "b"]


def change_slide(run: Path, inputs) -> None:
    Path(inputs[0].path).write_text("another slide")


def remove_a_file(run: Path, inputs) -> None:
    (run / "slides" / "a" / "regions.csv").unlink()


def cut_a_file(run: Path, inputs) -> None:
    (run / "slides" / "a" / "result.json").write_text("{}")


@pytest.mark.parametrize("happens", [change_slide, remove_a_file, cut_a_file])
def test_what_changed_or_lacks_a_file_is_done_again(run, tmp_path, inputs, happens):
    happens(run, inputs)
    assert pending(tmp_path, inputs) == ["a", "c"]


def test_another_scale_in_the_manifest_and_a_missing_overlay_are_reasons_too(run, tmp_path, inputs):
    assert pending(tmp_path, [replace(inputs[0], mpp=0.5), *inputs[1:]]) == ["a", "c"]
    assert pending(tmp_path, inputs, with_pictures=[OVERLAY]) == ["c"]
    with store_of(tmp_path, inputs, overwrite=True) as store:
        keep_all(store, inputs, overlay=None)
    assert pending(tmp_path, inputs) == ["c"]
    assert pending(tmp_path, inputs, with_pictures=[OVERLAY]) == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("options", "model", "said"),
    [
        ({"budget": 9}, "ab", "--budget not given instead of 9"),
        ({"locations": (4, 5)}, "ab", "--locations 2,3 instead of 4,5"),
        ({"stop_at": 0.1}, "ab", "--stop-at not given instead of 0.1"),
        ({}, "cd", "another model"),
    ],
)
def test_results_of_other_options_are_not_lost(run, tmp_path, inputs, options, model, said):
    other = RunIdentity(model * 32, TraversalOptions(**options).record((2, 3)))
    with pytest.raises(UsageError, match=f"holds results made with {said}"):
        pending(tmp_path, inputs, identity=other)
    assert pending(tmp_path, inputs, identity=other, overwrite=True) == ["a", "b", "c"]


def test_slides_that_are_not_given_again_are_not_lost(run, tmp_path, inputs):
    with pytest.raises(
        UsageError, match=r"holds the results of another run \(1 slides not in this one, such as .*b.svs"
    ):
        pending(tmp_path, [inputs[0], inputs[2]])


@pytest.mark.parametrize(
    ("ends", "error", "said"),
    [
        (KeyboardInterrupt(), InterruptedRunError, "interrupted; 1 of 3 slides are done and kept"),
        (
            OSError(28, "No space left on device"),
            RunStoppedError,
            "cannot be written any more: No space left",
        ),
    ],
)
def test_whatever_ends_a_run_its_tables_are_whole(tmp_path, inputs, ends, error, said):
    def write_one_and_end() -> None:
        with store_of(tmp_path, inputs) as store:
            store.keep(1, store.directory.write_slide(replace(done("b"), path=inputs[1].shown_path), {}), None)
            raise ends

    with pytest.raises(error, match=said):
        write_one_and_end()
    with (tmp_path / "out" / PREDICTIONS).open(newline="") as file:
        assert [row["slide"] for row in csv.DictReader(file)] == ["b"]


def test_a_second_run_in_the_folder_is_refused_while_the_first_holds_it(tmp_path, inputs):
    refused = pytest.raises(UsageError, match=r"another run is writing there \(process \d+ on ")
    with store_of(tmp_path, inputs), refused:
        pending(tmp_path, inputs)
    assert pending(tmp_path, inputs) == ["a", "b", "c"]
