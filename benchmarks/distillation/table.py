"""What a distilled model keeps of its teacher on composed slides, beside as many of its patches at random.

    tnet distill FOLDER/train-lc.csv --teacher colorectal-neoplasia --target adenoma,adenocarcinoma -o RUN
    python -m benchmarks.distillation.table --slides FOLDER/test-lc.csv --model RUN/model.safetensors --scores DIR

FOLDER holds slides of ``benchmarks.composed_colorectal``, whole ones of which are judged. The teacher's scores of every
tile are kept in DIR, and not made again. What is drawn at random is judged by the same rule. Every row counts all
patches that are looked at, those included that a rule over all of the tissue draws.
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from sklearn.metrics import roc_auc_score

from benchmarks.composed_colorectal.table import group_of, read_rows
from benchmarks.composed_colorectal.tiles import CLASS_NAMES
from tnet_cli.errors import SlideError
from tnet_cli.inference.classify import EngineOptions, classify_slides
from tnet_cli.inference.verdict import responses_of, values_of
from tnet_cli.inputs.inputs import SlideInput, read_manifest
from tnet_cli.inputs.options import TraversalOptions
from tnet_cli.learning.agreement import compared
from tnet_cli.learning.kept import KeptReads
from tnet_cli.learning.teacher_scores import TeacherScores, score_slides
from tnet_cli.metrics.agreement import SlideAgreement, agreement_of
from tnet_cli.metrics.difference import top_mean
from tnet_cli.modelfile.card import Verdict
from tnet_cli.modelfile.modelfile import load_model

RANDOM_DRAWS = 20
FEWER = 25


@dataclass(frozen=True, slots=True)
class LabelledSlide:
    """A slide, and the group of ``composed_colorectal.table.GROUPS`` that it is of."""

    entry: SlideInput
    group: str

    @property
    def is_positive(self) -> bool:
        """Whether it has neoplastic foci."""
        return self.entry.label != CLASS_NAMES[0]


def whole_slides(manifest: Path) -> list[LabelledSlide]:
    """Return the slides of a manifest that are no fields, by the table of how they were made beside it."""
    made = {row["slide"]: row for row in read_rows(manifest.with_name(f"{manifest.stem}-design.csv"))}
    found = [LabelledSlide(entry, group_of(made[Path(str(entry.path)).name])) for entry in read_manifest(manifest)]
    return [slide for slide in found if slide.group != "fields"]


def auroc(slides: Sequence[LabelledSlide], scores: Sequence[float], group: str) -> float:
    """Return the AUROC of the slides of a group."""
    mine = [number for number, slide in enumerate(slides) if slide.group == group]
    return float(roc_auc_score([slides[n].is_positive for n in mine], [scores[n] for n in mine]))


def by_rule(verdict: Verdict, responses: np.ndarray) -> float:
    """Return the score of a slide of which these responses of the teacher are known, by the rule alone."""
    if verdict.rule == "top":
        return top_mean(responses, verdict.k or 1)
    return float(values_of(verdict, responses).mean())


def random_row(
    slides: Sequence[LabelledSlide], verdict: Verdict, scores: dict[int, TeacherScores], count: int
) -> tuple[float, float]:
    """Return the mean AUROC of easy and of hard foci where the teacher looks at so many cells at random."""
    rng = np.random.default_rng(0)
    found = []
    for _ in range(RANDOM_DRAWS):
        drawn = []
        for number in range(len(slides)):
            responses = responses_of(verdict, scores[number].probabilities)
            drawn.append(by_rule(verdict, rng.choice(responses, size=min(count, len(responses)), replace=False)))
        found.append([auroc(slides, drawn, group) for group in ("easy", "hard")])
    easy, hard = np.mean(found, axis=0)
    return float(easy), float(hard)


def difference_interval(
    slides: Sequence[LabelledSlide], teacher: Sequence[float], said: Sequence[float]
) -> tuple[float, float]:
    """Return the 95 % interval, of a bootstrap over slides, of what the AUROC of all slides loses."""
    truth = np.array([slide.is_positive for slide in slides])
    rng, lost = np.random.default_rng(1), []
    for _ in range(1000):
        drawn = np.concatenate([rng.choice(np.flatnonzero(truth == each), (truth == each).sum()) for each in (0, 1)])
        both = [roc_auc_score(truth[drawn], np.asarray(scores)[drawn]) for scores in (said, teacher)]
        lost.append(both[0] - both[1])
    low, high = np.quantile(lost, [0.025, 0.975])
    return float(low), float(high)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--slides", type=Path, required=True)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--scores", type=Path, required=True)
    given = parser.parse_args()
    slides = whole_slides(given.slides)
    entries = [slide.entry for slide in slides]
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
    locations, sample = model.card.network.locations, verdict.sample
    rows: dict[int, list[SlideAgreement]] = {}
    for fine in (locations[-1], FEWER if sample == 0 else locations[-1] // 2):
        options = TraversalOptions(locations=(*locations[:-1], fine))
        results = dict(classify_slides(entries, load_model(given.model), options, engine))
        rows[fine + sample] = [compared(e, verdict, scores[n], results[n]) for n, e in enumerate(entries)]
    first = next(iter(rows.values()))
    teacher = [row.teacher_score for row in first]
    columns = (
        *("what looks", "patches a slide", "of the finest cells", "easy foci", "hard foci"),
        *("kappa", "Spearman", "top cells", "times less work"),
    )
    print(f"| {' | '.join(columns)} |", "|---" * len(columns) + "|", sep="\n")
    cells = np.mean([row.cells for row in first])
    print(
        f"| teacher on every tile | {cells:.0f} | 100 % | {auroc(slides, teacher, 'easy'):.3f} | "
        f"{auroc(slides, teacher, 'hard'):.3f} | | | | 1 |"
    )
    for count, mine in rows.items():
        overall = agreement_of(mine)
        said = [row.score for row in mine]
        print(
            f"| distilled | {count} | {100 * overall.share_of_cells:.2g} % | {auroc(slides, said, 'easy'):.3f} | "
            f"{auroc(slides, said, 'hard'):.3f} | {overall.kappa.words()} | {overall.spearman.words()} | "
            f"{overall.top_attended or 0:.2f} | {overall.times_faster:.1f} |"
        )
    for count in rows:
        easy, hard = random_row(slides, verdict, scores, count)
        print(f"| teacher on random cells | {count} | {100 * count / cells:.2g} % | {easy:.3f} | {hard:.3f} | | | | |")
    for count, mine in rows.items():
        low, high = difference_interval(slides, teacher, [row.score for row in mine])
        print(f"{count} patches: AUROC of all slides less the teacher's, 95 % by slides: {low:+.3f} to {high:+.3f}")
    read = [row.pixels for row in first]
    print(f"pixels read: {np.mean(read):.3g} a slide, at most {max(read):.3g}; {len(entries)} slides", flush=True)


if __name__ == "__main__":
    main()
