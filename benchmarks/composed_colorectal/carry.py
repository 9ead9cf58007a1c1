"""Does the calibration carry over? Fitted on validation slides of one collection or both, tested on those of each.

    python -m benchmarks.composed_colorectal.carry EVALUATION --design FOLDER

EVALUATION is a folder of ``tnet evaluate --calibrate validation``, and FOLDER holds the tables of how the slides were
made. Neoplastic or not, as half of the test slides are; the calibration error has ten bins. Slides without an answer
are counted too.
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.composed_colorectal.table import GROUPS, group_of, read_rows
from benchmarks.composed_colorectal.tiles import CLASS_NAMES, COLLECTIONS
from tnet_cli.metrics.calibration import Calibration, expected_calibration_error, fit_calibration, reliability
from tnet_cli.metrics.predictions import softmax


@dataclass(frozen=True, slots=True, eq=False)
class Slides:
    """Slides with what the network said of them: logits float64 (N, 3) and the index of the label, int64 (N,)."""

    logits: np.ndarray
    truth: np.ndarray


def slides_of(evaluation: Path, designs: dict[str, dict[str, str]], split: str, of: Sequence[str]) -> dict[str, Slides]:
    """Return the slides of a split by group, those of some collections; ``all`` for all groups.

    Args:
        evaluation: Its ledger has a line for each slide that was looked at.
        designs: How each slide was made, by its file.
    """
    found: dict[str, tuple[list[float], int]] = {}
    for line in (evaluation / ".tnet" / "ledger.jsonl").read_text().splitlines():
        entry = json.loads(line)
        if "logits" in entry.get("kept", {}):
            name = Path(entry["row"]["path"]).name
            made = designs[name]
            if made["split"] == split and made["collection"] in of and made["label"] in CLASS_NAMES:
                found[name] = entry["kept"]["logits"], CLASS_NAMES.index(made["label"])
    parts = {"all": list(found), **{group: [n for n in found if group_of(designs[n]) == group] for group in GROUPS}}
    return {
        group: Slides(np.array([found[n][0] for n in names]).reshape(-1, 3), np.array([found[n][1] for n in names]))
        for group, names in parts.items()
    }


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("evaluation", type=Path)
    parser.add_argument("--design", type=Path, required=True, metavar="FOLDER")
    given = parser.parse_args()
    designs = {row["slide"]: row for path in given.design.glob("*-design.csv") for row in read_rows(path)}
    print("| fitted on | tested on | group | slides | false positives | sensitivity | calibration error |")
    print("|---|---|---|---|---|---|---|")
    for fitted in (*([name] for name in COLLECTIONS), list(COLLECTIONS)):
        validation = slides_of(given.evaluation, designs, "val", fitted)["all"]
        fit = fit_calibration(validation.logits, validation.truth, CLASS_NAMES, Calibration())
        for tested in COLLECTIONS:
            for group, slides in slides_of(given.evaluation, designs, "test", [tested]).items():
                if not len(slides.truth):
                    continue
                stated = softmax(slides.logits, fit.temperature, fit.bias)
                true, called, neoplastic = slides.truth > 0, stated.argmax(axis=1) > 0, 1 - stated[:, 0]
                cells = (
                    *(" and ".join(fitted), tested, group, len(true)),
                    *(f"{called[~true].mean():.2f}", f"{called[true].mean():.2f}"),
                    f"{expected_calibration_error(reliability(neoplastic, true)).value:.3f}",
                )
                print(f"| {' | '.join(map(str, cells))} |")


if __name__ == "__main__":
    main()
