"""Make a small synthetic slide, classify it from Python, and say where the model looked most.

Run: python examples/classify_a_slide.py FOLDER
"""

import csv
import sys
from pathlib import Path

import tnet_cli
from tnet_cli.synth.synthesis import write_synthetic_slide


def main(folder: Path) -> None:
    """Classify one made slide."""
    slide = write_synthetic_slide(folder / "example.tif", seed=7, side_px=5000)
    out = folder / "results"
    report = tnet_cli.classify(slide.path, model="synthetic-demo", locations=(4, 8, 8), out=out)
    for row in report.rows:
        said = row.values
        print(f"true label {slide.label}, predicted {said['prediction']}, probability {said['probability']}")
        with (out / "slides" / said["slide"] / "regions.csv").open(newline="") as file:
            top = max(csv.DictReader(file), key=lambda region: float(region["weight"]))
        box = ", ".join(top[name] for name in ("minx", "miny", "width", "height"))
        print(f"most weight ({float(top['weight']):.2f}) on {box} at {top['mpp']} µm per pixel")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
