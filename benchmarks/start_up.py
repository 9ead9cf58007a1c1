"""Start-up of the command against what it is made with: the library of its command line, and torch.

Run: python benchmarks/start_up.py
"""

import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tnet_cli.synth.synthesis import write_synthetic_slide

ROUNDS = 15

UP_TO_THE_FIRST_READ = """
import os, sys
slide, out = sys.argv[1:]
sys.addaudithook(lambda event, about: os._exit(0) if event == "open" and str(about[0]) == slide else None)
from tnet_cli.cli.app import main
main(["classify", slide, "-o", out])
"""
"""Ends when the slide's file is opened for the first time."""


def seconds(arguments: list[str]) -> float:
    """Return the wall seconds of one Python process."""
    started = time.perf_counter()
    subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return time.perf_counter() - started


def main() -> None:
    """Measure and print one JSON document."""
    with tempfile.TemporaryDirectory() as folder:
        slide, out = Path(folder, "slide.tif"), Path(folder, "out")
        write_synthetic_slide(slide, seed=1, side_px=2000, label="benign", workers=1)
        commands = {
            "tnet_help": ["-m", "tnet_cli", "--help"],
            "import_typer": ["-c", "import typer"],
            "tnet_classify_up_to_its_first_read": ["-c", UP_TO_THE_FIRST_READ, str(slide), str(out)],
            "import_torch": ["-c", "import os, torch; os._exit(0)"],
        }
        taken: dict[str, list[float]] = {name: [] for name in commands}
        for _ in range(ROUNDS + 1):
            for name, arguments in commands.items():
                taken[name].append(seconds(arguments))
    # The first round fills the disk cache.
    told = {f"{name}_seconds": statistics.median(each[1:]) for name, each in taken.items()}
    told["help_ratio"] = statistics.median(
        mine / theirs for mine, theirs in zip(taken["tnet_help"][1:], taken["import_typer"][1:], strict=True)
    )
    told["classify_over_torch_seconds"] = statistics.median(
        mine - theirs
        for mine, theirs in zip(taken["tnet_classify_up_to_its_first_read"][1:], taken["import_torch"][1:], strict=True)
    )
    print(json.dumps(told, indent=2))


if __name__ == "__main__":
    main()
