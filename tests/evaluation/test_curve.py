"""The curve in one pass: the same as one run for each budget, each slide opened once, each region read once."""

from collections import Counter
from contextlib import closing
from dataclasses import replace

import pytest

from tnet_cli.evaluation.arms import Comparison, classify_by_arm
from tnet_cli.evaluation.curve import CurvePoint, classify_for_curve
from tnet_cli.geometry import Region
from tnet_cli.inputs.inputs import SlideInput
from tnet_cli.inputs.options import TraversalOptions
from tnet_cli.modelfile.modelfile import LoadedModel
from tnet_cli.places import Place
from tnet_cli.slide.slide import Slide

POINTS = [CurvePoint("tnet", 2), CurvePoint("tnet", 7), CurvePoint("random", 3), CurvePoint("random", 7)]


def comparing(entries: list[SlideInput], model: LoadedModel, *, seed: int = 0, budget: int | None = None) -> Comparison:
    return Comparison(inputs=entries, model=model, options=TraversalOptions(budget=budget), seed=seed)


def test_one_pass_gives_what_each_budget_alone_gives(entries, tiny_model, monkeypatch):
    entries = entries[:2]
    expected = [
        dict(classify_by_arm(point.arm, comparing(entries, tiny_model(), seed=9, budget=point.budget)))
        for point in POINTS
    ]
    thumbnails: Counter[str] = Counter()
    read: list[tuple[str, Region, int]] = []
    read_region, read_thumbnail = Slide.read, Slide.thumbnail

    def counting_thumbnail(self: Slide, max_px: int):
        thumbnails[self.path] += 1
        return read_thumbnail(self, max_px)

    def counting_read(self: Slide, region: Region, width_px: int, height_px: int):
        read.append((self.path, region, width_px))
        return read_region(self, region, width_px, height_px)

    monkeypatch.setattr(Slide, "thumbnail", counting_thumbnail)
    monkeypatch.setattr(Slide, "read", counting_read)
    found = dict(classify_for_curve(POINTS, comparing(entries, tiny_model(), seed=9)))

    # A slide that is opened is prepared, which takes its thumbnail.
    assert thumbnails == {entry.shown_path: 1 for entry in entries}
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


def test_every_point_asks_how_sharp_a_slide_is_as_the_arm_alone_does(entries, tiny_model):
    def model(least: float) -> LoadedModel:
        loaded: LoadedModel = tiny_model()
        return replace(loaded, card=loaded.card.model_copy(update={"least_sharpness": least}))

    for least, status in ((0.01, "ok"), (0.99, "abstained")):
        ((_, found),) = classify_for_curve(POINTS, comparing(entries[:1], model(least), seed=9))
        for point, result in zip(POINTS, found, strict=True):
            comparison = comparing(entries[:1], model(least), seed=9, budget=point.budget)
            ((_, alone),) = classify_by_arm(point.arm, comparison)
            (check,) = [check for check in result.checks if check.name == "unsharp"]
            assert check.value is not None
            assert (result.status, result.checks) == (status, alone.checks)


def test_random_locations_depend_on_seed_and_slide_alone(entries, tiny_model):
    def regions(seed: int, slides: list[SlideInput]) -> list[list[Region]]:
        results = dict(classify_by_arm("random", comparing(slides, tiny_model(), seed=seed)))
        return [[each.region for each in results[position].regions] for position in sorted(results)]

    assert regions(1, entries[:1]) == regions(1, entries[:2])[:1]
    assert regions(1, entries[:1]) != regions(2, entries[:1])


def test_the_coarse_arm_sees_roots_and_the_exhaustive_arm_everything(entries, tiny_model):
    entries = entries[:1]
    ((_, coarse),) = classify_by_arm("coarse", comparing(entries, tiny_model()))
    ((_, everything),) = classify_by_arm("exhaustive", comparing(entries, tiny_model()))
    ((_, tnet),) = classify_by_arm("tnet", comparing(entries, tiny_model()))
    assert coarse.locations == 0
    assert len(coarse.regions) == coarse.roots == everything.roots
    attended = {each.region for each in everything.regions}
    assert {each.region for each in tnet.regions} < attended
    finest = [each for each in everything.regions if each.processing_level == 2]
    assert len(finest) > 5 * tnet.locations


def test_a_slide_that_cannot_be_read_fails_at_every_point(tmp_path, entries, tiny_model):
    broken = tmp_path / "broken.tif"
    broken.write_bytes(b"no slide")
    entries = [SlideInput(Place(broken), "broken"), *entries[:1]]
    with closing(classify_for_curve(POINTS, comparing(entries, tiny_model()))) as results:
        found = dict(results)
    assert [each.status for each in found[0]] == ["failed"] * len(POINTS)
    assert [each.status for each in found[1]] == ["ok"] * len(POINTS)
