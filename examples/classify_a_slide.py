"""Make a small synthetic slide, classify it from Python, and say where the model looked most.

Run: python examples/classify_a_slide.py FOLDER
"""

import sys
from pathlib import Path

from tnet_cli.inference.classify import ClassifyOptions, classify_slides
from tnet_cli.inputs.inputs import SlideInput
from tnet_cli.modelfile.modelfile import find_model, load_model
from tnet_cli.synth.synthesis import write_synthetic_slide


def main(folder: Path) -> None:
    """Classify one made slide."""
    slide = write_synthetic_slide(folder / "example.tif", seed=7, side_px=8000)
    model = load_model(find_model("synthetic-demo"))
    entry = SlideInput(path=str(slide.path), name=slide.path.stem)
    for _, outcome in classify_slides([entry], model, ClassifyOptions(locations=(4, 8, 8))):
        result = outcome.result
        print(f"true label {slide.label}, predicted {result.prediction}, probability {result.probability}")
        top = max(result.regions, key=lambda region: region.weight)
        print(f"most weight ({top.weight:.2f}) on {top.region} at {top.mpp:g} µm per pixel")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
