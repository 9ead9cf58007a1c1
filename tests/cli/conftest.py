"""A runner called like the command, and a small model of whole images."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.model_files import save_random
from tnet_cli.cli.app import main
from tnet_cli.model.config import TNetConfig


@dataclass(frozen=True, slots=True)
class Ran:
    """What a command left behind."""

    code: int
    out: str
    err: str


@pytest.fixture
def tnet(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Ran]:
    """Run ``tnet ARGS`` in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def run(*args: object) -> Ran:
        with pytest.raises(SystemExit) as ended:
            main([str(arg) for arg in args])
        captured = capsys.readouterr()
        code = ended.value.code
        assert isinstance(code, int | None)
        return Ran(code or 0, captured.out, captured.err)

    return run


@pytest.fixture(scope="session")
def image_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small model of whole images with random weights: overlapping cells, three locations."""
    config = TNetConfig(
        backbone="tnet_small",
        class_names=("cat", "dog"),
        base_px=32,
        grid=3,
        cell_fraction=0.5,
        processing_levels=2,
        image_px=64,
        choice="per_grid",
        locations=(3,),
        location_pool="max",
    )
    return save_random(tmp_path_factory.mktemp("models"), config, seed=4, name="small-photos")
