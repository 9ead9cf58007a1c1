"""Classify a thousand small slides: does memory stay flat, do files stay closed, how many slides a second?

Run: python benchmarks/many_slides.py FOLDER [--slides 1000] [--device cpu]
"""

import argparse
import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tnet_cli.classification.run import RunRequest, run_classify
from tnet_cli.inference.progress import Progress
from tnet_cli.synth.synthesis import write_synthetic_slide

DISTINCT = 5
WARM = 50


def resident_mb() -> float:
    """Return the resident memory of this process."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def open_files() -> int:
    """Return how many files this process has open."""
    return len(list(Path("/proc/self/fd").iterdir()))


def make_slides(folder: Path, count: int) -> list[str]:
    """Make a few slides, and as many links to them as are asked for."""
    originals = []
    for seed in range(DISTINCT):
        path = folder / f"original-{seed}.tif"
        if not path.exists():
            write_synthetic_slide(path, seed=seed, side_px=800 + 50 * seed, label="lesion", workers=1)
        originals.append(path)
    slides = []
    for number in range(count):
        path = folder / f"slide-{number:05}.tif"
        if not path.exists():
            os.link(originals[number % DISTINCT], path)
        slides.append(str(path))
    return slides


def main() -> None:
    """Measure, and print one JSON document."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=lambda text: Path(text).resolve())
    parser.add_argument("--slides", type=int, default=1000)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--overlay", action="store_true")
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    manifest = arguments.folder / "slides.csv"
    manifest.write_text("slide\n" + "\n".join(make_slides(arguments.folder, arguments.slides)) + "\n")

    resident: list[float] = []
    files: list[int] = []

    class Sampling(Progress):
        def slide_done(self, row: Mapping[str, Any]) -> None:  # noqa: ARG002 (that one has ended is enough)
            resident.append(resident_mb())
            files.append(open_files())

    started = time.perf_counter()
    report = run_classify(
        RunRequest(
            inputs=[str(manifest)],
            out=arguments.folder / "out",
            model="synthetic-demo",
            device=arguments.device,
            overlay=arguments.overlay,
            overwrite=True,
        ),
        Sampling(),
    )
    seconds = time.perf_counter() - started
    resumed = time.perf_counter()
    again = run_classify(
        RunRequest(
            inputs=[str(manifest)],
            out=arguments.folder / "out",
            model="synthetic-demo",
            device=arguments.device,
            overlay=arguments.overlay,
        )
    )
    print(
        json.dumps(
            {
                "slides": report.record["slides"],
                "seconds": round(seconds, 1),
                "slides_per_second": round(len(resident) / seconds, 2),
                "resident_mb_after": {
                    str(number): round(resident[number - 1])
                    for number in (1, 10, WARM, 100, 200, 500, len(resident))
                    if number <= len(resident)
                },
                "resident_mb_most_after_50": round(max(resident[WARM - 1 :], default=0)),
                "open_files_most": max(files),
                "resume_of_finished_run_s": round(time.perf_counter() - resumed, 2),
                "skipped": again.skipped,
            },
            indent=2,
        )
    )


if __name__ == "__main__":
    main()
