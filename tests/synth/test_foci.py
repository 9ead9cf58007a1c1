"""Foci that are equally dark at low power, whatever their nuclei."""

import itertools

import numpy as np
import pytest

from tnet_cli.synth.design import Arrangement, Nuclei
from tnet_cli.synth.foci import BASE_HAEMATOXYLIN, Packing, calibrate
from tnet_cli.synth.sprites import FULL, large_nuclei, small_nuclei, stamp_max

MPP = 0.5
BOX = (0.0, 0.0, 400.0, 400.0)
ARRANGEMENTS: tuple[Arrangement, ...] = ("sheet", "acini")
NUCLEI: tuple[Nuclei, ...] = ("small", "large")
KINDS = list(itertools.product(ARRANGEMENTS, NUCLEI))


def mean_light(packing: Packing, seed: int) -> float:
    """Grey level, 0..255, of the light through a square of nuclei, other ones and elsewhere than calibrated."""
    rng = np.random.default_rng(seed)
    bank = (small_nuclei if packing.nuclei == "small" else large_nuclei)(MPP, rng)
    stain = np.full((800, 800), BASE_HAEMATOXYLIN, np.uint8)
    for x, y, number in packing.points(seed, BOX):
        stamp_max(stain, bank[int(number * len(bank))], int(x / MPP), int(y / MPP))
    return 255 * float(np.exp(-stain.astype(float) / FULL).mean())


def test_every_kind_of_focus_lets_the_same_light_through():
    packings = calibrate(MPP)
    assert set(packings) == set(KINDS)
    light = {kind: np.mean([mean_light(packings[kind], seed) for seed in range(101, 107)]) for kind in KINDS}
    # Of 255 grey levels; about 2 is what the choice of 48 nuclei of each kind leaves.
    assert max(light.values()) - min(light.values()) < 3.0


@pytest.mark.parametrize("arrangement", ["sheet", "acini"])
def test_a_lesion_has_fewer_nuclei(arrangement):
    packings = calibrate(MPP)
    few, many = (len(packings[arrangement, nuclei].points(5, BOX)) for nuclei in ("large", "small"))
    assert 0.2 < few / many < 0.5


@pytest.mark.parametrize("kind", KINDS)
def test_nuclei_do_not_depend_on_the_box_they_are_asked_for_in(kind):
    packing = calibrate(MPP)[kind]
    whole = packing.points(5, (0.0, 0.0, 500.0, 300.0))
    part = packing.points(5, (100.0, 80.0, 300.0, 200.0))
    inner = (whole[:, 0] > 130) & (whole[:, 0] < 270) & (whole[:, 1] > 110) & (whole[:, 1] < 170)
    assert inner.sum() > 5
    assert {tuple(point) for point in whole[inner]} <= {tuple(point) for point in part}


def test_acini_are_rings_around_empty_middles():
    def gaps(arrangement: Arrangement) -> float:
        """Widest distance from any place to its nearest nucleus, in um."""
        points = calibrate(MPP)[arrangement, "small"].points(5, BOX)[:, :2]
        places = np.stack(np.meshgrid(np.arange(100, 300, 4.0), np.arange(100, 300, 4.0)), axis=-1).reshape(-1, 1, 2)
        return float(np.hypot(*np.moveaxis(places - points[None], -1, 0)).min(axis=1).max())

    assert gaps("acini") > 1.3 * gaps("sheet")
