"""A whole evaluation: how often it looks at slides, what it calibrates on, and what an interruption leaves."""

import csv
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from tnet_cli.errors import InterruptedRunError
from tnet_cli.evaluation.request import EvaluateRequest
from tnet_cli.evaluation.run import run_evaluation
from tnet_cli.inference.progress import Progress
from tnet_cli.inputs.inputs import SlideInput
from tnet_cli.modelfile.modelfile import load_model
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
    assert report.judged == 2
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
