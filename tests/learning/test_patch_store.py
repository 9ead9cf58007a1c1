"""The pool of patches: how it grows, how it is drawn from, and that nothing of it is read twice."""

from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

import numpy as np
from PIL import Image

from tests.tiny_training import CONFIG, EVERYWHERE, SIDE, mask_of, settings_with, slide_with, state_of
from tnet_cli.geometry import Region
from tnet_cli.learning.kept import KeptReads, key_of
from tnet_cli.learning.patch_store import PatchPool, SlidePatches, attended_patches, guided_patches, restored_pool
from tnet_cli.learning.slides import AnnotationTargets, TrainingSlide
from tnet_cli.training.warmup import fill_pool, grow_pool

SETTINGS = settings_with(patches_per_slide=6)


def test_every_kind_of_patch_that_teaches_is_drawn_alike():
    rows = SlidePatches()
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
        rows.pixels.append(np.zeros((4, 4, 3), np.uint8))
        rows.positions.append(np.array([0, 0, scale]))
        rows.allowed.append(EVERYWHERE)
        rows.cell_targets.append(np.full(16, 1 / 16 if located else 0, np.float32))
        rows.known.append(scale < 2)
        rows.labels.append(label)
    pool = PatchPool()
    pool.add(0, "key", rows.as_arrays())
    expected = [1 / 8, 1 / 8, 1 / 4, 1 / 12, 1 / 12, 1 / 12, 1 / 4, 0]
    np.testing.assert_allclose(pool.sampling_weights(), expected)
    # Of the last one it is known that there is nothing in it.
    expected = [1 / 10, 1 / 10, 1 / 5, 1 / 15, 1 / 15, 1 / 15, 1 / 5, 1 / 5]
    np.testing.assert_allclose(pool.sampling_weights(nothing_teaches=True), expected)


def test_guided_patches_go_down_into_annotated_and_other_tissue(tmp_path, rng):
    # Each pixel says where it is: red the column, green the row, in steps of 4 px.
    place = np.arange(SIDE) // 4
    picture = np.zeros((SIDE, SIDE, 3), np.uint8)
    picture[..., 0], picture[..., 1] = place[None, :], place[:, None]
    Image.fromarray(picture).save(tmp_path / "a.png")
    lesion, tissue = Region(256, 512, 64, 64), Region(256, 0, 256, 1024)
    slide = slide_with(mask_of(lesion), mask_of(tissue), str(tmp_path / "a.png"))
    pool = guided_patches(AnnotationTargets(slide, CONFIG, SETTINGS), rng)

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


def test_attended_patches_are_those_of_a_slides_traversal(tiny_slides, rng):
    state = state_of(tiny_slides)
    found = attended_patches(
        AnnotationTargets(tiny_slides[0], CONFIG, state.settings), state.network.eval(), rng, state.device
    )
    scales = [int(position[2]) for position in found.positions]
    assert [scales.count(scale) for scale in (1, 2)] == [2, 3]
    assert all(pixels.shape == (64, 64, 3) for pixels in found.pixels)


def pool_of(slides: Sequence[TrainingSlide], folder: Path | None) -> PatchPool:
    """A pool that two slides' patches were added to twice."""
    state = state_of(slides)
    state.pool = PatchPool(KeptReads(folder))
    fill_pool(state, np.random.default_rng(3))
    grow_pool(state, np.random.default_rng(4), 1)
    return state.pool


def same(one: PatchPool, other: PatchPool) -> bool:
    """Whether two pools hold the same patches, their pixels too."""
    arrays, others = one.as_arrays(), other.as_arrays()
    pixels = all(np.array_equal(one.pixels(index), other.pixels(index)) for index in range(len(one)))
    return pixels and all(np.array_equal(arrays[name], others[name]) for name in arrays)


def test_a_pool_is_as_it_was_whatever_is_left_of_it(tiny_slides, tmp_path):
    pool = pool_of(tiny_slides, tmp_path)
    assert len(pool) > 40
    assert len(pool.keys) == 8
    assert same(pool, pool_of(tiny_slides, None))
    arrays = pool.as_arrays()
    (tmp_path / f"{pool.keys[0]}.safetensors").unlink()
    (tmp_path / f"{pool.keys[1]}.safetensors").write_bytes(b"what a failing disk left")
    again = restored_pool(arrays, pool.keys, KeptReads(tmp_path), tiny_slides, CONFIG.base_px, 2)
    assert same(pool, again)
    np.testing.assert_array_equal(again.sampling_weights(), pool.sampling_weights())


def test_nothing_is_read_twice(tiny_slides, tmp_path, monkeypatch):
    pool = pool_of(tiny_slides, tmp_path)

    def opened(self: TrainingSlide) -> NoReturn:
        raise AssertionError(f"{self.entry.path} was opened again")

    monkeypatch.setattr(TrainingSlide, "open", opened)
    assert same(pool, pool_of(tiny_slides, tmp_path))
    again = restored_pool(pool.as_arrays(), pool.keys, KeptReads(tmp_path), tiny_slides, CONFIG.base_px, 2)
    assert same(pool, again)


def test_only_what_is_its_own_is_removed(tmp_path):
    kept = KeptReads(tmp_path)
    kept.put(key_of("one"), {"pixels": np.zeros(3)})
    (tmp_path / f".{key_of('two')}.safetensors.12.abcdef01.safetensors").write_bytes(b"what a killed run was writing")
    (tmp_path / "mine.safetensors").write_bytes(b"somebody's")
    kept.clear()
    assert [path.name for path in tmp_path.iterdir()] == ["mine.safetensors"]
    assert kept.get(key_of("one")) is None
