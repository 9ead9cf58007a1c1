"""A distilled model beside its teacher on the same slides: what is compared, and what is written of it."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tnet_cli.files import table_text, write_bytes_whole, write_json, write_text_whole
from tnet_cli.inference.verdict import responses_of
from tnet_cli.inputs.inputs import SlideInput
from tnet_cli.learning.teacher_scores import TeacherScores, teacher_score
from tnet_cli.metrics.agreement import Agreement, SlideAgreement, top_attended
from tnet_cli.metrics.bootstrap import patient_or_slide
from tnet_cli.modelfile.card import Verdict
from tnet_cli.report.agreement import agreement_plot
from tnet_cli.report.plots import Point
from tnet_cli.results.result import SlideResult

AGREEMENT, AGREEMENT_TABLE, AGREEMENT_PLOT = "agreement.json", "agreement.csv", "agreement.png"

TOP_CELLS = 10
"""Of the teacher's highest cells, how many should have been looked at, where the rule has no number of its own."""


def compared(entry: SlideInput, verdict: Verdict, scores: TeacherScores, result: SlideResult) -> SlideAgreement:
    """Put beside each other what a distilled model says of a slide and what its teacher says of all of it.

    Args:
        result: Of a slide that was looked at; whether its answer counts is of no account here.

    Raises:
        ValueError: the result has no score.
    """
    if result.score is None:
        raise ValueError(f"{entry.shown_path}: was not judged by a rule")
    responses = responses_of(verdict, scores.probabilities)
    finest = max(region.processing_level for region in result.regions)
    looked_at = {(each.region.x, each.region.y) for each in result.regions if each.processing_level == finest}
    said = teacher_score(verdict, scores)
    return SlideAgreement(
        slide=result.slide,
        patient=patient_or_slide(entry.patient, result.slide),
        teacher_score=said,
        score=result.score.value,
        low=result.score.low,
        high=result.score.high,
        teacher_calls=said >= verdict.call_at,
        calls=result.logits[1] > result.logits[0],
        top_attended=top_attended(scores.boxes, responses, looked_at, min(verdict.k or TOP_CELLS, len(looked_at))),
        cells=result.score.cells,
        looked_at=result.score.attended + result.score.sampled,
        pixels=result.pixels_read,
        teacher_pixels=scores.pixels_read,
        seconds=result.seconds,
        teacher_seconds=scores.seconds,
    )


def write_agreement(out: Path, found: Agreement, rows: Sequence[SlideAgreement], verdict: Verdict) -> dict[str, Any]:
    """Write a run's agreement as numbers, a row a slide, and a plot; return the numbers."""
    record = {"teacher": verdict.teacher.name, "rule": verdict.rule_words, "call_at": verdict.call_at} | found.record()
    write_json(out / AGREEMENT, record)
    # Whose patient is not known stands for itself, and its name has a mark that no table may hold.
    table = [asdict(row) | {"patient": row.patient.removeprefix("\0")} for row in rows]
    write_text_whole(out / AGREEMENT_TABLE, table_text(list(table[0]), table))
    points = [
        Point(
            row.teacher_score,
            row.score,
            low=row.score if row.low is None else row.low,
            high=row.score if row.high is None else row.high,
        )
        for row in rows
    ]
    picture = agreement_plot(
        points,
        [row.calls for row in rows],
        call_at=verdict.call_at,
        axis=verdict.rule_words,
        summary=f"kappa {found.kappa.words()}, {len(rows)} slides",
    )
    write_bytes_whole(out / AGREEMENT_PLOT, picture)
    return record
