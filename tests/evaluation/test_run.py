"""A whole evaluation: how often it looks at slides, what it calibrates on, and what an interruption leaves."""

import csv
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch
from scipy.ndimage import gaussian_filter

from tests.tiny_training import Told
from tnet_cli.errors import InterruptedRunError
from tnet_cli.evaluation.request import EvaluateRequest
from tnet_cli.evaluation.run import EvaluationReport, run_evaluation
from tnet_cli.inference.progress import Progress
from tnet_cli.inputs.inputs import SlideInput
from tnet_cli.model.domain import FeatureDomain
from tnet_cli.modelfile.card import DomainLimits
from tnet_cli.modelfile.modelfile import copy_model, load_model
from tnet_cli.places import Place
from tnet_cli.slide.slide import Slide


class Counting(Progress):
    """Counts slides and patches."""

    def __init__(self) -> None:
        self.announced = 0
        self.rows: list[Mapping[str, Any]] = []
        self.patches = 0

    def start(self, slides: int, introduction: str) -> None:
        self.announced = slides

    def slide_done(self, row: Mapping[str, Any]) -> None:
        self.rows.append(row)

    def look(self, processing_level: int, patches: int) -> None:
        self.patches += patches


def manifest(path: Path, splits: Mapping[str, Sequence[SlideInput]]) -> Path:
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["slide", "label", "split"])
        writer.writerows(
            [entry.shown_path, entry.label, split] for split, entries in splits.items() for entry in entries
        )
    return path


@pytest.fixture
def calibrating(entries, tmp_path) -> Path:
    """A manifest of two slides to judge and eight to calibrate on, as many as a domain needs."""
    copies = []
    for number in range(8):
        entry = entries[number % 4]
        copy = shutil.copy(entry.path, tmp_path / f"{number}.tif")
        copies.append(SlideInput(Place(copy), str(number), label=entry.label))
    return manifest(tmp_path / "labels.csv", {"test": entries[:2], "validation": copies})


@pytest.mark.parametrize(("arm", "passes"), [("tnet", 1), ("random", 2)])
def test_calibration_opens_each_slide_once_for_each_arm(calibrating, tiny_model, tmp_path, monkeypatch, arm, passes):
    prepared: Counter[str] = Counter()
    read_thumbnail = Slide.thumbnail

    def counting_thumbnail(self: Slide, max_px: int):
        prepared[Path(self.path).name] += 1
        return read_thumbnail(self, max_px)

    # A slide that is opened is prepared, which takes its thumbnail.
    monkeypatch.setattr(Slide, "thumbnail", counting_thumbnail)
    counted = Counting()
    request = EvaluateRequest(
        manifest=calibrating,
        model=str(tiny_model().path),
        out=tmp_path / "out",
        arms=(arm,),
        calibrate="validation",
        bootstrap=0,
        device="cpu",
    )
    report = run_evaluation(request, counted)
    assert report.judged + report.abstained == 2
    assert counted.announced == len(counted.rows) == 2 + 8 * passes
    assert counted.patches == sum(row["roots"] + row["locations"] for row in counted.rows)
    # The domain is of what the model attends, so another arm is not enough to fit it.
    assert prepared == {f"{number}.tif": passes for number in range(8)} | Counter(
        Path(row["path"]).name for row in counted.rows if row["split"] == "test"
    )
    card = load_model(tmp_path / "out" / "model.safetensors").card
    assert card.domain is not None
    assert card.domain.slides == 8


def test_an_interruption_keeps_what_was_finished(entries, tiny_model, tmp_path):
    class Interrupting(Progress):
        def slide_done(self, row: Mapping[str, Any]) -> None:
            raise KeyboardInterrupt

    listed = manifest(tmp_path / "labels.csv", {"": entries})
    request = EvaluateRequest(manifest=listed, model=str(tiny_model().path), out=tmp_path / "out", device="cpu")
    with pytest.raises(
        InterruptedRunError, match=r"^interrupted; 1 of 4 slides are done and kept; run the same"
    ) as caught:
        run_evaluation(request, Interrupting())
    assert caught.value.exit_code == 130
    with (tmp_path / "out" / "predictions.csv").open(newline="") as file:
        assert [row["status"] for row in csv.DictReader(file)] == ["ok"]
    assert not (tmp_path / "out" / "metrics.json").exists()


