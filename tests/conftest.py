"""Fixtures shared by all tests."""

from pathlib import Path

import numpy as np
import pytest

SHARED = Path(__file__).resolve().parents[1].parent / "shared"


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
    from tnet_cli.pipeline.synthesis import synthesize

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
