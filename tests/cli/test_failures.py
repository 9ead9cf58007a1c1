"""Failure is a row: whatever happens to one slide, its row says so in a sentence and the others are done."""

import csv
import errno
import os
import shutil
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image

from tests.full_disk import files_end_at
from tnet_cli.results.layout import RunDirectory
from tnet_cli.slide.slide import Slide


@pytest.fixture(scope="module")
def small(drawn_slide):
    return drawn_slide()


def rows_of(out: Path) -> dict[str, dict[str, str]]:
    with (out / "predictions.csv").open(newline="") as file:
        return {row["slide"]: row for row in csv.DictReader(file)}


@pytest.fixture
def faulty(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Have slides of some names go wrong where the system, a library or a reader would."""
    go_on = threading.Event()
    really_open, really_begin, really_read = Path.open, tifffile.TiffFile.__init__, Slide.read
    reads = Counter[str]()

    def denied(path, *args, **kwargs):
        if path.stem == "denied":
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)
        return really_open(path, *args, **kwargs)

    def begin(tif, file, **kwargs):
        if Path(str(file)).stem == "hangs_opening":
            go_on.wait(60)
        if Path(str(file)).stem == "bug_opening":
            raise SyntaxError("a page of\nanother kind")
        really_begin(tif, file, **kwargs)

    faults = {
        "memory": MemoryError(),
        "device": torch.OutOfMemoryError("CUDA out of memory"),
        "bug": KeyError("quantisation table 3"),
        "hangs": AssertionError("nobody waits for this"),
    }

    def read(slide, region, width_px, height_px):
        name = Path(slide.path).stem
        reads[name] += 1
        if name not in faults or reads[name] == 1:  # the first is the thumbnail
            return really_read(slide, region, width_px, height_px)
        if name == "hangs":
            go_on.wait(60)
        raise faults[name]

    monkeypatch.setattr(Path, "open", denied)
    monkeypatch.setattr(tifffile.TiffFile, "__init__", begin)
    monkeypatch.setattr(Slide, "read", read)
    yield
    go_on.set()


def test_each_failure_is_a_row_with_a_sentence_and_the_rest_goes_on(tnet, small, untrained_model, tmp_path, faulty):
    whole = small.read_bytes()
    (tmp_path / "truncated.tif").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "corrupt.svs").write_bytes(bytes(range(256)) * 40)
    (tmp_path / "empty.svs").touch()
    Image.new("RGB", (1500, 1200), (200, 120, 160)).save(tmp_path / "no_mpp.png")
    (tmp_path / "manifest.csv").write_text("slide,mpp\nglass.png,0.5\n")
    Image.fromarray(np.full((1200, 1500, 3), 243, np.uint8)).save(tmp_path / "glass.png")
    for name in ("denied", "bug_opening", "hangs_opening", "memory", "bug", "hangs", "device", "good"):
        shutil.copy(small, tmp_path / f"{name}.tif")
    named = ["truncated.tif", "corrupt.svs", "empty.svs", "no_mpp.png", "denied.tif", "gone.tif", "bug_opening.tif"]
    named += ["hangs_opening.tif", "memory.tif", "bug.tif", "hangs.tif", "device.tif", "good.tif"]
    started = time.monotonic()
    ran = tnet("classify", "manifest.csv", *named, "-m", untrained_model, "--no-overlay", "--slide-timeout", "4")
    assert ran.code == 6
    assert "Traceback" not in ran.err
    assert time.monotonic() - started < 120

    rows = rows_of(tmp_path / "tnet-out")
    assert list(rows) == ["glass", *(Path(name).stem for name in named)]
    assert rows["good"]["status"] == "ok"
    assert (rows["glass"]["status"], rows["glass"]["prediction"]) == ("no_tissue", "")
    said = {name: row["error"] for name, row in rows.items() if row["status"] == "failed"}
    assert len(said) == len(named) - 1
    for name, sentence in said.items():
        assert sentence.startswith(f"{name}."), sentence
        assert "\n" not in sentence
    for name, expected in {
        "truncated": "truncated.tif: ",
        "corrupt": "corrupt.svs: ",
        "empty": "is empty",
        "no_mpp": "--mpp",
        "denied": "cannot be opened: Permission denied",
        "gone": "no such file",
        "bug_opening": "could not be classified: SyntaxError: a page of another kind",
        "hangs_opening": "--slide-timeout",
        "memory": "there is not enough memory for it (MemoryError)",
        "bug": "could not be classified: KeyError: 'quantisation table 3'",
        "hangs": "--slide-timeout",
        "device": "there is not enough memory for it (OutOfMemoryError: CUDA out of memory)",
    }.items():
        assert expected in said[name], said[name]
    with (tmp_path / "tnet-out" / "failures.csv").open(newline="") as file:
        assert [Path(row["slide"]).stem for row in csv.DictReader(file)] == list(said)


def test_fail_fast_keeps_what_is_done(tnet, small, untrained_model, tmp_path):
    shutil.copy(small, tmp_path / "good.tif")
    (tmp_path / "bad.tif").write_bytes(b"II*\0 nothing more")
    more = [f"more{number}.tif" for number in range(12)]
    for name in more:
        shutil.copy(small, tmp_path / name)
    ran = tnet("classify", "good.tif", "bad.tif", *more, "-m", untrained_model, "--no-overlay", "--fail-fast")
    assert ran.code == 6
    rows = rows_of(tmp_path / "tnet-out")
    assert rows["bad"]["status"] == "failed"
    assert len(rows) < len(more)


@pytest.mark.parametrize(("full", "slides"), [("the ledger", 10), ("the files of a slide", 2)])
def test_a_full_disk_ends_the_run_in_a_sentence_and_the_next_goes_on(
    tnet, small, untrained_model, tmp_path, full, slides
):
    names = [f"s{number}.tif" for number in range(slides)]
    for name in names:
        shutil.copy(small, tmp_path / name)
    options = ["-m", untrained_model, "--locations", "1,1,1", "--no-overlay", "--no-report"]
    assert tnet("classify", "s0.tif", *options, "-o", "whole").code == 0
    whole = tmp_path / "whole"
    largest, record = (max(path.stat().st_size for path in whole.glob(name)) for name in ("slides/*/*", "*.json"))
    assert record < largest
    with files_end_at(largest + 100 if full == "the ledger" else (record + largest) // 2):
        ran = tnet("classify", *names, *options)
    assert ran.code == 6
    reason = "No space left on device" if full == "the ledger" else "File too large"
    assert f"tnet-out: cannot be written any more: {reason}; " in ran.err
    assert "make room there and run the same command again" in ran.err
    assert "Traceback" not in ran.err
    out = tmp_path / "tnet-out"
    kept = rows_of(out)
    assert {row["status"] for row in kept.values()} == ({"ok"} if full == "the ledger" else set()), ran.err
    assert len(kept) < slides
    assert list((out / ".tnet" / "drafts").iterdir()) == []
    # A slide may lie there whole whose row had no room any more; none is there by halves.
    assert all(len(list(folder.iterdir())) == 3 for folder in out.glob("slides/*"))

    again = tnet("classify", *names, *options)
    assert again.code == 0
    if kept:
        assert f"{len(kept)} of {slides} slides were done before" in again.err
    assert [row["status"] for row in rows_of(out).values()] == ["ok"] * slides


def test_a_slide_whose_folder_cannot_be_made_fails_alone(tnet, small, untrained_model, tmp_path):
    names = ["a.tif", "b.tif"]
    for name in names:
        shutil.copy(small, tmp_path / name)
    RunDirectory(tmp_path / "tnet-out").make()
    (tmp_path / "tnet-out" / "slides").mkdir()
    (tmp_path / "tnet-out" / "slides" / "a").write_text("the user's own")
    ran = tnet("classify", *names, "-m", untrained_model, "--no-overlay")
    assert ran.code == 6
    rows = rows_of(tmp_path / "tnet-out")
    assert (rows["a"]["status"], rows["b"]["status"]) == ("failed", "ok")
    assert "a.tif: its folder of results cannot be made: tnet-out/slides/a is no folder" in rows["a"]["error"]
    assert (tmp_path / "tnet-out" / "slides" / "a").read_text() == "the user's own"


def test_a_slide_that_cannot_be_drawn_has_failed(tnet, small, untrained_model, tmp_path, monkeypatch):
    def broken(*_args):
        raise ZeroDivisionError("no room for the legend")

    monkeypatch.setattr("tnet_cli.classification.writing.overlay_of", broken)
    ran = tnet("classify", small, "-m", untrained_model)
    assert ran.code == 3
    assert "could not be classified: ZeroDivisionError: no room for the legend" in ran.err
    (row,) = rows_of(tmp_path / "tnet-out").values()
    assert (row["status"], row["prediction"], row["prob_yes"]) == ("failed", "", "")


@pytest.mark.parametrize(
    ("number", "code", "said"),
    [
        (signal.SIGINT, 130, "interrupted"),
        (signal.SIGTERM, 143, "ended by SIGTERM"),
        (signal.SIGHUP, 129, "ended by SIGHUP"),
    ],
)
def test_an_interrupted_run_keeps_what_is_done(tnet, small, untrained_model, tmp_path, monkeypatch, number, code, said):
    names = [f"s{number}.tif" for number in range(7)]
    for name in names:
        shutil.copy(small, tmp_path / name)
    with monkeypatch.context() as patched:

        def interrupted(*_args):
            if number == signal.SIGINT:  # which whoever runs the tests may ignore
                raise KeyboardInterrupt
            signal.raise_signal(number)

        patched.setattr("tnet_cli.cli.terminal.SlideProgress.slide_done", interrupted)
        ran = tnet("classify", *names, "-m", untrained_model, "--no-overlay")
    assert ran.code == code
    assert number == signal.SIGINT or signal.getsignal(number) is signal.SIG_DFL, "what main changed it puts back"
    kept = rows_of(tmp_path / "tnet-out")
    assert {row["status"] for row in kept.values()} == {"ok"}, "whichever slides were the fastest"
    assert ran.out.count("\n") == 1, "what has ended is said before the run has"
    with (tmp_path / "tnet-out" / "report.html").open() as page:
        assert "This run has not ended: it is still going or was interrupted" in page.read()
    assert f"tnet: {said}; {len(kept)} of 7 slides are done and kept" in ran.err
    assert (
        f"{len(kept)} of 7 slides were done before"
        in tnet("classify", *names, "-m", untrained_model, "--no-overlay").err
    )
