"""The pool of patches: how it grows, how it is drawn from, and that it is read again as it was."""

import numpy as np
from PIL import Image

from tests.tiny_training import CONFIG, EVERYWHERE, SIDE, mask_of, settings_with, slide_with, state_of
from tnet_cli.geometry import Region
from tnet_cli.learning.patch_store import PatchPool, add_attended_patches, add_guided_patches, read_again
from tnet_cli.learning.slides import AnnotationTargets
from tnet_cli.training.warmup import fill_pool

SETTINGS = settings_with(patches_per_slide=6)


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
    add_guided_patches(pool, AnnotationTargets(slide, CONFIG, SETTINGS), rng)

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


def test_attended_patches_are_those_of_every_slides_traversal(tiny_slides, rng):
    state = state_of(tiny_slides)
    targets = [AnnotationTargets(slide, CONFIG, state.settings) for slide in tiny_slides]
    add_attended_patches(state.pool, targets, state.network, rng, device=state.device, on_bad=state.leave_out)
    scales = [int(position[2]) for position in state.pool.positions]
    assert [scales.count(scale) for scale in (1, 2)] == [4 * 2, 4 * 3]
    assert all(pixels.shape == (64, 64, 3) for pixels in state.pool.pixels)
    assert sorted(set(state.pool.slides)) == [0, 1, 2, 3]


def test_a_pool_is_read_again_as_it_was(tiny_slides):
    state = state_of(tiny_slides)
    fill_pool(state, np.random.default_rng(3))
    again = read_again(state.pool.as_arrays(), tiny_slides, CONFIG.base_px, 2)
    assert len(again) == len(state.pool) > 20
    for mine, theirs in zip(state.pool.pixels, again.pixels, strict=True):
        np.testing.assert_array_equal(mine, theirs)
    for name, values in state.pool.as_arrays().items():
        np.testing.assert_array_equal(again.as_arrays()[name], values)
    np.testing.assert_array_equal(again.sampling_weights(), state.pool.sampling_weights())
