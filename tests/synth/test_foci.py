"""Foci that look alike at low power and in histograms, whatever their nuclei."""

import itertools

import numpy as np
import pytest

from tnet_cli.synth.design import Arrangement, Nuclei
from tnet_cli.synth.foci import BASE_HAEMATOXYLIN, PROBE_UM, calibrate, probe
from tnet_cli.synth.sprites import FULL, small_nuclei

MPP = 0.5
BOX = (0.0, 0.0, 400.0, 400.0)
ARRANGEMENTS: tuple[Arrangement, ...] = ("sheet", "acini")
NUCLEI: tuple[Nuclei, ...] = ("small", "large")
KINDS = list(itertools.product(ARRANGEMENTS, NUCLEI))
SEEDS = range(101, 109)


@pytest.fixture(scope="module")
def drawn() -> dict[tuple[Arrangement, Nuclei], np.ndarray]:
    """Squares of each kind, uint8 (8, S, S), with other nuclei and elsewhere than where calibration drew them."""
    calibration = calibrate(MPP)
    squares: dict[tuple[Arrangement, Nuclei], list[np.ndarray]] = {kind: [] for kind in KINDS}
    for seed in SEEDS:
        rng = np.random.default_rng(seed)
        banks = calibration.banks(MPP, small_nuclei(MPP, rng), rng)
        for arrangement, nuclei in KINDS:
            points = calibration.points(arrangement, nuclei, seed, (0.0, 0.0, PROBE_UM, PROBE_UM))
            squares[arrangement, nuclei].append(probe(points, banks[nuclei], MPP))
    return {kind: np.stack(stains) for kind, stains in squares.items()}


def light(stain: np.ndarray) -> np.ndarray:
    """Grey level, 0..255, of the light that passes."""
    return np.asarray(255 * np.exp(-stain.astype(float) / FULL))


@pytest.mark.parametrize("arrangement", ARRANGEMENTS)
def test_a_lesion_lets_as_much_light_through_as_its_mimic(drawn, arrangement):
    benign, lesion = (light(drawn[arrangement, nuclei]).mean() for nuclei in NUCLEI)
    # Of 255 grey levels; about 1 is what the choice of 64 nuclei for each slide leaves.
    assert abs(benign - lesion) < 2.5


@pytest.mark.parametrize("arrangement", ARRANGEMENTS)
def test_a_lesion_is_as_grainy_as_its_mimic_at_every_scale(drawn, arrangement):
    for block in (1, 2, 4, 8, 16):  # 0.5 to 8 um
        spread = []
        for nuclei in NUCLEI:
            squares = light(drawn[arrangement, nuclei])
            side = squares.shape[1] // block
            blocks = squares[:, : side * block, : side * block].reshape(-1, side, block, side, block)
            spread.append(blocks.mean(axis=(2, 4)).std())
        assert spread[1] / spread[0] == pytest.approx(1, abs=0.08), f"blocks of {block} px"


@pytest.mark.parametrize("arrangement", ARRANGEMENTS)
def test_no_concentration_is_found_in_lesions_alone(drawn, arrangement):
    benign, lesion = (np.bincount(drawn[arrangement, nuclei].ravel(), minlength=256) for nuclei in NUCLEI)
    shares = [counts / counts.sum() for counts in (benign, lesion)]
    assert np.abs(np.cumsum(shares[0]) - np.cumsum(shares[1])).max() < 0.03
    darkest = [int(np.flatnonzero(np.cumsum(share) > 0.999)[0]) for share in shares]
    assert abs(darkest[0] - darkest[1]) < 12


def test_in_a_sheet_each_large_nucleus_stands_where_a_mimic_has_a_clump():
    calibration = calibrate(MPP)
    small, large = (calibration.points("sheet", nuclei, 5, BOX) for nuclei in NUCLEI)
    np.testing.assert_array_equal(small, large)
    assert len(small) == pytest.approx((400 / 17) ** 2, rel=0.1)


@pytest.mark.parametrize(("arrangement", "nuclei"), KINDS)
def test_nuclei_do_not_depend_on_the_box_they_are_asked_for_in(arrangement, nuclei):
    calibration = calibrate(MPP)
    whole = calibration.points(arrangement, nuclei, 5, (0.0, 0.0, 500.0, 300.0))
    part = calibration.points(arrangement, nuclei, 5, (100.0, 80.0, 300.0, 200.0))
    inner = (whole[:, 0] > 130) & (whole[:, 0] < 270) & (whole[:, 1] > 110) & (whole[:, 1] < 170)
    assert inner.sum() > 5
    assert {tuple(point) for point in whole[inner]} <= {tuple(point) for point in part}


def test_what_lies_between_nuclei_keeps_its_concentration():
    darkness = calibrate(MPP).darkness
    np.testing.assert_array_equal(darkness[: BASE_HAEMATOXYLIN + 1], np.arange(BASE_HAEMATOXYLIN + 1))
    assert (np.diff(darkness.astype(int)) >= 0).all()


def test_acini_are_rings_around_empty_middles():
    def gaps(arrangement: Arrangement) -> float:
        """Widest distance from any place to its nearest nucleus, in um."""
        points = calibrate(MPP).points(arrangement, "small", 5, BOX)[:, :2]
        places = np.stack(np.meshgrid(np.arange(100, 300, 4.0), np.arange(100, 300, 4.0)), axis=-1).reshape(-1, 1, 2)
        return float(np.hypot(*np.moveaxis(places - points[None], -1, 0)).min(axis=1).max())

    assert gaps("acini") > 1.3 * gaps("sheet")
