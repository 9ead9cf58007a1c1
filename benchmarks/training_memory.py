"""Peak memory of a training against the number of its slides: patches lie on disk, so it should hardly grow.

    python benchmarks/training_memory.py [--counts 100,500,2000] [--work FOLDER]

Slides are copies of eight small synthetic ones, each with a few bytes of its own at its end. What is measured is the
whole process of ``tnet train`` with few steps.
"""

import argparse
import csv
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tnet_cli.synth.synthesis import synthesize

SETTINGS = (
    *("model.mpp=[16, 4, 1]", "model.base_px=128", "training.hard_locations=[4, 4]", "training.rounds=1"),
    *("training.warmup_steps=20", "training.batch_patches=16", "training.hard_epochs=0", "data.validation_share=0"),
)


def copies(originals: Path, folder: Path, count: int) -> Path:
    """Lay out so many slides that differ; return their manifest."""
    with (originals / "labels.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    folder.mkdir()
    manifest = folder / "labels.csv"
    with manifest.open("w", newline="") as file:
        table = csv.DictWriter(file, ["slide", "label", "annotation"])
        table.writeheader()
        for number in range(count):
            row = rows[number % len(rows)]
            name = f"{number:05d}.tif"
            shutil.copyfile(originals / row["slide"], folder / name)
            with (folder / name).open("ab") as slide:
                slide.write(number.to_bytes(8, "little"))
            table.writerow(
                {"slide": name, "label": row["label"], "annotation": str((originals / row["annotation"]).resolve())}
            )
    return manifest


def main() -> None:
    """Train on each number of slides, the smallest first, and print what it took."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--counts", default="100,500,2000")
    parser.add_argument("--work", type=Path)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=given.work) as folder:
        work = Path(folder)
        synthesize(work / "originals", count=8, side_px=2000, seed=3, mpp=1.0)
        print("slides  peak memory, MB  patches on disk, MB  seconds", flush=True)
        for count in sorted(int(each) for each in given.counts.split(",")):
            manifest = copies(work / "originals", work / f"slides-{count}", count)
            command = [sys.executable, "-m", "tnet_cli", "train", str(manifest), "-o", str(work / f"run-{count}")]
            command += ["--normal-class", "benign", "--device", "cpu"]
            command += [word for setting in SETTINGS for word in ("--set", setting)]
            started, most = time.perf_counter(), 0
            process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
            while process.poll() is None:
                kept = work / f"run-{count}" / "checkpoints" / "patches"
                held = sum(file.stat().st_size for file in kept.glob("[!.]*")) if kept.is_dir() else 0
                most = max(most, held)
                time.sleep(0.5)
            if process.returncode:
                raise SystemExit(process.returncode)
            # Of all that have ended, the largest; the counts ascend.
            peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
            print(f"{count:6} {peak:16.0f} {most / 1e6:20.0f} {time.perf_counter() - started:8.0f}", flush=True)
            shutil.rmtree(work / f"slides-{count}")


if __name__ == "__main__":
    main()
