"""What annotations teach, and that training learns it."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tnet_cli.geometry import Region, Size
from tnet_cli.inference.prepare import Preparation, Scale
from tnet_cli.inputs.inputs import SlideInput, read_manifest
from tnet_cli.learning.distributed import Group
from tnet_cli.learning.loop import StageRun
from tnet_cli.learning.patch_store import PatchPool, Teacher, add_attended_patches, add_guided_patches, read_again
from tnet_cli.learning.precision import Precision
from tnet_cli.learning.settings import TrainingSettings
from tnet_cli.learning.slides import TrainingSlide, load_training_slides
from tnet_cli.learning.stage import Stage
from tnet_cli.learning.state import Course, StepReport
from tnet_cli.model.config import TNetConfig
from tnet_cli.model.tnet import TNet
from tnet_cli.slide.roots import Root
from tnet_cli.slide.tissue import TissueMask
from tnet_cli.synth.synthesis import CLASS_NAMES, synthesize
from tnet_cli.training.augment import augment_patch
from tnet_cli.training.hard_attention import HardAttention
from tnet_cli.training.warmup import WarmUp, fill_pool, location_loss

SIDE = 1024
CONFIG = TNetConfig.slide(CLASS_NAMES).model_copy(
    update={"base_px": 64, "processing_levels": 3, "mpp": (16.0, 4.0, 1.0), "locations": (4, 6)}
)
SETTINGS = TrainingSettings(
    normal_class="benign",
    patches_per_slide=6,
    warmup_steps=50,
    warmup_learning_rate=3e-3,
    batch_patches=12,
    hard_epochs=20,
    hard_learning_rate=1e-3,
    batch_slides=4,
    hard_locations=(2, 3),
)
ROOT = Region(0, 0, SIDE, SIDE)
EVERYWHERE = np.ones(16, dtype=bool)


def mask_of(*boxes: Region) -> TissueMask:
    """A mask of 16 px a pixel over a slide of 1024 px, true in the boxes."""
    mask = np.zeros((64, 64), dtype=bool)
    for box in boxes:
        mask[box.y // 16 : box.bottom // 16, box.x // 16 : box.right // 16] = True
    return TissueMask(mask=mask, slide_size=Size(SIDE, SIDE))


def slide_with(annotated: TissueMask | None, tissue: TissueMask | None = None, path: str = "none.png") -> TrainingSlide:
    preparation = Preparation(
        scale=Scale(root_side_px=SIDE, finest_side_px=SIDE // 16, processing_levels=3, mpp=(16.0, 4.0, 1.0), notes=()),
        thumbnail=np.zeros((64, 64, 3), np.uint8),
        tissue=tissue or mask_of(ROOT),
        roots=(Root(region=ROOT, tissue_share=1.0),),
    )
    return TrainingSlide(SlideInput(path=path, name="s", mpp=1.0), 1, preparation, annotated)


def test_cell_targets_are_the_shares_of_the_annotated_area():
    # Half of cell 0, half of cell 1, and all of cell 5 of the 4 x 4 cells of 256 px.
    annotated = mask_of(Region(128, 0, 256, 256), Region(256, 256, 256, 256))
    teacher = Teacher(slide_with(annotated), CONFIG, SETTINGS)
    expected = np.zeros(16, np.float32)
    expected[[0, 1, 5]] = 0.25, 0.25, 0.5
    targets = teacher.cell_targets(ROOT, EVERYWHERE)
    assert targets.dtype == np.float32
    np.testing.assert_allclose(targets, expected, atol=1e-6)


def test_what_may_not_be_attended_is_not_taught():
    annotated = mask_of(Region(128, 0, 256, 256), Region(256, 256, 256, 256))
    teacher = Teacher(slide_with(annotated), CONFIG, SETTINGS)
    allowed = EVERYWHERE.copy()
    allowed[5] = False
    np.testing.assert_allclose(teacher.cell_targets(ROOT, allowed)[[0, 1, 5]], [0.5, 0.5, 0], atol=1e-6)
    assert not teacher.cell_targets(Region(512, 512, 512, 512), EVERYWHERE).any()
    assert not Teacher(slide_with(None), CONFIG, SETTINGS).cell_targets(ROOT, EVERYWHERE).any()


@pytest.mark.parametrize(
    ("annotated", "normal_class", "label"),
    [
        (Region(0, 0, 32, 64), "benign", 1),  # half of the patch
        (Region(0, 0, 16, 32), "benign", -1),  # an eighth: less than a fifth, more than nothing
        (Region(512, 512, 64, 64), "benign", 0),
        (Region(512, 512, 64, 64), None, -1),
    ],
)
def test_a_finest_patch_is_labelled_by_the_share_that_is_annotated(annotated, normal_class, label):
    settings = SETTINGS.model_copy(update={"normal_class": normal_class})
    teacher = Teacher(slide_with(mask_of(annotated)), CONFIG, settings)
    assert teacher.label(Region(0, 0, 64, 64)) == label


def test_a_features_class_is_the_annotations_where_there_are_any_else_the_slides():
    inside, outside, edge = Region(0, 0, 64, 64), Region(512, 512, 64, 64), Region(0, 0, 256, 256)
    teacher = Teacher(slide_with(mask_of(Region(0, 0, 64, 64))), CONFIG, SETTINGS)
    assert teacher.feature_label(inside, is_finest=True) == 1
    assert teacher.feature_label(outside, is_finest=True) == 0
    assert teacher.feature_label(edge, is_finest=False) == 1
    assert teacher.feature_label(edge, is_finest=True) == -1
    assert teacher.feature_label(outside, is_finest=False) == 0
    unannotated = Teacher(slide_with(None), CONFIG, SETTINGS)
    assert unannotated.feature_label(outside, is_finest=True) == 1


def test_every_kind_of_patch_that_teaches_is_drawn_alike():
    pool = PatchPool()
    # Two located at scale 0, one at scale 1, three of class 0, one of class 1, and one that teaches nothing.
    for scale, located, label in (
        (0, True, -1),
        (0, True, -1),
        (1, True, -1),
        (2, False, 0),
        (2, False, 0),
        (2, False, 0),
        (2, False, 1),
        (1, False, -1),
    ):
        pool.pixels.append(np.zeros((4, 4, 3), np.uint8))
        pool.positions.append(np.array([0, 0, scale]))
        pool.allowed.append(EVERYWHERE)
        pool.cell_targets.append(np.full(16, 1 / 16 if located else 0, np.float32))
        pool.labels.append(label)
    expected = [1 / 8, 1 / 8, 1 / 4, 1 / 12, 1 / 12, 1 / 12, 1 / 4, 0]
    np.testing.assert_allclose(pool.sampling_weights(), expected)


def test_guided_patches_go_down_into_annotated_and_other_tissue(tmp_path, rng):
    # Each pixel says where it is: red the column, green the row, in steps of 4 px.
    place = np.arange(SIDE) // 4
    picture = np.zeros((SIDE, SIDE, 3), np.uint8)
    picture[..., 0], picture[..., 1] = place[None, :], place[:, None]
    Image.fromarray(picture).save(tmp_path / "a.png")
    lesion, tissue = Region(256, 512, 64, 64), Region(256, 0, 256, 1024)
    slide = slide_with(mask_of(lesion), mask_of(tissue), str(tmp_path / "a.png"))
    pool = PatchPool()
    add_guided_patches(pool, slide, CONFIG, SETTINGS, rng)

    scales = [int(position[2]) for position in pool.positions]
    # One root; the four cells with tissue; half of six annotated would be three, but there is one finest such cell.
    assert [scales.count(scale) for scale in range(3)] == [1, 4, 6]
    assert pool.labels[:5] == [-1] * 5
    assert sorted(pool.labels[5:]) == [0, 0, 0, 0, 0, 1]
    for pixels, (y, x, scale) in zip(pool.pixels, pool.positions, strict=True):
        assert pixels.shape == (64, 64, 3)
        side = SIDE / 4**scale
        middle = pixels[30:34, 30:34, :2].mean(axis=(0, 1))
        np.testing.assert_allclose(middle, [(x + 0.5) * side / 4, (y + 0.5) * side / 4], atol=2)
    lesion_patch = pool.positions[pool.labels.index(1)]
    assert lesion_patch.tolist() == [8, 4, 2]
    # The root is taught to go to row 2, column 1, its child below there to its first cell, the finest nothing.
    assert np.flatnonzero(pool.cell_targets[0]).tolist() == [2 * 4 + 1]
    taught = [number for number in range(1, 5) if pool.cell_targets[number].any()]
    assert [pool.positions[number].tolist() for number in taught] == [[2, 1, 1]]
    assert np.flatnonzero(pool.cell_targets[taught[0]]).tolist() == [0]
    assert not np.any(pool.cell_targets[5:])
    assert np.flatnonzero(pool.allowed[0]).tolist() == [1, 5, 9, 13]


def test_a_changed_patch_carries_its_cells_along(rng):
    seen = set()
    for _ in range(60):
        row, column = (int(value) for value in rng.integers(4, size=2))
        pixels = np.full((64, 64, 3), 60, np.uint8)
        pixels[16 * row : 16 * row + 16, 16 * column : 16 * column + 16] = 200
        cells = np.zeros((2, 16), np.float32)
        cells[0, 4 * row + column], cells[1] = 1, np.arange(16)
        changed, carried = augment_patch(pixels, cells, 0.1, rng)
        assert changed.shape == (64, 64, 3)
        assert changed.dtype == np.uint8
        brightness = changed.astype(float).mean(axis=2).reshape(4, 16, 4, 16).mean(axis=(1, 3)).ravel()
        assert brightness.argmax() == carried[0].argmax()
        assert carried[0].sum() == 1
        seen.add(tuple(carried[1]))
    assert len(seen) == 8  # the symmetries of the square


def test_colours_change_by_no_more_than_they_may(rng):
    pixels = np.full((8, 8, 3), 100, np.uint8)
    changed = np.array([augment_patch(pixels, np.zeros((1, 16)), 0.08, rng)[0][0, 0] for _ in range(200)]).astype(int)
    assert changed.min() >= 91  # rounded down from 92
    assert changed.max() <= 108
    assert (changed.max(axis=0) - changed.min(axis=0)).min() > 10
    assert augment_patch(pixels, np.zeros((1, 16)), 0.0, rng)[0].tolist() == pixels.tolist()


def test_location_loss_is_the_cross_entropy_over_taught_regions():
    log_probs = torch.tensor([[0.5, 0.25, 0.25, 0.0], [0.1, 0.2, 0.3, 0.4], [0.25] * 4]).log()
    targets = torch.tensor([[0.5, 0.5, 0.0, 0.0], [0.0, 0.0, 0.0, 1.0], [0.0] * 4])
    expected = (0.5 * np.log(2) + 0.5 * np.log(4) - np.log(0.4)) / 2
    assert float(location_loss(log_probs, targets)) == pytest.approx(expected, rel=1e-6)
    assert float(location_loss(log_probs, torch.zeros(3, 4))) == 0


def test_location_loss_has_a_finite_gradient_beside_forbidden_cells():
    logits = torch.tensor([[0.3, -0.2, 1.0, 0.1]], requires_grad=True)
    allowed = torch.tensor([[True, True, False, True]])
    log_probs = torch.log_softmax(logits.masked_fill(~allowed, -torch.inf), dim=1)
    targets = torch.tensor([[0.75, 0.25, 0.0, 0.0]])
    loss = location_loss(log_probs, targets)
    assert loss.item() == pytest.approx(-float((0.75 * log_probs[0, 0] + 0.25 * log_probs[0, 1]).detach()))
    loss.backward()
    assert logits.grad is not None
    expected = log_probs.detach().exp() - targets
    np.testing.assert_allclose(logits.grad.numpy(), expected.numpy(), atol=1e-6)


def batch_statistics(network: TNet) -> list[torch.Tensor]:
    return [
        buffer.clone() for name, buffer in network.named_buffers() if name.endswith(("running_mean", "running_var"))
    ]


@pytest.fixture(scope="module")
def synthetic_slides(tmp_path_factory: pytest.TempPathFactory) -> list[TrainingSlide]:
    folder: Path = tmp_path_factory.mktemp("training")
    synthesize(folder, count=4, side_px=2000, seed=12, mpp=1.0, workers=1)
    return load_training_slides(read_manifest(folder / "labels.csv"), CONFIG)


def course_of(slides: list[TrainingSlide], settings: TrainingSettings) -> tuple[Course, list[StepReport]]:
    told: list[StepReport] = []
    torch.manual_seed(0)
    precision = Precision(torch.device("cpu"), mixed=True)
    course = Course(TNet(CONFIG), slides, settings, torch.device("cpu"), Group(), precision, on_step=told.append)
    return course, told


def run_stage(course: Course, stage: Stage, number: int) -> None:
    stage.begin(course, number)
    StageRun(course, stage, number, None).run()


@pytest.mark.slow
def test_training_learns_from_synthetic_slides_with_frozen_normalisation(synthetic_slides):
    assert sorted(slide.label for slide in synthetic_slides) == [0, 0, 1, 1]
    course, told = course_of(synthetic_slides, SETTINGS)
    network, pool = course.network, course.pool
    before = batch_statistics(network)
    run_stage(course, WarmUp(SETTINGS, 1), 0)
    assert {-1, 0, 1} == set(pool.labels)
    assert [report.step for report in told] == [25, 50]
    assert told[-1].terms["total"] < 0.85 * told[0].terms["total"]
    assert any(not torch.equal(a, b) for a, b in zip(before, batch_statistics(network), strict=True))

    grown = len(pool)
    add_attended_patches(pool, synthetic_slides, network, SETTINGS, np.random.default_rng(0))
    scales = [int(position[2]) for position in pool.positions[grown:]]
    assert [scales.count(scale) for scale in (1, 2)] == [4 * 2, 4 * 3]
    assert all(pixels.shape == (64, 64, 3) for pixels in pool.pixels)
    assert sorted(set(pool.slides)) == [0, 1, 2, 3]

    frozen, weights = batch_statistics(network), [p.detach().clone() for p in network.parameters()]
    told.clear()
    run_stage(course, HardAttention(SETTINGS, len(synthetic_slides), SETTINGS.hard_epochs), 1)
    assert [report.step for report in told] == [10, 20]
    assert told[-1].terms["total"] < told[0].terms["total"]
    assert all(torch.equal(a, b) for a, b in zip(frozen, batch_statistics(network), strict=True))
    assert any(not torch.equal(a, b) for a, b in zip(weights, network.parameters(), strict=True))
    assert all(bool(torch.isfinite(p).all()) for p in network.parameters())
    assert len(pool) == 0


def test_a_pool_is_read_again_as_it_was(synthetic_slides):
    course, _ = course_of(synthetic_slides, SETTINGS)
    fill_pool(course, np.random.default_rng(3))
    again = read_again(course.pool.as_arrays(), synthetic_slides, CONFIG.base_px, 2)
    assert len(again) == len(course.pool) > 20
    for mine, theirs in zip(course.pool.pixels, again.pixels, strict=True):
        np.testing.assert_array_equal(mine, theirs)
    for name, values in course.pool.as_arrays().items():
        np.testing.assert_array_equal(again.as_arrays()[name], values)
    np.testing.assert_array_equal(again.sampling_weights(), course.pool.sampling_weights())


def test_without_annotations_only_a_wholly_normal_slide_labels_its_patches():
    region = Region(0, 0, 64, 64)
    assert Teacher(slide_with(None), CONFIG, SETTINGS).label(region) == -1
    normal = replace(slide_with(None), label=0)
    assert Teacher(normal, CONFIG, SETTINGS).label(region) == 0
    unknown = SETTINGS.model_copy(update={"normal_class": None})
    assert Teacher(normal, CONFIG, unknown).label(region) == -1
