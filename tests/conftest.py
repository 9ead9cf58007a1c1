"""Fixtures shared by all tests."""

import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings

SHARED = Path(__file__).resolve().parents[1].parent / "shared"


def pytest_configure() -> None:
    """Give each of several test processes a core of its own: threads that wait for another's core crawl."""
    # How long an example takes says more of what else the machine does.
    settings.register_profile("tnet", deadline=None)
    settings.load_profile("tnet")
    worker = os.environ.get("PYTEST_XDIST_WORKER", "")
    if worker.startswith("gw") and hasattr(os, "sched_setaffinity"):
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {cores[int(worker[2:]) % len(cores)]})


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real slides and reference tensors beside the checkout; a fresh clone has none."""
    if not (SHARED / "data").is_dir():
        pytest.skip("needs the shared data folder beside the checkout")
    return SHARED


@pytest.fixture(scope="session")
def labelled_slides(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A manifest of four synthetic slides of 2000 px a side, two of each class, with annotations."""
    # Here and not above: most tests need no slides, nor the imports that drawing them takes.
    from tnet_cli.synth.synthesis import synthesize

    folder = tmp_path_factory.mktemp("labelled")
    synthesize(folder, count=4, side_px=2000, seed=12, mpp=1.0, workers=1)
    return folder / "labels.csv"


@pytest.fixture
def rng() -> np.random.Generator:
    """A seeded source of randomness."""
    return np.random.default_rng(20211206)


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give every test the same terminal: no colour, 80 columns."""
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "80")