def test_slides_without_an_answer_are_a_column_and_accuracy_stands_beside_coverage(entries, tiny_model, tmp_path):
    # One slide is too coarse for the finest view of 1 µm per pixel.
    listed = tmp_path / "labels.csv"
    with listed.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["slide", "label", "mpp"])
        writer.writerows([entry.shown_path, entry.label, 1.3 if at == 1 else 1.0] for at, entry in enumerate(entries))
    request = EvaluateRequest(
        manifest=listed, model=str(tiny_model().path), out=tmp_path / "out", bootstrap=0, device="cpu"
    )
    report = run_evaluation(request)
    assert (report.judged, report.abstained) == (3, 1)
    assert "3 slides judged, 1 without an answer that counts; " in report.line()
    document = report.record
    assert (document["slides"]["judged"], document["slides"]["abstained"]) == (3, 1)
    assert [(each["qc"], each["path"]) for each in document["abstained"]] == [("too_coarse", entries[1].shown_path)]
    assert document["coverage"]["value"] == 0.75
    with (tmp_path / "out" / "predictions.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert (rows[1]["status"], rows[1]["prediction"]) == ("abstained", "")
    best = ["benign" if float(row["prob_benign"]) >= 0.5 else "lesion" for row in rows]
    right = [name == row["label"] for name, row in zip(best, rows, strict=True)]
    assert document["accuracy"]["value"] == pytest.approx((sum(right) - right[1]) / 3, abs=1e-5)
    assert document["accuracy_anyway"]["value"] == sum(right) / 4
    with (tmp_path / "out" / "arms.csv").open(newline="") as file:
        (arm,) = csv.DictReader(file)
    assert (arm["judged"], arm["abstained"], arm["coverage"]) == ("3", "1", "0.75")
    assert (tmp_path / "out" / "accuracy_by_coverage.png").stat().st_size > 1000


def test_what_the_reader_of_a_slide_doubts_is_told_once_for_all_arms(entries, tiny_model, tmp_path):
    doubtful = tmp_path / "doubtful.tif"
    shutil.copy(entries[0].path, doubtful)
    with tifffile.TiffFile(doubtful, mode="r+") as file:
        page = file.pages[0]
        assert isinstance(page, tifffile.TiffPage)
        page.tags["TileByteCounts"].overwrite([0, *page.databytecounts[1:]])
    listed = manifest(tmp_path / "labels.csv", {"": [replace(entries[0], path=Place(doubtful)), entries[1]]})
    request = EvaluateRequest(
        manifest=listed, model=str(tiny_model().path), out=tmp_path / "out", arms=("tnet", "random"), device="cpu"
    )
    told = Told()
    run_evaluation(replace(request, bootstrap=0), told)
    (said,) = [note for note in told.notes if "doubtful" in note]
    assert said.startswith(f"{doubtful}: the file lacks 1 of ")


def test_calibration_fits_anew_what_has_an_answer(calibrating, tiny_model, tmp_path):
    """The limits of an earlier calibration, which leave nothing, keep no slide out of the next."""
    narrow = tmp_path / "narrow.safetensors"
    model = tiny_model()
    domain = [FeatureDomain.fit(torch.randn(9, model.network.feature.feature_length)) for _ in range(3)]
    limits = DomainLimits(limits=(1e-3,) * 3, slides=8)
    card = model.card.model_copy(update={"domain": limits, "least_sharpness": 0.99})
    copy_model(model.path, card, narrow, domain=domain)
    request = EvaluateRequest(
        manifest=calibrating, model=str(narrow), out=tmp_path / "out", calibrate="validation", bootstrap=0, device="cpu"
    )
    report = run_evaluation(request)
    assert (report.judged, report.abstained) == (2, 0)
    assert report.record["fit"]["judged"] == 8
    fitted = load_model(tmp_path / "out" / "model.safetensors").card
    assert fitted.domain is not None
    assert min(fitted.domain.limits) > 0.1
    assert 0.05 < (fitted.least_sharpness or 0) < 0.5
    assert len(fitted.bias) == 2


def test_a_calibration_says_what_the_model_that_it_saves_says(calibrating, entries, tiny_model, tmp_path):
    """The limits that were fitted decide, for all arms and points, and again when they are fitted to other slides."""
    with tifffile.TiffFile(entries[2].path) as file:
        pixels = file.asarray()
    noise = np.random.default_rng(0).integers(0, 256, pixels.shape, dtype=np.uint8)
    for name, changed in (("blurred", gaussian_filter(pixels, (3, 3, 0))), ("noise", noise)):
        path, scale = tmp_path / f"{name}.tif", (10_000, 10_000)
        tifffile.imwrite(path, changed, photometric="rgb", tile=(256, 256), resolution=scale, resolutionunit=3)
        with calibrating.open("a", newline="") as file:
            csv.writer(file).writerow([f"{name}.tif", entries[2].label, "test"])
    request = EvaluateRequest(
        manifest=calibrating,
        model=str(tiny_model().path),
        out=tmp_path / "out",
        arms=("tnet", "random"),
        budgets=(7,),
        bootstrap=0,
        device="cpu",
    )

    def said(report: EvaluationReport) -> list[Any]:
        of_arms = [{**each, "looks_at": None} for each in (*report.record["arms"], *report.record["curve"])]
        tables = [(report.out / name).read_text() for name in ("predictions.csv", "predictions_random.csv")]
        rows = [{**row, "seconds": None} for table in tables for row in csv.DictReader(table.splitlines())]
        return [of_arms, rows, *(report.record[name] for name in ("abstained", "coverage", "accuracy", "calibration"))]

    fitted = run_evaluation(replace(request, calibrate="validation"))
    saved = run_evaluation(replace(request, model=str(tmp_path / "out" / "model.safetensors"), out=tmp_path / "again"))
    assert (fitted.judged, fitted.abstained) == (2, 2)
    assert [each["qc"] for each in fitted.record["abstained"]] == ["unsharp", "out_of_domain"]
    assert said(fitted) == said(saved)
    assert fitted.record["curve"][0]["abstained"] == 2

    counted = Counting()
    run_evaluation(replace(request, calibrate="validation"), counted)
    assert counted.rows == []
    # With one slide less to calibrate on, no limits are fitted, and the model has none of its own.
    (tmp_path / "7.tif").write_bytes(b"")
    without = run_evaluation(replace(request, calibrate="validation"), counted)
    assert len(counted.rows) == 1 + 4 * 3
    assert (without.judged, without.abstained) == (4, 0)
