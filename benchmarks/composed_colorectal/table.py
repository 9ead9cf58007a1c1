"""What `tnet evaluate` found on composed slides: neoplastic or not, and carcinoma or not, with intervals.

    python -m benchmarks.composed_colorectal.table --design FOLDER NAME=EVALUATION... [--json FILE]

NAME says what was trained on what and tested on what; EVALUATION is a folder that `tnet evaluate` wrote, and FOLDER
holds the tables of how the slides were made. AUROC and sensitivity are of all slides that were looked at, whether the
answer counts or not; false positives and calibration are of those answered.
"""

import argparse
import csv
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np

from benchmarks.composed_colorectal.tiles import CLASS_NAMES
from tnet_cli.metrics.bootstrap import resample_patients
from tnet_cli.metrics.calibration import expected_calibration_error, reliability
from tnet_cli.metrics.discrimination import auroc
from tnet_cli.metrics.estimate import Estimate, wilson
from tnet_cli.metrics.predictions import Predictions

DRAWS, SEED = 1000, 0
GROUPS = ("fields", "easy", "hard")
"""Of the slides: pictures of at most 3 mm, and whole slides by the share of their foci."""


def read_rows(path: Path) -> list[dict[str, str]]:
    """Return the rows of a table."""
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def group_of(design: dict[str, str]) -> str:
    """Return which of ``GROUPS`` a slide is of, by its row of the table of how it was made."""
    return "fields" if design["kind"] == "field" else design["difficulty"]


@dataclass(frozen=True, slots=True, eq=False)
class Judged:
    """What was said of slides.

    Attributes:
        truth: Index of the label, int64 (N,).
        probabilities: float64 (N, 3); zero of a class that the model does not know.
        answered: Whether the answer counts, bool (N,).
        neoplastic_called: Whether the class that is called is neoplastic, bool (N,).
        rows: Of the table of predictions.
    """

    truth: np.ndarray
    probabilities: np.ndarray
    answered: np.ndarray
    neoplastic_called: np.ndarray
    rows: Sequence[dict[str, str]]

    @classmethod
    def of(cls, rows: Sequence[dict[str, str]]) -> Self:
        """Read rows of slides that were looked at."""
        probabilities = np.array([[float(row.get(f"prob_{name}") or 0) for name in CLASS_NAMES] for row in rows])
        return cls(
            truth=np.array([CLASS_NAMES.index(row["label"]) for row in rows]),
            probabilities=probabilities.reshape(-1, len(CLASS_NAMES)),
            answered=np.array([row["status"] == "ok" for row in rows], dtype=bool),
            neoplastic_called=probabilities.reshape(-1, len(CLASS_NAMES)).argmax(axis=1) > 0,
            rows=rows,
        )

    def auroc(self, positive: np.ndarray, score: np.ndarray, kept: np.ndarray | None = None) -> Estimate:
        """Return how well a score, float64 (N,), tells what is positive, bool (N,), among those kept."""
        chosen = np.arange(len(self.truth)) if kept is None else np.flatnonzero(kept)
        stated = np.stack([1 - score[chosen], score[chosen]], axis=1)
        truth = positive[chosen].astype(np.int64)
        names = tuple(self.rows[number]["path"] for number in chosen.tolist())
        predictions = Predictions(
            ("not", "positive"), truth, stated.argmax(axis=1), stated, np.log(stated + 1e-12), names
        )
        return auroc(predictions, resample_patients(truth, names, count=DRAWS, seed=SEED))

    def metrics(self) -> dict[str, Any]:
        """Return the metrics by name."""
        neoplastic, carcinoma = self.truth > 0, self.truth == len(CLASS_NAMES) - 1
        stated = 1 - self.probabilities[:, 0]
        answered, called = self.answered, self.neoplastic_called
        false = answered & ~neoplastic
        read = [float(row["fraction_read"]) for row in self.rows]
        return {
            "slides": len(self.truth),
            "neoplastic": self.auroc(neoplastic, stated),
            "carcinoma": self.auroc(carcinoma, self.probabilities[:, -1]),
            "carcinoma, adenoma left out": self.auroc(
                carcinoma,
                self.probabilities[:, -1] / (self.probabilities[:, 0] + self.probabilities[:, -1] + 1e-12),
                carcinoma | ~neoplastic,
            ),
            "false positives": wilson(int(called[false].sum()), int(false.sum())),
            "sensitivity": wilson(int(called[neoplastic].sum()), int(neoplastic.sum())),
            "calibration error": _calibration(stated[answered], neoplastic[answered]),
            "abstained": wilson(int((~answered).sum()), len(answered)),
            "pixels read": (float(np.mean(read)), max(read)),
            "locations": float(np.mean([float(row["locations"]) for row in self.rows])),
        }


