"""What ``tnet distill`` was asked, and the folder it writes: what is in it, and whose it is."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tnet_cli.distillation.architecture import FINE_LOCATIONS
from tnet_cli.distillation.verdicts import rule_of
from tnet_cli.errors import DISTRIBUTION, UsageError
from tnet_cli.files import FolderKind, read_record, table_text, write_text_whole
from tnet_cli.inference.device import describe_machine
from tnet_cli.inputs.inputs import SlideInput
from tnet_cli.learning.agreement import AGREEMENT, AGREEMENT_PLOT, AGREEMENT_TABLE
from tnet_cli.learning.checkpoint import FILE_NAME
from tnet_cli.learning.kept import KeptReads, key_of
from tnet_cli.model.config import TNetConfig
from tnet_cli.modelfile.card import MODEL_FILE, Verdict
from tnet_cli.places import Place
from tnet_cli.results.layout import HOLDER, LOCK, RUN_RECORD, RunDirectory
from tnet_cli.results.lock import locked

SPLITS = "splits.csv"
CHECKPOINTS, SCORES, PATCHES = "checkpoints", "scores", "checkpoints/patches"
REPLACED = (
    *(SPLITS, MODEL_FILE, "model.md", AGREEMENT, AGREEMENT_TABLE, AGREEMENT_PLOT, f"{CHECKPOINTS}/{FILE_NAME}"),
)
DISTILLATION = FolderKind(
    "distill", (*REPLACED, RUN_RECORD, LOCK, HOLDER, f"{CHECKPOINTS}/", f"{PATCHES}/", f"{SCORES}/")
)


@dataclass(frozen=True, slots=True, kw_only=True)
class DistillRequest:
    """The options of ``tnet distill``.

    Attributes:
        teacher: A folder, ``hf://owner/repo`` or a model of tnet (``modelfile.zoo.load_patch_model``).
        targets: The teacher's classes that are sought; its last of two when empty.
        rule: ``top:K``, ``area`` or ``mean``.
        threshold: From which response a patch counts as positive.
        call_at: From which score the teacher calls a slide; None for the rule's own.
        score: Share of the training slides' tissue that the teacher scores.
        locations: Finest cells that are looked at on a slide, those drawn at random included.
        steps: Of training.
        finder: Where the network that looks for places begins, as of ``modelfile.encoders.encoder_from``; small and at
            random when None.
        licence: Of the model that is made.
    """

    inputs: Sequence[Place]
    teacher: str
    out: Path
    targets: tuple[str, ...] = ()
    rule: str = "top:10"
    threshold: float = 0.5
    call_at: float | None = None
    score: float = 1.0
    locations: int = FINE_LOCATIONS
    steps: int = 600
    finder: str | None = None
    licence: str | None = None
    trust_torchscript: bool = False
    seed: int = 0
    device: str = "auto"
    batch_size: int = 16
    workers: int | None = None
    overwrite: bool = False

    def check(self) -> None:
        """Refuse options that cannot be followed.

        Raises:
            UsageError: a number is out of its range, or the rule is unknown.
        """
        _, k = rule_of(self.rule)
        for option, value in (("--threshold", self.threshold), ("--call-at", self.call_at), ("--score", self.score)):
            if value is not None and not (0 < value < 1 or (option == "--score" and value == 1)):
                raise UsageError(f"{option} {value:g}: expected a share above 0 and below 1")
        if self.locations < 2 or self.steps < 1:
            raise UsageError(f"--locations must be at least 2 and --steps 1, not {self.locations} and {self.steps}")
        if k is not None and k > self.locations:
            raise UsageError(f"--rule {self.rule}: averages more cells than the {self.locations} that are looked at")


@contextmanager
def opened_folder(
    request: DistillRequest, config: TNetConfig, verdict: Verdict, inputs: Sequence[SlideInput]
) -> Iterator[tuple[dict[str, Any], bool]]:
    """Hold the folder of a run; give the record of what was begun there, and whether it has ended.

    Raises:
        UsageError: it holds another run, another process writes there, or it cannot be written.
    """
    out = request.out
    identity = key_of(
        *(config.model_dump(mode="json"), verdict.model_dump(mode="json")),
        *(request.score, request.steps, request.seed, request.licence, request.finder),
        sorted(f"{entry.shown_path} {entry.mpp} {entry.patient}" for entry in inputs),
    )
    directory = RunDirectory(out, DISTILLATION)
    try:
        directory.make()
    except OSError as exc:
        raise UsageError(f"{out}: cannot be written: {exc.strerror or exc}; give another folder with --out") from exc
    with locked(directory):
        record = read_record(out / RUN_RECORD)
        if request.overwrite:
            record = {}
            for name in REPLACED:
                (out / name).unlink(missing_ok=True)
            KeptReads(out / PATCHES).clear()
        elif record and record.get("identity") != identity:
            raise UsageError(
                f"{out}: holds another run, with other slides or options; give another folder with --out, or replace "
                "it with --overwrite"
            )
        done = bool(record.get("finished")) and (out / MODEL_FILE).is_file()
        record = record or {
            "version": version(DISTRIBUTION),
            "identity": identity,
            "started": now(),
            "finished": None,
            "teacher": verdict.teacher.model_dump(mode="json"),
            "options": {
                "targets": list(verdict.targets),
                "rule": verdict.rule_words,
                "threshold": verdict.threshold,
                "call_at": verdict.call_at,
                "score": request.score,
                "locations": request.locations,
                "steps": request.steps,
                "finder": request.finder,
                "seed": request.seed,
            },
            "machine": describe_machine(),
        }
        yield record, done


def now() -> str:
    """Return the time as records have it."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def write_splits(out: Path, inputs: Sequence[SlideInput], kept_apart: set[int]) -> None:
    """Write which slides are learnt from (``train``), and which are kept apart (``test``)."""
    rows = [
        {"slide": entry.shown_path, "patient": entry.patient, "split": "test" if number in kept_apart else "train"}
        for number, entry in enumerate(inputs)
    ]
    write_text_whole(out / SPLITS, table_text(["slide", "patient", "split"], rows))
