"""What `tnet evaluate` found on the composed test slides, easy and hard foci apart.

Run: python -m benchmarks.composed_colon.table EVALUATION... [--card MODEL.safetensors]

Each folder is one that `tnet evaluate` wrote; an arm is taken from the first that has it. Benign slides count for both
kinds of foci. With --card the metrics go into the card of the model file, with those of the first folder's calibration.
"""

import argparse
import csv
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.composed_colon.compose import difficulty_of
from benchmarks.composed_colon.tiles import CLASS_NAMES
from tnet_cli.metrics.bootstrap import resample_patients
from tnet_cli.metrics.discrimination import accuracy, auroc
from tnet_cli.metrics.estimate import Estimate
from tnet_cli.metrics.predictions import Predictions
from tnet_cli.modelfile.modelfile import copy_model, load_model

DRAWS, SEED = 1000, 0
POSITIVE = CLASS_NAMES[1]
MEASURED_ON = (
    "Measured on slides composed the same way as those it was trained on, of other tiles of the same collection."
)


@dataclass(frozen=True, slots=True)
class ArmMetrics:
    """One arm on one kind of foci.

    Attributes:
        difficulty: ``easy`` or ``hard``.
        slides: Positive ones and all benign ones.
        fraction_read: Mean, and the largest of a slide.
        share_on_foci: Mean over positive slides of the share of finest locations that lie on a focus; None where the
            arm has no localisation.
        hit_rate: Share of positive slides of which a finest location lies on a focus; None as above.
    """

    arm: str
    difficulty: str
    slides: int
    auroc: Estimate
    accuracy: Estimate
    fraction_read: tuple[float, float]
    locations: float
    share_on_foci: float | None
    hit_rate: float | None


def read_rows(path: Path) -> list[dict[str, str]]:
    """Return the rows of a table."""
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def arms_of(folders: Sequence[Path]) -> dict[str, tuple[list[dict[str, str]], list[dict[str, str]]]]:
    """Return the predictions of each arm, and its rows of localisation."""
    found: dict[str, tuple[list[dict[str, str]], list[dict[str, str]]]] = {}
    for folder in folders:
        first = json.loads((folder / "metrics.json").read_text())["arms"][0]["arm"]
        located = read_rows(folder / "localisation.csv") if (folder / "localisation.csv").exists() else []
        for path in sorted(folder.glob("predictions*.csv")):
            arm = path.stem.partition("_")[2] or first
            found.setdefault(arm, (read_rows(path), [row for row in located if row["arm"] == arm]))
    return found


def arm_metrics(
    arm: str, difficulty: str, rows: Sequence[dict[str, str]], located: Sequence[dict[str, str]]
) -> ArmMetrics:
    """Sum up an arm on the slides with one kind of foci and all benign ones."""
    kept = [row for row in rows if difficulty_of(row["path"]) in ("", difficulty)]
    predictions = _predictions(kept)
    resampling = resample_patients(predictions.truth, predictions.patients, count=DRAWS, seed=SEED)
    names = {row["slide"] for row in kept if row["label"] == POSITIVE}
    on_foci = [row for row in located if row["slide"] in names]
    read = [float(row["fraction_read"]) for row in kept]
    return ArmMetrics(
        arm=arm,
        difficulty=difficulty,
        slides=len(kept),
        auroc=auroc(predictions, resampling),
        accuracy=accuracy(predictions),
        fraction_read=(float(np.mean(read)), max(read)),
        locations=float(np.mean([float(row["locations"]) for row in kept])),
        share_on_foci=float(np.mean([float(row["share_on_lesion"] or 0) for row in on_foci])) if on_foci else None,
        hit_rate=float(np.mean([row["hit"] == "True" for row in on_foci])) if on_foci else None,
    )


def _predictions(rows: Sequence[dict[str, str]]) -> Predictions:
    probabilities = np.array([[float(row[f"prob_{name}"]) for name in CLASS_NAMES] for row in rows])
    return Predictions(
        class_names=CLASS_NAMES,
        truth=np.array([CLASS_NAMES.index(row["label"]) for row in rows]),
        called=probabilities.argmax(axis=1),  # also where the answer does not count
        probabilities=probabilities,
        logits=np.log(np.maximum(probabilities, 1e-12)),
        patients=tuple(row["path"] for row in rows),
    )