def _calibration(stated: np.ndarray, came_true: np.ndarray) -> Estimate:
    """Return the calibration error of ten bins; its interval by drawing slides again."""
    if not len(stated):
        return Estimate.undefined()
    rng, found = np.random.default_rng(SEED), []
    for _ in range(DRAWS // 4):
        drawn = rng.integers(len(stated), size=len(stated))
        found.append(expected_calibration_error(reliability(stated[drawn], came_true[drawn])).value or 0.0)
    value = expected_calibration_error(reliability(stated, came_true)).value
    low, high = np.quantile(found, [0.025, 0.975])
    return Estimate(value=value, low=float(low), high=float(high), method="bootstrap")


def arms_of(folder: Path) -> dict[str, tuple[list[dict[str, str]], list[dict[str, str]]]]:
    """Return the predictions of each arm of an evaluation, and its rows of localisation."""
    first = json.loads((folder / "metrics.json").read_text())["arms"][0]["arm"]
    located = read_rows(folder / "localisation.csv") if (folder / "localisation.csv").exists() else []
    found = {}
    for path in sorted(folder.glob("predictions*.csv")):
        arm = path.stem.partition("_")[2] or first
        found[arm] = read_rows(path), [row for row in located if row["arm"] == arm]
    return found


def rows_of(name: str, folder: Path, designs: dict[str, dict[str, str]]) -> list[dict[str, Any]]:
    """Return a row for each arm and group of slides of an evaluation."""
    found = []
    for arm, (predictions, located) in arms_of(folder).items():
        # A model that knows no adenoma is judged by a manifest that calls them carcinoma: the label is the slide's.
        seen = [row | {"label": designs[Path(row["path"]).name]["label"]} for row in predictions]
        seen = [row for row in seen if row[f"prob_{CLASS_NAMES[0]}"] and row["label"] in CLASS_NAMES]
        for group in GROUPS:
            mine = [row for row in seen if group_of(designs[Path(row["path"]).name]) == group]
            if len({row["label"] == CLASS_NAMES[0] for row in mine}) < 2:
                continue
            names = {row["slide"] for row in mine if row["label"] != CLASS_NAMES[0]}
            hits = [row["hit"] == "True" for row in located if row["slide"] in names]
            row = {"trained and tested on": name, "arm": arm, "group": group} | Judged.of(mine).metrics()
            found.append(row | {"hit rate": float(np.mean(hits)) if hits else None})
    return found


def as_line(row: dict[str, Any]) -> str:
    """Return a row as one of Markdown."""
    cells = []
    for value in row.values():
        match value:
            case Estimate():
                cells.append(value.words())
            case (float(), float()):
                cells.append(f"{100 * value[0]:.2g} %, at most {100 * value[1]:.2g} %")
            case float():
                cells.append(f"{value:.2f}")
            case _:
                cells.append("" if value is None else str(value))
    return f"| {' | '.join(cells)} |"


def main() -> None:
    """Print the table as Markdown; write it as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("evaluations", nargs="+", metavar="NAME=EVALUATION")
    parser.add_argument("--design", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--json", type=Path, metavar="FILE")
    given = parser.parse_args()
    designs = {row["slide"]: row for path in given.design.glob("*-design.csv") for row in read_rows(path)}
    rows: list[dict[str, Any]] = []
    for each in given.evaluations:
        name, _, folder = each.partition("=")
        rows += rows_of(name, Path(folder), designs)
    print(f"| {' | '.join(rows[0])} |")
    print("|---" * len(rows[0]) + "|")
    for row in rows:
        print(as_line(row))
    if given.json is not None:
        plain = [{key: v.record() if isinstance(v, Estimate) else v for key, v in row.items()} for row in rows]
        given.json.write_text(json.dumps(plain, indent=2) + "\n")


if __name__ == "__main__":
    main()
