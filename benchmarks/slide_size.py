"""What a slide costs against its size, with one budget: whole processes, one after the other, in one run.

Run: python benchmarks/slide_size.py --sides 5000,20000,60000
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from tnet_cli.inputs.options import DEMO_MODEL
from tnet_cli.synth.synthesis import write_synthetic_slide


def run_measured(arguments: list[str]) -> tuple[float, float, str]:
    """Run a Python process; return wall seconds, peak resident megabytes, and what it printed."""
    started = time.perf_counter()
    with tempfile.TemporaryFile("w+") as out:
        process = subprocess.Popen([sys.executable, *arguments], stdout=out, stderr=subprocess.DEVNULL)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        seconds = time.perf_counter() - started
        if process.returncode:
            raise RuntimeError(f"{arguments} ended with {process.returncode}")
        out.seek(0)
        return seconds, usage.ru_maxrss / 1024, out.read()


def measure_side(side: int, model: str, budget: int, folder: Path, rounds: int) -> dict[str, Any]:
    """Make a slide of this side and classify it several times, each in a new process."""
    path = folder / f"{side}.tif"
    write_synthetic_slide(path, seed=11, side_px=side, label="lesion")
    command = ["-m", "tnet_cli", "classify", str(path), "-m", model, "-o", str(folder / "out"), "--overwrite"]
    command += ["--budget", str(budget), "--no-overlay", "--json"]
    runs = [run_measured(command) for _ in range(rounds)]
    rows = [json.loads(printed)["slides"][0] for _, _, printed in runs]
    details = json.loads((folder / "out" / "slides" / path.stem / "result.json").read_text())
    return {
        "side": side,
        "gigapixels": side**2 / 1e9,
        "process_seconds": statistics.median(seconds for seconds, _, _ in runs),
        "slide_seconds": statistics.median(row["seconds"] for row in rows),
        "peak_mb": max(peak for _, peak, _ in runs),
        "locations": rows[0]["locations"],
        "fraction_of_pixels": rows[0]["fraction_read"],
        "fraction_of_bytes": details["bytes_read"] / path.stat().st_size,
    }


def main() -> None:
    """Measure and print one JSON document."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sides", default="5000,20000,60000")
    parser.add_argument("--budget", type=int, default=40)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--model", default=DEMO_MODEL)
    given = parser.parse_args()
    _, torch_mb, _ = run_measured(["-c", "import torch"])
    with tempfile.TemporaryDirectory() as folder:
        sides = [
            measure_side(int(side), given.model, given.budget, Path(folder), given.rounds)
            for side in given.sides.split(",")
        ]
    print(json.dumps({"budget": given.budget, "import_torch_mb": torch_mb, "sides": sides}, indent=2))


if __name__ == "__main__":
    main()
