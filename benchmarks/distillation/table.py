"""What a distilled model keeps of its teacher on composed slides: at 50 and at 25 patches, beside as many at random.

    python -m benchmarks.distillation.table --slides FOLDER/test.csv --model RUN/model.safetensors --scores FOLDER

The teacher's scores of every tile are kept in FOLDER, and not made again.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from sklearn.metrics import roc_auc_score

from benchmarks.composed_colon.tiles import CLASS_NAMES
from benchmarks.distillation.slides import KINDS
from tnet_cli.errors import SlideError
from tnet_cli.inference.classify import EngineOptions, classify_slides
from tnet_cli.inference.verdict import responses_of
from tnet_cli.inputs.inputs import SlideInput, read_manifest
from tnet_cli.inputs.options import TraversalOptions
from tnet_cli.learning.agreement import compared
from tnet_cli.learning.kept import KeptReads
from tnet_cli.learning.teacher_scores import TeacherScores, score_slides
from tnet_cli.metrics.agreement import SlideAgreement, agreement_of
from tnet_cli.metrics.difference import top_mean
from tnet_cli.modelfile.modelfile import load_model

RANDOM_DRAWS = 20


def kind_of(entry: SlideInput) -> str:
    """Return ``easy`` or ``hard``, or nothing for a negative slide, by the number in its name."""
    return KINDS[int(entry.name.rpartition("-")[2]) % len(KINDS)]


def auroc(entries: Sequence[SlideInput], scores: Sequence[float], kind: str) -> float:
    """Return the AUROC of negative slides against those of a kind."""
    mine = [number for number, entry in enumerate(entries) if kind_of(entry) in {"", kind}]
    truth = [entries[number].label == CLASS_NAMES[1] for number in mine]
    return float(roc_auc_score(truth, [scores[number] for number in mine]))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--slides", type=Path, required=True)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--scores", type=Path, required=True)
    given = parser.parse_args()
    entries = read_manifest(given.slides)
    model, engine = load_model(given.model), EngineOptions(readers=2)
    verdict = model.card.verdict
    if verdict is None:
        raise SystemExit(f"{given.model} was not distilled")
    scores: dict[int, TeacherScores] = {}
    for number, found in score_slides(entries, model, KeptReads(given.scores), engine):
        if isinstance(found, SlideError):
            raise found
        scores[number] = found
        print(f"scored {len(scores)}/{len(entries)}", end="\r", flush=True)
    rows: dict[str, list[SlideAgreement]] = {}
    locations = model.card.network.locations
    for fine in (locations[-1], locations[-1] // 2):
        options = TraversalOptions(locations=(*locations[:-1], fine))
        results = dict(classify_slides(entries, load_model(given.model), options, engine))
        rows[str(fine)] = [compared(e, verdict, scores[n], results[n]) for n, e in enumerate(entries)]
    first = rows[str(locations[-1])]
    teacher = [row.teacher_score for row in first]
    columns = (
        *("what looks", "patches a slide", "of the finest cells", "easy foci", "hard foci"),
        *("kappa", "Spearman", "top cells", "times less work"),
    )
    print(f"| {' | '.join(columns)} |", "|---" * len(columns) + "|", sep="\n")
    cells = np.mean([row.cells for row in first])
    print(
        f"| teacher on every tile | {cells:.0f} | 100 % | {auroc(entries, teacher, 'easy'):.3f} | "
        f"{auroc(entries, teacher, 'hard'):.3f} | | | | 1 |"
    )
    for name, mine in rows.items():
        overall = agreement_of(mine)
        said = [row.score for row in mine]
        print(
            f"| distilled | {name} | {100 * overall.share_of_cells:.2g} % | {auroc(entries, said, 'easy'):.3f} | "
            f"{auroc(entries, said, 'hard'):.3f} | {overall.kappa.words()} | {overall.spearman.words()} | "
            f"{overall.top_attended or 0:.2f} | {overall.times_faster:.1f} |"
        )
    rng = np.random.default_rng(0)
    easy, hard = [], []
    for _ in range(RANDOM_DRAWS):
        drawn = []
        for number in range(len(entries)):
            responses = responses_of(verdict, scores[number].probabilities)
            some = rng.choice(responses, size=min(locations[-1], len(responses)), replace=False)
            drawn.append(top_mean(some, verdict.k or 10))
        easy.append(auroc(entries, drawn, "easy"))
        hard.append(auroc(entries, drawn, "hard"))
    print(
        f"| teacher on random cells | {locations[-1]} | {100 * locations[-1] / cells:.2g} % | {np.mean(easy):.3f} | "
        f"{np.mean(hard):.3f} | | | | |"
    )
    pixels = sum(row.pixels for row in first) / (len(entries) * 16_000**2)
    print(f"pixels read: {100 * pixels:.2g} % of the slides; {len(entries)} slides", flush=True)


if __name__ == "__main__":
    main()
