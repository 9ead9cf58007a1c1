"""Compose slides of real colorectal tiles of two collections.

    python -m benchmarks.composed_colorectal FOLDER --lc LC_TILES --ebhi EBHI_TILES --train 96 --crowded 150 --val 40

FOLDER gets the slides, a manifest for each split and collection (``train-lc.csv``), beside it a table of how each
slide was made, and a manifest of all splits for each collection and for both (``lc.csv``, ``ebhi.csv``, ``both.csv``).
The counts are those of each collection. What is there already is not composed again.
"""

import argparse
import time
from pathlib import Path

from benchmarks.composed_colorectal.compose import (
    compose_all,
    crowded_slides,
    join_manifests,
    serrated_fields,
    wanted_of,
    write_tables,
)
from benchmarks.composed_colorectal.tiles import COLLECTIONS, SPLITS


def main() -> None:
    """Compose the splits."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    for name, collection in COLLECTIONS.items():
        parser.add_argument(f"--{name}", type=Path, required=True, help=f"tiles of {collection.title}, with index.csv")
    for split in SPLITS:
        parser.add_argument(f"--{split}", type=int, default=0, help="slides of this split of each collection")
    parser.add_argument("--crowded", type=int, default=0, help="slides of many foci to train on, of each collection")
    parser.add_argument("--serrated", type=int, default=0, help="fields of serrated adenoma, of the test split")
    parser.add_argument("--workers", type=int, default=2)
    given = parser.parse_args()
    tiles = {name: getattr(given, name) for name in COLLECTIONS}
    parts = {
        f"{split}-{name}": wanted_of(split, name, getattr(given, split)) for split in SPLITS for name in COLLECTIONS
    }
    for name in COLLECTIONS:
        parts[f"train-{name}"] += crowded_slides(name, given.crowded)
    parts["serrated"] = serrated_fields("test", given.serrated)
    for name, wanted in parts.items():
        if not wanted:
            continue
        started = time.perf_counter()
        rows = compose_all(given.folder, tiles, wanted, given.workers)
        write_tables(given.folder, name, wanted, rows)
        print(f"{name}: {len(wanted)} slides, {time.perf_counter() - started:.0f} s", flush=True)
    for collections in (*([name] for name in COLLECTIONS), list(COLLECTIONS)):
        join_manifests(given.folder, collections)


if __name__ == "__main__":
    main()
