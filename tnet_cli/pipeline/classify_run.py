"""A whole run of ``tnet classify``: inputs in, a folder of results out."""

import platform
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from tnet_cli.errors import PartialFailureError, SlideError
from tnet_cli.pipeline.classify import ClassifyOptions, Events, Outcome, classify_slides
from tnet_cli.pipeline.device import choose_device, reader_threads, usable_cores
from tnet_cli.pipeline.inputs import find_inputs
from tnet_cli.pipeline.model_file import LoadedModel, find_model, load_model
from tnet_cli.pipeline.presentation import overlay_of
from tnet_cli.pipeline.result import SlideResult
from tnet_cli.pipeline.review import write_report
from tnet_cli.pipeline.run_directory import RunDirectory


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRequest:
    """What the user asked of ``tnet classify``; the fields are its options."""

    inputs: Sequence[str]
    out: Path
    model: str
    locations: tuple[int, ...] | None = None
    budget: int | None = None
    mpp: float | None = None
    reader: str | None = None
    device: str = "auto"
    batch_size: int = 16
    workers: int | None = None
    overlay: bool = True
    overwrite: bool = False
    fail_fast: bool = False
    recursive: bool = True


@dataclass(frozen=True, slots=True)
class RunEvents:
    """What a run tells while it goes; each may be called many times a second.

    Attributes:
        on_note: What is worth knowing of the inputs, in a sentence: what was ignored, or is given twice.
        on_start: The number of slides and the model's intended use.
        on_slide: A slide has ended and is written; with it the place of its overlay, or None.
        on_look: Processing level and number of the patches of a batch.
        on_reduce: Rows done and to do, while a slide without a pyramid is reduced.
    """

    on_note: Callable[[str], None] | None = None
    on_start: Callable[[int, str], None] | None = None
    on_slide: Callable[[SlideResult, Path | None], None] | None = None
    on_look: Callable[[int, int], None] | None = None
    on_reduce: Callable[[int, int], None] | None = None


@dataclass(frozen=True, slots=True)
class RunReport:
    """What became of a run.

    Attributes:
        record: What ``run.json`` holds.
        results: One for each input, in input order.
        overlays: Where each slide's overlay is, None for none.
    """

    record: dict[str, Any]
    results: tuple[SlideResult, ...]
    overlays: tuple[Path | None, ...]

    def raise_for_failures(self) -> None:
        """Turn failed slides into the error whose exit code says so.

        Raises:
            SlideError: the only slide failed.
            PartialFailureError: some of several slides failed.
        """
        failed = [result for result in self.results if result.status == "failed"]
        if not failed:
            return
        if len(self.results) == 1:
            error = SlideError(failed[0].path, "")
            error.args = (failed[0].error or "failed",)
            raise error
        named = "; ".join(result.error or result.path for result in failed[:5])
        more = f"; and {len(failed) - 5} more, see predictions.csv" if len(failed) > 5 else ""
        raise PartialFailureError(f"{len(failed)} of {len(self.results)} slides failed: {named}{more}")


def run_classify(request: RunRequest, events: RunEvents | None = None) -> RunReport:
    """Classify the inputs and write the results as they come.

    Raises:
        UsageError: an option cannot be followed, the inputs hold no slide, or the folder holds another run.
        ModelFileError: the model cannot be used.
        ManifestError: a manifest cannot be used.
    """
    events = events or RunEvents()
    started = time.perf_counter()
    inputs = find_inputs(request.inputs, recursive=request.recursive, out=request.out, on_note=events.on_note)
    directory = RunDirectory(request.out)
    directory.refuse_if_it_holds_another_run((entry.shown_path for entry in inputs), overwrite=request.overwrite)
    device = choose_device(request.device)
    model = load_model(find_model(request.model))
    if events.on_start is not None:
        events.on_start(len(inputs), model.card.intended_use)
    torch.set_num_threads(usable_cores())
    options = ClassifyOptions(
        locations=request.locations,
        budget=request.budget,
        mpp=request.mpp,
        reader=request.reader,
        device=device,
        batch_size=request.batch_size,
        readers=reader_threads(request.workers),
        slides_in_flight=2 if device.type == "cpu" else 8,
    )
    results: dict[int, SlideResult] = {}
    overlays: dict[int, Path | None] = {}
    class_names = model.card.network.class_names
    looks = Events(on_look=events.on_look, on_reduce=events.on_reduce)
    with closing(classify_slides(inputs, model, options, events=looks)) as outcomes:
        for position, outcome in outcomes:
            overlays[position] = _write(directory, outcome, model, draw=request.overlay)
            results[position] = outcome.result
            directory.write_predictions([results[index] for index in sorted(results)], class_names)
            if events.on_slide is not None:
                events.on_slide(outcome.result, overlays[position])
            if request.fail_fast and outcome.result.status == "failed":
                break
    ordered = tuple(results[index] for index in sorted(results))
    record = run_record(request, model, device, ordered, time.perf_counter() - started)
    directory.write_run(record)
    write_report(directory.path)
    return RunReport(record, ordered, tuple(overlays[index] for index in sorted(overlays)))


def _write(directory: RunDirectory, outcome: Outcome, model: LoadedModel, *, draw: bool) -> Path | None:
    return directory.write_slide(outcome.result, overlay_of(outcome, model.card) if draw else None)


def run_record(
    request: RunRequest, model: LoadedModel, device: torch.device, results: Sequence[SlideResult], seconds: float
) -> dict[str, Any]:
    """Return what ``run.json`` says: version, model, options, machine and how the slides fared."""
    statuses = [result.status for result in results]
    return {
        "version": version("tnet"),
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "model": {"name": model.card.name, "path": str(model.path), "sha256": model.digest},
        "intended_use": model.card.intended_use,
        "options": {
            "locations": list(request.locations) if request.locations else list(model.card.network.locations),
            "budget": request.budget,
            "mpp": request.mpp,
            "reader": request.reader,
            "device": str(device),
            "batch_size": request.batch_size,
            "workers": reader_threads(request.workers),
        },
        "machine": {
            "platform": platform.platform(),
            "python": platform.python_version(),
            "torch": torch.__version__,
            "cores": usable_cores(),
        },
        "slides": {status: statuses.count(status) for status in ("ok", "no_tissue", "failed")},
        "seconds": round(seconds, 3),
    }
