"""Compose slides of real tiles of colon.

Run: python -m benchmarks.composed_colon --tiles COLON_TILES --out FOLDER

FOLDER/train, FOLDER/val and FOLDER/test get slides and labels.csv. What is there already is not composed again.
"""

import argparse
import time
from pathlib import Path

from benchmarks.composed_colon.compose import compose_all, large_slides, training_slides

COUNTS = {"train": 160, "val": 40, "test": 120}


def main() -> None:
    """Compose the splits."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.composed_colon", description=__doc__)
    parser.add_argument("--tiles", type=Path, required=True, help="folder with index.csv: file, label, source_tile")
    parser.add_argument("--out", type=Path, required=True)
    for split, count in COUNTS.items():
        parser.add_argument(f"--{split}", type=int, default=count, help="slides of this split")
    parser.add_argument("--workers", type=int, default=2)
    given = parser.parse_args()
    for split in COUNTS:
        count = getattr(given, split)
        if count:
            started = time.perf_counter()
            wanted = training_slides(count) if split == "train" else large_slides(split, count)
            manifest = compose_all(given.out / split, given.tiles, wanted, given.workers)
            print(f"{manifest}: {count} slides, {time.perf_counter() - started:.0f} s", flush=True)


if __name__ == "__main__":
    main()
