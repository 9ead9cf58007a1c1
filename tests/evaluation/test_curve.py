"""The curve in one pass: the same as one run for each budget, each slide opened once, each region read once."""

from contextlib import closing
from typing import Any

import pytest

from tnet_cli.evaluation.arms import classify_by_arm
from tnet_cli.evaluation.curve import CurvePoint, classify_for_curve
from tnet_cli.geometry import Region
from tnet_cli.inference import slide_session
from tnet_cli.inference.classify import EngineOptions
from tnet_cli.inputs.inputs import SlideInput
from tnet_cli.inputs.options import TraversalOptions, read_manifest
from tnet_cli.slide.opening import open_slide
from tnet_cli.slide.slide import Slide
from tnet_cli.synth.synthesis import synthesize


@pytest.fixture(scope="module")
def entries(tmp_path_factory) -> list[SlideInput]:
    """A benign slide of 1000 px and one with a lesion."""
    folder = tmp_path_factory.mktemp("slides")
    synthesize(folder, count=2, side_px=1000, seed=12, mpp=1.0, workers=1)
    return read_manifest(folder / "labels.csv")


ENGINE = EngineOptions()
POINTS = [CurvePoint("tnet", 2), CurvePoint("tnet", 7), CurvePoint("random", 3), CurvePoint("random", 7)]


def test_one_pass_gives_what_each_budget_alone_gives(entries, tiny_model, monkeypatch):
    expected = [
        dict(classify_by_arm(point.arm, entries, tiny_model(), TraversalOptions(budget=point.budget), ENGINE, seed=9))
        for point in POINTS
    ]
    opened: list[str] = []
    read: list[tuple[str, Region, int]] = []
    read_region = Slide.read

    def counting_open(path: str, **options: Any) -> Slide:
        opened.append(path)
        return open_slide(path, **options)

    def counting_read(self: Slide, region: Region, width_px: int, height_px: int):
        read.append((self.path, region, width_px))
        return read_region(self, region, width_px, height_px)

    monkeypatch.setattr(slide_session, "open_slide", counting_open)
    monkeypatch.setattr(Slide, "read", counting_read)
    found = dict(classify_for_curve(POINTS, entries, tiny_model(), TraversalOptions(), ENGINE, seed=9))

    assert sorted(opened) == sorted(entry.path for entry in entries)
    assert len(read) == len(set(read))
    assert set(found) == {0, 1}
    for number, of_budget in enumerate(expected):
        for position, alone in of_budget.items():
            result = found[position][number]
            assert result.status == "ok"
            assert [each.region for each in result.regions] == [each.region for each in alone.regions]
            assert result.locations == alone.locations <= POINTS[number].budget
            assert result.logits == pytest.approx(alone.logits, abs=1e-5)
            assert result.prediction == alone.prediction


def test_random_locations_depend_on_seed_and_slide_alone(entries, tiny_model):

    def regions(seed: int, slides: list[SlideInput]) -> list[list[Region]]:
        outcomes = dict(classify_by_arm("random", slides, tiny_model(), TraversalOptions(), ENGINE, seed=seed))
        return [[each.region for each in outcomes[position].regions] for position in sorted(outcomes)]

    assert regions(1, entries[:1]) == regions(1, entries[:2])[:1]
    assert regions(1, entries[:1]) != regions(2, entries[:1])


def test_the_coarse_arm_sees_roots_and_the_exhaustive_arm_everything(entries, tiny_model):
    entries = entries[:1]
    ((_, coarse),) = classify_by_arm("coarse", entries, tiny_model(), TraversalOptions(), ENGINE)
    ((_, everything),) = classify_by_arm("exhaustive", entries, tiny_model(), TraversalOptions(), ENGINE)
    ((_, tnet),) = classify_by_arm("tnet", entries, tiny_model(), TraversalOptions(), ENGINE)
    assert coarse.locations == 0
    assert len(coarse.regions) == coarse.roots == everything.roots
    attended = {each.region for each in everything.regions}
    assert {each.region for each in tnet.regions} < attended
    finest = [each for each in everything.regions if each.processing_level == 2]
    assert len(finest) > 5 * tnet.locations


def test_a_slide_that_cannot_be_read_fails_at_every_point(tmp_path, entries, tiny_model):
    broken = tmp_path / "broken.tif"
    broken.write_bytes(b"no slide")
    entries = [SlideInput(str(broken), "broken"), *entries[:1]]
    with closing(classify_for_curve(POINTS, entries, tiny_model(), TraversalOptions(), ENGINE, seed=0)) as outcomes:
        found = dict(outcomes)
    assert [each.status for each in found[0]] == ["failed"] * len(POINTS)
    assert [each.status for each in found[1]] == ["ok"] * len(POINTS)
