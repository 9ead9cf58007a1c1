"""Every real slide, damaged in many ways: never a crash, never a hang, never ``ok`` where a read raised."""

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.fuzz.mutation import mutant

ISOLATED = Path(__file__).with_name("isolated.py")
Classify = Callable[[Path], dict[str, Any]]


@pytest.fixture(scope="module")
def classify(untrained_model: Path) -> Iterator[Classify]:
    """Classify a file in a process of its own; a fork that dies takes nothing with it."""
    with subprocess.Popen(
        [sys.executable, str(ISOLATED), str(untrained_model)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        cwd=ISOLATED.parents[2],
    ) as process:

        def ask(path: Path) -> dict[str, Any]:
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write(f"{path}\n")
            process.stdin.flush()
            answer: dict[str, Any] = json.loads(process.stdout.readline())
            return answer

        yield ask
        assert process.stdin is not None
        process.stdin.close()


def real_slides(shared: Path) -> list[Path]:
    folder = shared / "data" / "slides"
    return sorted(path for path in (*folder.iterdir(), *(folder / "broken").iterdir()) if path.is_file())


def complaint(answer: dict[str, Any]) -> str | None:
    """Say what is wrong with what became of a damaged slide, or None."""
    if "hung" in answer:
        return f"hangs for {answer['hung']} s"
    if "ended" in answer:
        return f"ends the process with {answer['ended']}"
    if answer["status"] != "failed" and answer["raised"]:
        return f"is {answer['status']} though a read raised {answer['raised'][0]}"
    if answer["status"] == "failed" and not (answer["error"] and "\n" not in answer["error"]):
        return f"failed without one sentence: {answer['error']!r}"
    if answer["unforeseen"]:
        return f"let out {answer['unforeseen'][0]}"
    return None


def classify_mutants(
    classify: Classify, slides: list[Path], seeds: range, folder: Path
) -> tuple[list[str], Counter[str]]:
    """Classify a mutant of every slide for each seed; return what was wrong and how the rest fared."""
    wrong: list[str] = []
    fared: Counter[str] = Counter()
    for slide in slides:
        for seed in seeds:
            place = folder / slide.name
            place.write_bytes(mutant(slide, seed))
            answer = classify(place)
            problem = complaint(answer)
            if problem is not None:
                wrong.append(f"{slide.name}, seed {seed}: {problem}")
            fared[answer.get("status", "died")] += 1
            place.unlink()
    return wrong, fared


def test_a_damaged_copy_of_every_slide(shared, classify, tmp_path):
    wrong, fared = classify_mutants(classify, real_slides(shared), range(1), tmp_path)
    assert wrong == []
    assert fared["failed"] >= 3


@pytest.mark.parametrize(("name", "seed"), [("small.svs", 21), ("OS-2-ndpi.ome.tif", 91), ("test_orient6.tif", 185)])
def test_damage_that_once_went_wrong(shared, classify, tmp_path, name, seed):
    (slide,) = [path for path in real_slides(shared) if path.name == name]
    wrong, _ = classify_mutants(classify, [slide], range(seed, seed + 1), tmp_path)
    assert wrong == []


@pytest.mark.fuzz
@pytest.mark.timeout(0)
@pytest.mark.parametrize("start", range(0, 200, 20))
def test_many_damaged_copies_of_every_slide(shared, classify, tmp_path, start):
    wrong, fared = classify_mutants(classify, real_slides(shared), range(start, start + 20), tmp_path)
    assert wrong == []
    assert fared["failed"] + fared["ok"] + fared["no_tissue"] == 20 * len(real_slides(shared))
