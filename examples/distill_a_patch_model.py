"""Distil a patch model: its verdict on whole slides, from a few of its patches, with an interval.

Run: python examples/distill_a_patch_model.py FOLDER

Takes some minutes on two cores; interrupted, the same command goes on. The teacher is the finest view of the
bundled model ``synthetic-demo``, so that nothing need be downloaded; a folder of the WSInfer zoo is given the same way.
By hand:

    tnet synth FOLDER/train --count 24 --size 10000 --seed 0
    tnet synth FOLDER/fresh --count 12 --size 10000 --seed 1000000
    tnet distill FOLDER/train --teacher synthetic-demo --rule area -o FOLDER/model
    tnet evaluate FOLDER/fresh/labels.csv -m FOLDER/model/model.safetensors --teacher synthetic-demo -o FOLDER/agreement
    tnet classify FOLDER/fresh -m FOLDER/model/model.safetensors -o FOLDER/results
    tnet models export FOLDER/model/model.safetensors --format wsinfer -o FOLDER/qupath
"""

import argparse
import time
from pathlib import Path

import tnet_cli
from tnet_cli.distillation.folder import DistillRequest
from tnet_cli.distillation.run import run_distill
from tnet_cli.evaluation.agreement import AgreementRequest, run_agreement
from tnet_cli.inference.progress import Progress, StepReport
from tnet_cli.inputs.options import TraversalOptions
from tnet_cli.modelfile.export_wsinfer import export_wsinfer
from tnet_cli.places import Place
from tnet_cli.synth.synthesis import synthesize

TEACHER = "synthetic-demo"
FRESH_SEED = 1_000_000


class Told(Progress):
    """Prints what a run tells."""

    def note(self, text: str) -> None:
        """Print a sentence."""
        print(text, flush=True)

    def step(self, report: StepReport) -> None:
        """Print how far it is."""
        metrics = "  ".join(f"{name} {value:.3f}" for name, value in report.terms.items())
        print(f"{report.stage}  {report.step}/{report.steps}  {metrics}".rstrip(), flush=True)


def main() -> None:
    """Draw slides, distil, compare with the teacher on fresh ones, classify, and go back to QuPath."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--count", type=int, default=24, help="slides to learn from; their labels are not used")
    parser.add_argument("--fresh", type=int, default=12, help="slides to compare on")
    parser.add_argument("--size", type=int, default=10_000, help="side in pixels")
    parser.add_argument("--steps", type=int, default=300, help="steps of training")
    parser.add_argument("--locations", type=int, default=50, help="patches of the teacher on a slide")
    given = parser.parse_args()
    started, folder = time.perf_counter(), given.folder
    for name, count, seed in (("train", given.count, 0), ("fresh", given.fresh, FRESH_SEED)):
        if not (folder / name / "labels.csv").exists():
            synthesize(folder / name, count=count, side_px=given.size, seed=seed)
    print(f"slides drawn after {time.perf_counter() - started:.0f} s", flush=True)

    request = DistillRequest(
        inputs=[Place(folder / "train" / "labels.csv")],
        teacher=TEACHER,
        out=folder / "model",
        rule="area",
        steps=given.steps,
        locations=given.locations,
    )
    report = run_distill(request, Told())
    print(f"{report.line()} ({time.perf_counter() - started:.0f} s)", flush=True)

    comparison = AgreementRequest(
        inputs=[Place(folder / "fresh" / "labels.csv")],
        model=str(report.model),
        teacher=TEACHER,
        out=folder / "agreement",
        traversal=TraversalOptions(),
    )
    print(run_agreement(comparison, Told()).said)

    run = tnet_cli.classify(folder / "fresh" / "labels.csv", model=report.model, out=folder / "results")
    for row in run.rows:
        said = row.values
        print(
            f"{said['slide']}: {said['prediction']}, {said['probability']:.2f}; lesion on {100 * said['score']:.1f} % "
            f"of the tissue (95 % interval {100 * said['score_low']:.1f} to {100 * said['score_high']:.1f} %), "
            f"{said['locations']} locations"
        )
    back = export_wsinfer(str(report.model), folder / "qupath", overwrite=True)
    print(
        f"for QuPath: {folder / 'qupath'}, patches of {back.side_um:g} µm; {time.perf_counter() - started:.0f} s in all"
    )


if __name__ == "__main__":
    main()
