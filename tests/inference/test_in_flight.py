"""Several slides at once: neither how many, nor the batch, nor the threads change what is said of a slide."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tnet_cli.inference.classify import EngineOptions, classify_slides
from tnet_cli.inference.engine import drive
from tnet_cli.inputs.inputs import SlideInput
from tnet_cli.modelfile.modelfile import load_model
from tnet_cli.places import Place
from tnet_cli.results.result import SlideResult
from tnet_cli.slide.slide import Slide
from tnet_cli.slide.tiff_backend import TiffSlide


@pytest.fixture(scope="module")
def entries(drawn_slide, tmp_path_factory: pytest.TempPathFactory) -> list[SlideInput]:
    slides = [drawn_slide(seed=seed) for seed in (4, 5, 6)]
    cut = tmp_path_factory.mktemp("cut") / "3.tif"
    cut.write_bytes(slides[0].read_bytes()[:60_000])
    return [SlideInput(path=Place(path), name=str(number)) for number, path in enumerate([*slides, cut])]


@pytest.fixture(scope="module")
def classify(entries: list[SlideInput], untrained_model: Path) -> Callable[..., list[SlideResult]]:
    def run(**options) -> list[SlideResult]:
        results = classify_slides(entries, load_model(untrained_model), engine=EngineOptions(**options))
        return [result for _, result in sorted(results, key=lambda ended: ended[0])]

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
    is_open: set[int] = set()
    most = [0]
    really_begin, really_close = Slide.__init__, TiffSlide.close

    def begin(slide, *args, **kwargs):
        really_begin(slide, *args, **kwargs)
        is_open.add(id(slide))
        most[0] = max(most[0], len(is_open))

    def close(slide):
        is_open.discard(id(slide))
        really_close(slide)

    monkeypatch.setattr(Slide, "__init__", begin)
    monkeypatch.setattr(TiffSlide, "close", close)
    engine = EngineOptions(slides_in_flight=2, readers=4, device=torch.device("cpu"))
    taken: list[int] = []

    def asked_for():
        for number, entry in enumerate(entries * 2):
            taken.append(number)
            yield entry

    ended: list[SlideResult] = []
    for _, result in classify_slides(asked_for(), load_model(untrained_model), engine=engine):
        ended.append(result)
        assert len(taken) <= len(ended) + 2
    assert len(ended) == 8
    assert most[0] == 2
    assert not is_open
