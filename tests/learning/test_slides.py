"""Labelled slides, and what annotations teach of any region of one."""

from dataclasses import replace

import numpy as np
import pytest

from tests.tiny_training import CONFIG, EVERYWHERE, ROOT, SETTINGS, mask_of, slide_with
from tnet_cli.geometry import Region, Size
from tnet_cli.learning.slides import AnnotationTargets, PackedMask
from tnet_cli.tissue.tissue import TissueMask


def test_a_packed_mask_comes_out_as_it_went_in(rng):
    mask = TissueMask(rng.random((37, 53)) < 0.4, Size(5300, 3700))
    packed = PackedMask.of(mask)
    assert len(packed.bits) < 37 * 53 / 7
    assert np.array_equal(packed.unpacked().mask, mask.mask)
    assert packed.unpacked().slide_size == mask.slide_size


def test_cell_targets_are_the_shares_of_the_annotated_area():
    # Half of cell 0, half of cell 1, and all of cell 5 of the 4 x 4 cells of 256 px.
    annotated = mask_of(Region(128, 0, 256, 256), Region(256, 256, 256, 256))
    targets = AnnotationTargets(slide_with(annotated), CONFIG, SETTINGS).cells(ROOT, EVERYWHERE)
    expected = np.zeros(16, np.float32)
    expected[[0, 1, 5]] = 0.25, 0.25, 0.5
    assert targets.dtype == np.float32
    np.testing.assert_allclose(targets, expected, atol=1e-6)


def test_what_may_not_be_attended_is_not_taught():
    annotated = mask_of(Region(128, 0, 256, 256), Region(256, 256, 256, 256))
    targets = AnnotationTargets(slide_with(annotated), CONFIG, SETTINGS)
    allowed = EVERYWHERE.copy()
    allowed[5] = False
    np.testing.assert_allclose(targets.cells(ROOT, allowed)[[0, 1, 5]], [0.5, 0.5, 0], atol=1e-6)
    assert not targets.cells(Region(512, 512, 512, 512), EVERYWHERE).any()
    assert not AnnotationTargets(slide_with(None), CONFIG, SETTINGS).cells(ROOT, EVERYWHERE).any()


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
    targets = AnnotationTargets(slide_with(mask_of(annotated)), CONFIG, settings)
    assert targets.label(Region(0, 0, 64, 64)) == label


def test_without_annotations_only_a_wholly_normal_slide_labels_its_patches():
    region = Region(0, 0, 64, 64)
    assert AnnotationTargets(slide_with(None), CONFIG, SETTINGS).label(region) == -1
    normal = replace(slide_with(None), label=0)
    assert AnnotationTargets(normal, CONFIG, SETTINGS).label(region) == 0
    unknown = SETTINGS.model_copy(update={"normal_class": None})
    assert AnnotationTargets(normal, CONFIG, unknown).label(region) == -1


def test_a_features_class_is_the_annotations_where_there_are_any_else_the_slides():
    inside, outside, edge = Region(0, 0, 64, 64), Region(512, 512, 64, 64), Region(0, 0, 256, 256)
    targets = AnnotationTargets(slide_with(mask_of(Region(0, 0, 64, 64))), CONFIG, SETTINGS)
    assert targets.feature_label(inside, is_finest=True) == 1
    assert targets.feature_label(outside, is_finest=True) == 0
    assert targets.feature_label(edge, is_finest=False) == 1
    assert targets.feature_label(edge, is_finest=True) == -1
    assert targets.feature_label(outside, is_finest=False) == 0
    unannotated = AnnotationTargets(slide_with(None), CONFIG, SETTINGS)
    assert unannotated.feature_label(outside, is_finest=True) == 1
