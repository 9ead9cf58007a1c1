"""An evaluation that is ended anywhere goes on: what is kept is not looked at again, and the results are the same."""

import csv
import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.fatal_slides import make_slides_fatal
from tests.model_files import save_random, tiny_network
from tnet_cli.classification.run import RunRequest, run_classify
from tnet_cli.errors import InterruptedRunError, RunStoppedError, UsageError
from tnet_cli.evaluation.request import EvaluateRequest
from tnet_cli.evaluation.run import run_evaluation
from tnet_cli.files import read_record
from tnet_cli.inference.progress import Progress
from tnet_cli.slide.slide import Slide

CHANGES_EACH_TIME = {".tnet", "run.json", "arms.csv", "predictions.csv", "predictions_random.csv"}
"""What these files say of time and date."""


class Ending(Progress):
    """Counts the slides that are looked at, and interrupts the run after some of them."""

    def __init__(self, after: int | None = None) -> None:
        self.after = after
        self.announced = 0
        self.slides: list[str] = []

    def start(self, slides: int, introduction: str) -> None:
        self.announced = slides

    def slide_done(self, row: Mapping[str, Any]) -> None:
        self.slides.append(str(row["slide"]))
        if len(self.slides) == self.after:
            raise KeyboardInterrupt


@pytest.fixture
def labelled(entries, tmp_path: Path) -> Path:
    """A manifest of two slides to judge, one of them annotated, and two to calibrate on."""
    rows = []
    for entry, split in zip(entries, ("test", "test", "validation", "validation"), strict=True):
        slide = Path(shutil.copy(entry.path, tmp_path))
        row = {"slide": slide.name, "label": entry.label, "split": split, "annotation": ""}
        if split == "test" and entry.label == "lesion":
            row["annotation"] = Path(shutil.copy(entry.annotation, tmp_path)).name
        rows.append(row)
    return write(tmp_path / "labels.csv", rows)


def write(path: Path, rows: list[dict[str, str]]) -> Path:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    return path


@pytest.fixture
def request_of(labelled: Path, tiny_model, tmp_path: Path):
    """The request of an evaluation with everything in it: eight looks at slides."""

    def made(**changes: Any) -> EvaluateRequest:
        asked = EvaluateRequest(
            manifest=labelled,
            model=str(tiny_model().path),
            out=tmp_path / "out",
            arms=("tnet", "random"),
            budgets=(2, 4),
            calibrate="validation",
            bootstrap=10,
            device="cpu",
        )
        return replace(asked, **changes)

    return made


def files_in(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in out.iterdir() if path.name not in CHANGES_EACH_TIME}


def predictions(out: Path, name: str = "predictions.csv") -> list[dict[str, str]]:
    with (out / name).open(newline="") as file:
        return [row | {"seconds": ""} for row in csv.DictReader(file)]


def test_the_same_command_goes_on_and_ends_as_if_undisturbed(request_of, tmp_path, monkeypatch):
    undisturbed = Ending()
    run_evaluation(request_of(out=tmp_path / "whole"), undisturbed)
    assert undisturbed.announced == len(undisturbed.slides) == 2 + 2 * 3
    looked_at: list[str] = []
    for after in (1, 2, 1, 3, None):
        run = Ending(after)
        if after is None:
            run_evaluation(request_of(), run)
        else:
            with pytest.raises(InterruptedRunError, match=r"^interrupted; \d of 8 rows are done and kept; run the"):
                run_evaluation(request_of(), run)
            assert not (tmp_path / "out" / "metrics.json").exists()
            assert read_record(tmp_path / "out" / "run.json")["finished"] is None
        assert run.announced == 8 - len(looked_at)
        looked_at += run.slides
    assert looked_at == undisturbed.slides
    assert files_in(tmp_path / "out") == files_in(tmp_path / "whole")
    for name in ("predictions.csv", "predictions_random.csv"):
        assert predictions(tmp_path / "out", name) == predictions(tmp_path / "whole", name)

    def unexpected(self: Slide, _max_px: int) -> None:
        raise AssertionError(f"{self.path} is read again")

    # A slide that is opened is prepared, which takes its thumbnail.
    monkeypatch.setattr(Slide, "thumbnail", unexpected)
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir() if path.is_file()}
    again = Ending()
    run_evaluation(request_of(), again)
    assert (again.announced, again.slides) == (0, [])
    after_it = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir() if path.is_file()}
    assert after_it | {"run.json": b""} == before | {"run.json": b""}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"seed": 1}, "--seed 0 instead of 1"),
        ({"arms": ("tnet", "coarse")}, "--arms tnet,random instead of tnet,coarse"),
        ({"budgets": (2,)}, "--budgets 2,4 instead of 2"),
        ({"budgets": ()}, "--budgets 2,4 instead of not given"),
        ({"calibrate": None}, "--calibrate validation instead of not given"),
        ({"model": "another"}, "made with another model"),
    ],
)
def test_another_option_or_model_is_refused_by_name(request_of, tmp_path, change, said):
    if change.get("model"):
        change = {"model": str(save_random(tmp_path, tiny_network(), seed=6, name="another"))}
    with pytest.raises(InterruptedRunError):
        run_evaluation(request_of(), Ending(1))
    before = files_in(tmp_path / "out")
    with pytest.raises(UsageError, match=said):
        run_evaluation(request_of(**change))
    assert files_in(tmp_path / "out") == before


