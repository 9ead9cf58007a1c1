"""Wall time on a slide of 1.5 gigapixels at 0.25 um: 50 patches of a teacher of ResNet-34's size, against every tile.

    python -m benchmarks.distillation.speed --work FOLDER [--rounds 3]

Random weights: what is measured is work. Both run through the same engine in one process, one after the other.
"""

import argparse
import json
import time
from pathlib import Path

import timm
import torch
from safetensors.torch import save_file

from tnet_cli.distillation.architecture import card_of, distilled_config, distilled_network
from tnet_cli.files import write_json, written_whole
from tnet_cli.inference.classify import EngineOptions, classify_slides
from tnet_cli.inputs.inputs import SlideInput
from tnet_cli.learning.kept import KeptReads
from tnet_cli.learning.teacher_scores import TeacherScores, score_slides
from tnet_cli.modelfile.card import Verdict
from tnet_cli.modelfile.modelfile import LoadedModel
from tnet_cli.modelfile.zoo import load_patch_model
from tnet_cli.places import Place
from tnet_cli.synth.synthesis import write_synthetic_slide

SIDE_PX, MPP = 38_800, 0.25


def zoo_folder(folder: Path) -> Path:
    """Write a patch model as the zoo's breast tumour classifier is, with random weights."""
    torch.manual_seed(0)
    folder.mkdir(parents=True, exist_ok=True)
    config = {
        "spec_version": "1.0",
        "architecture": "resnet34",
        "num_classes": 2,
        "patch_size_pixels": 350,
        "spacing_um_px": 0.25,
        "class_names": ["Other", "Tumor"],
        "transform": [{"name": "Resize", "arguments": {"size": 224}}, {"name": "ToTensor"}],
    }
    write_json(folder / "config.json", config)
    with written_whole(folder / "model.safetensors") as draft:
        save_file(timm.create_model("resnet34", num_classes=2).state_dict(), draft)
    return folder


def main() -> None:
    """Draw the slide, look both ways, and print what it took."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=3, help="of the distilled model; the median counts")
    given = parser.parse_args()
    given.work.mkdir(parents=True, exist_ok=True)
    path = given.work / "slide.tif"
    if not path.exists():
        write_synthetic_slide(path, seed=5, side_px=SIDE_PX, mpp=MPP)
    teacher = load_patch_model(str(zoo_folder(given.work / "teacher")))
    config = distilled_config(teacher, ("Other", "Tumor"), 50)
    verdict = Verdict.model_validate(
        {"rule": "top", "k": 10, "targets": ("Tumor",), "call_at": 0.5, "slope": 1.0, "intercept": 0.0}
        | {"teacher": teacher.card()}
    )
    engine, entry = EngineOptions(readers=2), SlideInput(path=Place(path), name="slide")

    def model() -> LoadedModel:
        torch.manual_seed(0)
        network = distilled_network(config, teacher).eval()
        return LoadedModel(network, card_of("speed", config, verdict, licence="none"), "", path)

    taken, results = [], []
    distilled = model()
    for _ in range(given.rounds):
        started = time.perf_counter()
        results += [result for _, result in classify_slides([entry], distilled, engine=engine)]
        taken.append(time.perf_counter() - started)
    result = results[-1]
    if result.score is None:
        raise SystemExit(result.error)
    started = time.perf_counter()
    ((_, scores),) = score_slides([entry], model(), KeptReads(), engine)
    every = time.perf_counter() - started
    if not isinstance(scores, TeacherScores):
        raise scores
    attended = sorted(taken)[len(taken) // 2]
    print(
        json.dumps(
            {
                "gigapixels": SIDE_PX**2 / 1e9,
                "finest cells with tissue": scores.cells,
                "looked at": result.score.attended,
                "share of finest cells": round(result.score.attended / scores.cells, 4),
                "share of pixels read": round(result.fraction_read or 0, 4),
                "distilled, s": round(attended, 2),
                "every tile, s": round(every, 1),
                "times": round(every / attended, 1),
            },
            indent=1,
        )
    )


if __name__ == "__main__":
    main()
