"""Start-up of the command against the library its command line is made with, in turns.

Run: python benchmarks/start_up.py
"""

import json
import statistics
import subprocess
import sys
import time

ROUNDS = 15


def seconds(arguments: list[str]) -> float:
    """Return the wall seconds of one Python process."""
    started = time.perf_counter()
    subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - started


def main() -> None:
    """Measure and print one JSON document."""
    helps, typers = [], []
    for _ in range(ROUNDS + 1):
        helps.append(seconds(["-m", "tnet_cli", "--help"]))
        typers.append(seconds(["-c", "import typer"]))
    # The first round fills the disk cache.
    ratios = [mine / theirs for mine, theirs in zip(helps[1:], typers[1:], strict=True)]
    print(
        json.dumps(
            {
                "tnet_help_seconds": statistics.median(helps[1:]),
                "import_typer_seconds": statistics.median(typers[1:]),
                "ratio": statistics.median(ratios),
            },
            indent=2,
        )
    )


if __name__ == "__main__":
    main()
