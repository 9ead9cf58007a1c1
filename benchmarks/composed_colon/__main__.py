"""Compose slides of real tiles of colon.

Run: python -m benchmarks.composed_colon --tiles COLON_TILES --out FOLDER

FOLDER gets the slides and labels.csv. What is there already is not composed again.
"""

import argparse
import time
from pathlib import Path

from benchmarks.composed_colon.compose import compose_all, slides_of_split, write_manifest
from benchmarks.composed_colon.tiles import SPLITS

COUNTS = {"train": 160, "val": 32, "test": 100}


def main() -> None:
    """Compose the splits."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.composed_colon", description=__doc__)
    parser.add_argument("--tiles", type=Path, required=True, help="folder with index.csv: file, label, source_tile")
    parser.add_argument("--out", type=Path, required=True)
    for split, count in COUNTS.items():
        parser.add_argument(f"--{split}", type=int, default=count, help="slides of this split")
    parser.add_argument("--only", choices=tuple(SPLITS), help="compose one split; labels.csv has all")
    parser.add_argument("--workers", type=int, default=2)
    given = parser.parse_args()
    wanted = {split: slides_of_split(split, getattr(given, split)) for split in SPLITS}
    given.out.mkdir(parents=True, exist_ok=True)
    write_manifest(given.out, [slide for slides in wanted.values() for slide in slides])
    for split, slides in wanted.items():
        if given.only in (None, split):
            started = time.perf_counter()
            compose_all(given.out, given.tiles, slides, given.workers)
            print(f"{split}: {len(slides)} slides, {time.perf_counter() - started:.0f} s", flush=True)


if __name__ == "__main__":
    main()
