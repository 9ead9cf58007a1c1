"""``patients.csv``: answers of patients, and which of their slides gave none."""

from tnet_cli.results.patients import patient_columns, patient_rows
from tnet_cli.results.result import SlideResult, SlideRow, Status


def row(slide: str, status: Status, yes: float | None = None) -> SlideRow:
    probabilities = () if yes is None else (1 - yes, yes)
    result = SlideResult(slide=slide, path=slide, status=status, class_names=("no", "yes"), probabilities=probabilities)
    return SlideRow(result.row())


ROWS = [
    ("P1", row("a", "ok", 0.2)),
    ("P2", row("b", "abstained", 0.9)),
    ("P1", row("c", "ok", 0.8)),
    (None, row("d", "ok", 0.5)),
    ("P1", row("e", "abstained", 0.99)),
    ("P1", row("f", "failed")),
    ("P3", row("g", "failed")),
    ("P3", row("h", "failed")),
    ("P4", row("i", "no_tissue")),
]


def test_slides_without_an_answer_are_named_and_not_averaged_away():
    first, second, third, fourth = patient_rows(ROWS, ("no", "yes"), "mean")
    assert list(first) == patient_columns(("no", "yes"))
    assert (first["patient"], first["status"], first["prob_yes"], first["rule"]) == ("P1", "ok", 0.5, "mean")
    assert (first["slides"], first["counted"], first["abstained"], first["failed"]) == (4, 2, "e", "f")
    assert (second["status"], second["prediction"], second["prob_yes"], second["abstained"]) == (
        "abstained",
        None,
        None,
        "b",
    )
    assert (third["status"], third["failed"], third["counted"]) == ("failed", "g;h", 0)
    assert (fourth["status"], fourth["no_tissue"]) == ("no_tissue", "i")


def test_the_most_suspicious_slide_counts_by_the_other_rule():
    first = patient_rows(ROWS, ("no", "yes"), "max")[0]
    assert (first["prediction"], first["probability"], first["prob_yes"]) == ("yes", 0.8, 0.8)
