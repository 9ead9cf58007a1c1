"""Everything that is read, damaged in many ways and then classified: never a crash, a hang or a silent wrong answer.

``ok`` is wrong where a read of the slide raised. Where a reader that is not ours refuses the pixels that were
classified, that is counted and shown: it may be the one that is wrong.
"""

import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image

from tests.fuzz.documents import DAMAGE
from tests.fuzz.mutation import mutant
from tests.model_files import save_random, tiny_network
from tests.tensor_bundle import write_bundle

ISOLATED = Path(__file__).with_name("isolated.py")
Do = Callable[[str, Path], dict[str, Any]]

NO_SLIDES = {".csv", ".txt", ".md", ".json"}
CLASSIFIED = {"ok", "abstained", "no_tissue"}


@pytest.fixture(scope="module")
def do(tmp_path_factory: pytest.TempPathFactory, drawn_slide: Callable[..., Path]) -> Iterator[Do]:
    """Do a job in a process of its own, whose forks take nothing with them when they die."""
    folder = tmp_path_factory.mktemp("fuzz")
    model = save_random(folder, tiny_network(), seed=3)
    shutil.copyfile(drawn_slide(side_px=1000), folder / "slide.tif")
    with subprocess.Popen(
        [sys.executable, str(ISOLATED), str(model)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        cwd=ISOLATED.parents[2],
        env=os.environ | {"PYTHONPATH": str(ISOLATED.parents[2])},
    ) as process:

        def ask(kind: str, path: Path) -> dict[str, Any]:
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write(json.dumps({"kind": kind, "path": str(path)}) + "\n")
            process.stdin.flush()
            answer: dict[str, Any] = json.loads(process.stdout.readline())
            return answer

        yield ask
        assert process.stdin is not None
        process.stdin.close()


@pytest.fixture(scope="module")
def documents(tmp_path_factory: pytest.TempPathFactory, labelled_slides: Path) -> dict[str, Path]:
    """A sound file of each kind that is no slide."""
    folder = tmp_path_factory.mktemp("documents")
    rows = labelled_slides.read_text().splitlines()[:2]
    (folder / "slides.csv").write_text(f"{rows[0]},mpp,patient\n{rows[1]},0.5,p1\n")
    for name in rows[1].split(","):
        if (labelled_slides.parent / name).is_file():
            shutil.copyfile(labelled_slides.parent / name, folder / name)
    weights = {f"feature_extraction/part{i}/bias": np.full(5, i, np.float32) for i in range(1, 40)}
    write_bundle(folder / "ckpt-1", weights)
    return {
        "manifest": folder / "slides.csv",
        "annotation": next(labelled_slides.parent.glob("**/*.geojson")),
        "model": save_random(folder, tiny_network(), seed=3),
        "checkpoint": folder / "ckpt-1.index",
    }


def slides_in(shared: Path) -> list[Path]:
    """Return every real slide, sound or broken, and some pictures."""
    data = shared / "data"
    tiles = [next((data / name).rglob("*.jp*g")) for name in ("colon_tiles", "ebhi_tiles")]
    found = [*data.glob("slides/*"), *data.glob("slides/broken/*"), *data.glob("cases/*/*"), *tiles]
    return sorted(path for path in found if path.is_file() and path.suffix not in NO_SLIDES)


def sound_slides(folder: Path) -> list[Path]:
    """Write a pyramid in each of the compressions, an OME-TIFF, strips and pictures, all with tissue and a scale."""
    rng = np.random.default_rng(7)
    blots = Image.fromarray(rng.integers(90, 230, (24, 32, 3), np.uint8)).resize((1024, 768), Image.Resampling.BICUBIC)
    pixels = np.asarray(blots).copy()
    pixels[:100], pixels[:, 800:] = 245, 245
    shared: dict[str, Any] = {"photometric": "rgb", "resolution": (20000, 20000), "resolutionunit": 3}
    for name in ("jpeg", "jpeg2000", "deflate", "lzw", "webp", "zstd", "none"):
        compression = None if name == "none" else name
        with tifffile.TiffWriter(folder / f"{name}.tif", bigtiff=name == "zstd") as tif:
            for factor in (1, 4):
                tif.write(
                    pixels[::factor, ::factor],
                    tile=(128, 128),
                    compression=compression,
                    subfiletype=int(factor > 1),
                    **shared,
                )
    tifffile.imwrite(folder / "pyramid.ome.tif", pixels, tile=(256, 256), compression="jpeg", photometric="rgb")
    tifffile.imwrite(folder / "strips.tif", pixels, rowsperstrip=64, compression="deflate", **shared)
    tifffile.imwrite(
        folder / "planes.tif", pixels.transpose(2, 0, 1), planarconfig="separate", tile=(128, 128), **shared
    )
    blots.save(folder / "picture.png")
    blots.save(folder / "picture.jpg", quality=85)
    return sorted(folder.iterdir())


@dataclass
class Fared:
    """How mutants fared: counts by status, what was wrong, and what another reader would not have read."""

    counts: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    peak_mb: int = 0

    def add(self, what: str, answer: dict[str, Any]) -> None:
        """Count an answer."""
        self.counts[answer.get("status", "died")] += 1
        self.peak_mb = max(self.peak_mb, answer.get("peak_mb", 0))
        problem = complaint(answer)
        if problem:
            self.wrong.append(f"{what}: {problem}")
        elif answer["refused"] and answer["status"] == "ok":
            self.refused.append(f"{what}: {answer['refused']}")


def complaint(answer: dict[str, Any]) -> str | None:
    """Say what is wrong with what became of something damaged, or None."""
    if "hung" in answer:
        return f"hangs for {answer['hung']} s"
    if "ended" in answer:
        return f"ends the process with {answer['ended']}"
    if answer["unforeseen"]:
        return f"let out {answer['unforeseen'][0]}"
    if answer["status"] in CLASSIFIED:
        return f"is {answer['status']} though a read raised {answer['raised'][0]}" if answer["raised"] else None
    error = answer["error"]
    return None if error and "\n" not in error and "could not be classified" not in error else f"failed with {error!r}"


def damaged_slides(do: Do, slides: list[Path], seeds: range, folder: Path) -> Fared:
    """Classify a mutant of every slide for each seed."""
    fared = Fared()
    for number, slide in enumerate(slides):
        for seed in seeds:
            other = slides[(number + 1 + seed) % len(slides)]
            place = folder / slide.name
            place.write_bytes(mutant(slide, seed, other=other))
            fared.add(f"{slide.name}, seed {seed}", do("slide" if seed % 5 else "drawn slide", place))
            place.unlink()
    return fared


def damaged_documents(do: Do, documents: dict[str, Path], seeds: range) -> Fared:
    """Use a mutant of each kind of document for each seed, where the sound one lies."""
    fared = Fared()
    for kind, sound in documents.items():
        content = sound.read_bytes()
        place = sound.with_name(f"damaged-{sound.name}")
        if kind == "checkpoint":
            for shard in sound.parent.glob(f"{sound.stem}.data*"):
                shutil.copyfile(shard, shard.with_name(f"damaged-{shard.name}"))
        for seed in seeds:
            place.write_bytes(DAMAGE[kind](content, np.random.default_rng([seed, *kind.encode()])))
            fared.add(f"{kind}, seed {seed}", do(kind, place))
        place.unlink()
    return fared


def test_a_damaged_copy_of_every_slide(shared, do, tmp_path):
    fared = damaged_slides(do, slides_in(shared), range(1, 2), tmp_path)
    assert fared.wrong == []
    assert fared.counts["failed"] >= 3


def test_a_damaged_copy_of_every_compression(do, tmp_path):
    (tmp_path / "sound").mkdir()
    slides = sound_slides(tmp_path / "sound")
    for slide in slides:
        assert do("slide", slide)["status"] in CLASSIFIED, slide
    fared = damaged_slides(do, slides, range(2), tmp_path)
    assert fared.wrong == []
    assert fared.counts["failed"] >= 3


def test_sound_documents_are_used(do, documents):
    for kind, sound in documents.items():
        assert do(kind, sound)["status"] in CLASSIFIED, kind


def test_damaged_documents(do, documents):
    fared = damaged_documents(do, documents, range(12))
    assert fared.wrong == []
    assert fared.counts["failed"] >= 12


@pytest.mark.parametrize(
    ("name", "seed"),
    [
        ("small.svs", 21),
        ("OS-2-ndpi.ome.tif", 91),
        ("test_orient6.tif", 185),
        ("test3-DAPI-2-387.ndpi", 18),
        ("sm_image_grayscale.dcm", 84),
    ],
)
def test_damage_that_once_went_wrong(shared, do, tmp_path, name, seed):
    slides = [path for path in slides_in(shared) if path.name == name]
    assert damaged_slides(do, slides, range(seed, seed + 1), tmp_path).wrong == []


@pytest.mark.fuzz
@pytest.mark.timeout(0)
@pytest.mark.parametrize("start", range(0, 180, 20))
def test_many_damaged_copies_of_every_slide(shared, do, tmp_path, start):
    (tmp_path / "sound").mkdir()
    slides = [*slides_in(shared), *sound_slides(tmp_path / "sound")]
    fared = damaged_slides(do, slides, range(start, start + 20), tmp_path)
    sys.stdout.write(f"{fared}\n")
    assert fared.wrong == []


@pytest.mark.fuzz
@pytest.mark.timeout(0)
@pytest.mark.parametrize("start", range(0, 500, 100))
def test_many_damaged_documents(do, documents, start):
    fared = damaged_documents(do, documents, range(start, start + 100))
    sys.stdout.write(f"{fared}\n")
    assert fared.wrong == []