def test_another_evaluation_replaces_all_where_that_is_asked_for(request_of, tmp_path):
    run_evaluation(request_of())
    run_evaluation(request_of(arms=("random",), budgets=(), calibrate=None, seed=1, overwrite=True))
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert not names & {"predictions_random.csv", "curve.csv", "accuracy_by_locations.png"}
    run = Ending()
    run_evaluation(request_of(arms=("random",), budgets=(), calibrate=None, seed=1), run)
    assert run.slides == []


def test_the_folder_of_one_command_is_not_anothers(request_of, tmp_path, entries):
    asked = request_of(arms=("coarse",), budgets=(), calibrate=None)
    run_evaluation(asked)
    slide = str(entries[0].path)
    with pytest.raises(UsageError, match=r"holds .* of a run of tnet evaluate"):
        run_classify(RunRequest(inputs=[slide], out=asked.out, model=asked.model, device="cpu"))
    run_classify(RunRequest(inputs=[slide], out=tmp_path / "classified", model=asked.model, device="cpu"))
    with pytest.raises(UsageError, match=r"holds .* of a run of tnet classify"):
        run_evaluation(replace(asked, out=tmp_path / "classified"))


def test_labels_and_annotations_that_have_changed_count(request_of, labelled, tmp_path):
    asked = request_of(arms=("coarse",), budgets=(), calibrate=None)
    first = run_evaluation(asked)
    with labelled.open(newline="") as file:
        rows = list(csv.DictReader(file))
    other = {"lesion": "benign", "benign": "lesion"}
    write(labelled, [row | {"label": other[row["label"]]} for row in rows])
    run = Ending()
    swapped = run_evaluation(asked, run)
    assert run.slides == []
    assert first.accuracy.value is not None
    assert swapped.accuracy.value == pytest.approx(1 - first.accuracy.value)
    (annotated,) = [row for row in rows if row["annotation"]]
    drawn = tmp_path / annotated["annotation"]
    drawn.write_text(drawn.read_text() + " ")
    run = Ending()
    run_evaluation(asked, run)
    assert run.slides == [Path(annotated["slide"]).stem]


def test_features_that_are_lost_are_taken_again(request_of, tmp_path):
    asked = request_of(arms=("tnet",), budgets=())
    run_evaluation(asked)
    whole = files_in(tmp_path / "out")
    kept = sorted((tmp_path / "out" / ".tnet" / "features").iterdir())
    assert len(kept) == 2
    kept[0].unlink()
    kept[1].write_bytes(kept[1].read_bytes()[:-5])
    run = Ending()
    run_evaluation(asked, run)
    assert len(run.slides) == 2
    assert files_in(tmp_path / "out") == whole


@pytest.mark.slow
def test_a_slide_that_ends_the_process_is_a_failed_row_of_every_arm(labelled, tiny_model, tmp_path, monkeypatch):
    make_slides_fatal(tmp_path / "site", monkeypatch)
    with labelled.open(newline="") as file:
        rows = [row | {"annotation": ""} for row in csv.DictReader(file) if row["split"] == "test"]
    shutil.copy(tmp_path / rows[0]["slide"], tmp_path / "fatal.tif")
    write(labelled, [rows[0] | {"slide": "fatal.tif"}, *rows])
    where = ["-m", str(tiny_model().path), "-o", str(tmp_path / "out"), "--device", "cpu"]
    command = [sys.executable, "-m", "tnet_cli", "evaluate", str(labelled), *where, "--arms", "tnet,coarse"]
    assert subprocess.run(command, capture_output=True, check=False).returncode == -signal.SIGABRT
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ran.returncode == 6, ran.stderr
    assert "reading it ended the process that read it alone" in ran.stderr
    for name in ("predictions.csv", "predictions_coarse.csv"):
        assert [row["status"] for row in predictions(tmp_path / "out", name)] == ["failed", "ok", "ok"]
    document = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert [row["slide"] for row in document["failed"]] == ["fatal"]


def test_a_disk_that_cannot_be_written_is_a_sentence_and_then_it_goes_on(request_of, tmp_path):
    out = tmp_path / "out"

    class Blocking(Ending):
        def slide_done(self, row: Mapping[str, Any]) -> None:
            (out / "roc.png").mkdir(exist_ok=True)

    asked = request_of(arms=("coarse",), budgets=(), calibrate=None)
    with pytest.raises(RunStoppedError, match=r"out: cannot be written any more: .*; 2 of 2 slides are done and kept"):
        run_evaluation(asked, Blocking())
    assert [row["status"] for row in predictions(out)] == ["ok", "ok"]
    (out / "roc.png").rmdir()
    run = Ending()
    run_evaluation(asked, run)
    assert run.slides == []
    assert (out / "roc.png").is_file()


@pytest.mark.slow
def test_told_to_end_it_keeps_what_is_done(request_of, tmp_path):
    asked = request_of()
    what = ["--arms", "tnet,random", "--budgets", "2,4", "--calibrate", "validation", "--bootstrap", "10"]
    where = ["-m", asked.model, "-o", str(asked.out), "--device", "cpu"]
    command = [sys.executable, "-m", "tnet_cli", "evaluate", str(asked.manifest), *where, *what]
    ledger = asked.out / ".tnet" / "ledger.jsonl"
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        while process.poll() is None and not (ledger.exists() and b'"row"' in ledger.read_bytes()):
            time.sleep(0.02)
        process.terminate()
        out, err = process.communicate()
    assert process.returncode == 143, err
    assert out == ""
    (said,) = [line for line in err.splitlines() if line.startswith("tnet: ")]
    assert said.startswith("tnet: ended by SIGTERM; ")
    assert said.endswith(" of 8 rows are done and kept; run the same command again to go on")
    run = Ending()
    run_evaluation(asked, run)
    assert run.announced == len(run.slides) < 8