def main() -> None:
    """Print the table as Markdown, and the same as JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.composed_colon.table", description=__doc__)
    parser.add_argument("folders", type=Path, nargs="+", metavar="EVALUATION")
    parser.add_argument("--card", type=Path, metavar="MODEL", help="model file whose card gets the metrics")
    parser.add_argument("--curve", type=Path, metavar="EVALUATION", help="whose curve goes into the card too")
    parser.add_argument("--changed", type=Path, metavar="FILE", help="what .robustness --json wrote, for the card")
    given = parser.parse_args()
    document: list[dict[str, Any]] = []
    rows: list[ArmMetrics] = []
    print("| foci | arm | slides | AUROC | accuracy | locations | pixels read | finest on foci | slides hit |")
    print("|---|---|---|---|---|---|---|---|---|")
    for difficulty in ("easy", "hard"):
        for arm, (predictions, located) in arms_of(given.folders).items():
            row = arm_metrics(arm, difficulty, predictions, located)
            rows.append(row)
            share, hits = ("" if value is None else f"{value:.2f}" for value in (row.share_on_foci, row.hit_rate))
            mean, most = (f"{100 * value:.2g} %" for value in row.fraction_read)
            print(
                f"| {difficulty} | {arm} | {row.slides} | {row.auroc.words()} | {row.accuracy.words()} | "
                f"{row.locations:.0f} | {mean}, at most {most} | {share} | {hits} |"
            )
            document.append(
                {"foci": difficulty, "arm": arm, "auroc": row.auroc.record(), "accuracy": row.accuracy.record()}
                | {"fraction_read": row.fraction_read, "locations": row.locations}
                | {"share_on_foci": row.share_on_foci, "hit_rate": row.hit_rate}
            )
    print(json.dumps(document, indent=2))
    if given.card is not None:
        card = load_model(given.card).card
        kept = {name: value for name, value in card.metrics.items() if name == "calibration"}
        kept["evaluation"] = calibration_for_card(given.folders[0])
        if given.changed is not None:
            kept["the same slides changed"] = changes_for_card(given.changed)
        # What the training said of its own measurements no longer holds.
        limits = tuple(limit for limit in card.limits if not limit.startswith(("Measured on", "The manifest's")))
        source = card.training_data[0].model_copy(update={"name": "slides composed of LC25000 tiles"})
        if given.curve is not None:
            kept["accuracy against locations"] = curve_for_card(given.curve)
        changes = {"metrics": for_card(rows) | kept, "limits": (MEASURED_ON, *limits), "training_data": (source,)}
        copy_model(given.card, card.model_copy(update=changes), given.card)


def curve_for_card(folder: Path) -> dict[str, Any]:
    """Return the accuracy-against-locations curve of an evaluation as a card holds it."""
    rows = read_rows(folder / "curve.csv")
    return {
        f"{row['budget']} locations": {"AUROC": float(row["auroc"]), "accuracy": float(row["accuracy"])}
        for row in rows
        if row["arm"] == "tnet"
    } | {"slides": int(rows[0]["judged"])}


def calibration_for_card(folder: Path) -> dict[str, Any]:
    """Return how the probabilities of an evaluation fit, and how many of its slides had no answer."""
    calibration = json.loads((folder / "metrics.json").read_text())["calibration"]
    rows = read_rows(folder / "predictions.csv")
    return {
        "slides": len(rows) - sum(bool(row["qc"]) for row in rows),
        "expected calibration error": round(calibration["expected_calibration_error"]["value"], 3),
        "Brier score": round(calibration["brier_score"]["value"], 3),
        "without an answer": f"{sum(bool(row['qc']) for row in rows)} of {len(rows)}",
    }


def changes_for_card(path: Path) -> dict[str, str]:
    """Return what ``.robustness`` found as a card holds it: change -> a sentence."""
    return {
        row["name"]: f"{row['right']} of {row['slides']} right, {row['flips']} calls differ, "
        f"{row['warned']} said to be out of domain"
        for row in json.loads(path.read_text())
    }


def for_card(rows: Sequence[ArmMetrics]) -> dict[str, Any]:
    """Return the metrics as a card holds them: foci -> arm -> metrics."""
    metrics: dict[str, Any] = {"slides": "composed test slides of 20000 to 60000 px; no tile of theirs was trained on"}
    for row in rows:
        of_arm: dict[str, Any] = {"AUROC (95 %)": row.auroc.words(), "accuracy (95 %)": row.accuracy.words()}
        of_arm |= {"locations": round(row.locations), "fraction read, mean": round(row.fraction_read[0], 5)}
        if row.hit_rate is not None:
            of_arm |= {"finest locations on foci": row.share_on_foci, "slides with a focus hit": row.hit_rate}
        metrics.setdefault(f"{row.difficulty} foci, {row.slides} slides", {})[row.arm] = of_arm
    return metrics


if __name__ == "__main__":
    main()
