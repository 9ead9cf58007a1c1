"""Fixtures shared by all tests, and which tests run when nothing is said of them."""

import os
import re
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

import numpy as np
import pytest
import tifffile
from filelock import FileLock
from hypothesis import settings

from tests.range_server import RangeServer, serving

SHARED = Path(__file__).resolve().parents[1].parent / "shared"

ONLY_WHEN_ASKED = ("fuzz", "long")
"""Markers of tests that run only where ``-m`` names them."""

DrawnOnce = Callable[[str, Callable[[Path], object]], Path]


class DrawnSlide(Protocol):
    """Draws a synthetic slide once."""

    def __call__(self, *, seed: int = 4, side_px: int = 1200, label: str = "lesion") -> Path: ...


def pytest_configure() -> None:
    """Give each of several test processes a core of its own: threads that wait for another's core crawl."""
    # How long an example takes says more of what else the machine does.
    settings.register_profile("tnet", deadline=None)
    settings.load_profile("tnet")
    worker = os.environ.get("PYTEST_XDIST_WORKER", "")
    if worker.startswith("gw") and hasattr(os, "sched_setaffinity"):
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {cores[int(worker[2:]) % len(cores)]})


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what runs only when asked for, and begin with the files that take long.

    Processes that share the files among them take them in this order: a long one at the end would run alone.
    """
    named = set(re.findall(r"\w+", config.option.markexpr or ""))
    left_out = [
        item for item in items if any(item.get_closest_marker(name) for name in ONLY_WHEN_ASKED if name not in named)
    ]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
    slow = Counter(item.path for item in items if item.get_closest_marker("slow"))
    items[:] = sorted((item for item in items if item not in left_out), key=lambda item: -slow[item.path])


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real slides and reference tensors beside the checkout; a fresh clone has none."""
    if not (SHARED / "data").is_dir():
        pytest.skip("needs the shared data folder beside the checkout")
    return SHARED


@pytest.fixture(scope="session")
def drawn_once(tmp_path_factory: pytest.TempPathFactory) -> DrawnOnce:
    """Draw what several test processes need in a folder of some name, which the first of them fills."""
    base = tmp_path_factory.getbasetemp()
    drawings = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "drawings"
    drawings.mkdir(exist_ok=True)

    def drawn(name: str, draw: Callable[[Path], object]) -> Path:
        folder = drawings / name
        with FileLock(f"{folder}.lock"):
            if not folder.exists():
                draft = drawings / f"{name}-draft"
                draft.mkdir(exist_ok=True)
                draw(draft)
                draft.rename(folder)
        return folder

    return drawn


@pytest.fixture(scope="session")
def drawn_slide(drawn_once: DrawnOnce) -> DrawnSlide:
    """Draw the synthetic slide of a seed, a side in pixels and a label; it belongs to all, so copy it to change it."""
    # Here and not above: most tests need no slides, nor the imports that drawing them takes.
    from tnet_cli.synth.synthesis import write_synthetic_slide

    def drawn(*, seed: int = 4, side_px: int = 1200, label: str = "lesion") -> Path:
        def draw(folder: Path) -> None:
            write_synthetic_slide(folder / "made.tif", seed=seed, side_px=side_px, label=label, workers=1)

        return drawn_once(f"{label}-{seed}-{side_px}px", draw) / "made.tif"

    return drawn


@pytest.fixture(scope="session")
def made_slide(drawn_slide: DrawnSlide) -> Path:
    """A synthetic slide of 6000 px a side with a lesion."""
    return drawn_slide(seed=5, side_px=6000)


@pytest.fixture(scope="session")
def labelled_slides(drawn_once: DrawnOnce) -> Path:
    """A manifest of four synthetic slides of 2000 px a side, two of each class, with annotations."""
    from tnet_cli.synth.synthesis import synthesize

    def draw(folder: Path) -> None:
        synthesize(folder, count=4, side_px=2000, seed=12, mpp=1.0, workers=1)

    return drawn_once("labelled", draw) / "labels.csv"


@pytest.fixture(scope="session")
def small_labelled_slides(drawn_once: DrawnOnce) -> Path:
    """A manifest of four synthetic slides of 1000 px a side, two of each class, with annotations."""
    from tnet_cli.synth.synthesis import synthesize

    def draw(folder: Path) -> None:
        synthesize(folder, count=4, side_px=1000, seed=12, mpp=1.0, workers=1)

    return drawn_once("small-labelled", draw) / "labels.csv"


@pytest.fixture(scope="session")
def untrained_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model file with random weights: its answers mean nothing, its path through the code is the real one."""
    from tests.model_files import save_random
    from tnet_cli.model.config import TNetConfig

    config = TNetConfig.slide(("no", "yes")).model_copy(update={"locations": (2, 3, 4), "base_px": 64})
    return save_random(tmp_path_factory.mktemp("models"), config, seed=3, name="untrained")


@pytest.fixture
def rng() -> np.random.Generator:
    """A seeded source of randomness."""
    return np.random.default_rng(20211206)


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give every test the same terminal: no colour, 80 columns."""
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "80")


@pytest.fixture(scope="session")
def noise_slide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A TIFF of 1000 x 900 px in tiles, 2 MB whatever compresses it; it belongs to all, so copy it to change it."""
    path = tmp_path_factory.mktemp("noise") / "slide.tif"
    pixels = np.random.default_rng(1).integers(0, 255, (900, 1000, 3), np.uint8)
    tifffile.imwrite(path, pixels, tile=(128, 128), photometric="rgb", compression="deflate")
    return path


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[RangeServer]:
    """A server on loopback of what lies in ``tmp_path``."""
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    with serving(tmp_path) as running:
        yield running
