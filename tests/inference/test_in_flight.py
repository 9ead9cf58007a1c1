"""Several slides at once: neither how many, nor the batch, nor the threads change what is said of a slide."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tests.cli.conftest import untrained_model
from tnet_cli.inference import slide_task as slide_work
from tnet_cli.inference.classify import ClassifyOptions, Outcome, classify_slides
from tnet_cli.inference.engine import drive
from tnet_cli.inputs.inputs import SlideInput
from tnet_cli.modelfile.modelfile import load_model
from tnet_cli.results.result import SlideResult
from tnet_cli.slide.opening import open_slide
from tnet_cli.synth.synthesis import write_synthetic_slide

__all__ = ["untrained_model"]


@pytest.fixture(scope="module")
def entries(tmp_path_factory: pytest.TempPathFactory) -> list[SlideInput]:
    folder = tmp_path_factory.mktemp("several")
    for seed in range(3):
        write_synthetic_slide(folder / f"{seed}.tif", seed=seed, side_px=1600, label="lesion", workers=1)
    (folder / "3.tif").write_bytes((folder / "0.tif").read_bytes()[:60_000])
    return [SlideInput(path=str(folder / f"{number}.tif"), name=str(number)) for number in range(4)]


@pytest.fixture(scope="module")
def classify(entries: list[SlideInput], untrained_model: Path) -> Callable[..., list[SlideResult]]:
    def run(**options) -> list[SlideResult]:
        outcomes = classify_slides(entries, load_model(untrained_model), ClassifyOptions(**options))
        return [outcome.result for _, outcome in sorted(outcomes, key=lambda ended: ended[0])]

    return run


def test_what_is_said_of_a_slide_does_not_depend_on_the_others(classify):
    alone = classify(slides_in_flight=1, readers=1)
    assert [result.status for result in alone] == ["ok", "ok", "ok", "failed"]
    for in_flight in (2, 4):
        together = classify(slides_in_flight=in_flight, readers=3)
        for result, other in zip(alone, together, strict=True):
            assert result.row() | {"seconds": 0} == other.row() | {"seconds": 0}
            assert result.regions == other.regions
    for batch_size in (1, 5):
        for result, other in zip(alone, classify(slides_in_flight=2, batch_size=batch_size), strict=True):
            assert other.logits == pytest.approx(result.logits, abs=1e-5)
            assert other.probabilities == pytest.approx(result.probabilities, abs=1e-5)
            assert [region.region for region in other.regions] == [region.region for region in result.regions]


def test_nor_where_batches_are_filled_from_all_slides(classify, monkeypatch: pytest.MonkeyPatch):
    by_slide = classify(slides_in_flight=1)

    def drive_as_on_a_gpu(*args, **options):
        return drive(*args, **options | {"batching": "ready"})

    monkeypatch.setattr("tnet_cli.inference.classify.drive", drive_as_on_a_gpu)
    for in_flight, batch_size in ((1, 8), (4, 8), (4, 3)):
        for result, other in zip(by_slide, classify(slides_in_flight=in_flight, batch_size=batch_size), strict=True):
            assert other.probabilities == pytest.approx(result.probabilities, abs=1e-5)
            assert [region.region for region in other.regions] == [region.region for region in result.regions]


def test_no_more_slides_are_open_than_asked(entries, untrained_model, monkeypatch: pytest.MonkeyPatch):
    is_open: set[object] = set()
    most = [0]

    def counted(path, **options):
        slide = open_slide(path, **options)
        is_open.add(slide)
        most[0] = max(most[0], len(is_open))
        really_close = slide.close

        def close() -> None:
            is_open.discard(slide)
            really_close()

        monkeypatch.setattr(slide, "close", close)
        return slide

    monkeypatch.setattr(slide_work, "open_slide", counted)
    options = ClassifyOptions(slides_in_flight=2, readers=4, device=torch.device("cpu"))
    taken: list[int] = []

    def asked_for():
        for number, entry in enumerate(entries * 2):
            taken.append(number)
            yield entry

    ended: list[Outcome] = []
    for _, outcome in classify_slides(asked_for(), load_model(untrained_model), options):
        ended.append(outcome)
        assert len(taken) <= len(ended) + 2
    assert len(ended) == 8
    assert most[0] == 2
    assert not is_open
