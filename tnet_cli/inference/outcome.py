"""What becomes of one slide: from the facts, the network's answer or an error to its result."""

from dataclasses import replace
from typing import Any

import numpy as np
import torch

from tnet_cli.errors import SlideError
from tnet_cli.inference.prepare import Preparation
from tnet_cli.inference.prepare_image import ImagePreparation
from tnet_cli.inference.slide_task import GivenUpError
from tnet_cli.inference.verdict import judged
from tnet_cli.inputs.inputs import SlideInput
from tnet_cli.inputs.pseudonyms import without_names
from tnet_cli.metrics.predictions import softmax
from tnet_cli.model.traversal import Traversal
from tnet_cli.modelfile.card import ModelCard
from tnet_cli.modelfile.modelfile import LoadedModel
from tnet_cli.places import scrubbed
from tnet_cli.report.attended import AttendedRegion
from tnet_cli.results.result import SlideResult
from tnet_cli.slide.slide import Slide

NO_TISSUE = "no tissue was found on the slide"


def without_tissue(entry: SlideInput, card: ModelCard, slide: Slide) -> SlideResult:
    """Return the result of a slide on which there is nothing to look at."""
    said = [f"; {doubt.sentence}" for doubt in slide.doubts if doubt.may_change_answer]
    return SlideResult(**_facts(entry, card, slide), status="no_tissue", error="".join([NO_TISSUE, *said]))


def failed(entry: SlideInput, card: ModelCard, problem: BaseException, slide: Slide | None = None) -> SlideResult:
    """Return the result of a slide that could not be classified.

    Args:
        card: The model's.
        problem: Why; turned into one sentence that names the slide.
        slide: Where it could be opened; it may be closed.
    """
    error = without_names(sentence_of(entry.shown_path, problem), entry)
    return hidden(SlideResult(**_facts(entry, card, slide), status="failed", error=error), entry)


def hidden(result: SlideResult, entry: SlideInput) -> SlideResult:
    """Return a result without the names of a slide that is hidden in what is said of it."""
    if entry.alias is None:
        return result
    return replace(
        result,
        notes=tuple(without_names(note, entry) for note in result.notes),
        doubts=tuple(replace(doubt, sentence=without_names(doubt.sentence, entry)) for doubt in result.doubts),
        checks=tuple(replace(check, sentence=without_names(check.sentence, entry)) for check in result.checks),
        error=result.error and without_names(result.error, entry),
    )


def sentence_of(path: str, problem: BaseException) -> str:
    """Say in one sentence why a slide failed."""
    if isinstance(problem, SlideError):
        return " ".join(str(problem).split())
    if isinstance(problem, GivenUpError):
        return f"{path}: reading it did not come to an end in the time of --slide-timeout, so it was given up"
    reason = scrubbed(" ".join(str(problem).split()))  # a library's text may hold an address
    if isinstance(problem, (MemoryError, torch.OutOfMemoryError)):
        return f"{path}: there is not enough memory for it ({type(problem).__name__}{': ' * bool(reason)}{reason})"
    if isinstance(problem, OSError) and problem.strerror:
        return f"{path}: cannot be read: {problem.strerror}"
    return f"{path}: could not be classified: {type(problem).__name__}{': ' * bool(reason)}{reason}"


def classified(
    entry: SlideInput,
    model: LoadedModel,
    slide: Slide,
    preparation: Preparation | ImagePreparation,
    traversal: Traversal,
) -> SlideResult:
    """Return the result of a slide whose traversal has ended."""
    card, scale, score = model.card, preparation.scale, None
    if card.verdict is not None and isinstance(preparation, Preparation):
        said = judged(entry.shown_path, card.verdict, preparation, traversal, card.network)
        logits, weights, of_regions, score = said.logits, said.weights, said.probabilities, said.score
    else:
        with torch.inference_mode():
            output = model.network.classify(
                [torch.cat([record.features for record in traversal.levels])], closest=[traversal.closest]
            )
        logits, weights = output.logits[0].float().cpu().numpy(), output.weights[0].float().cpu().numpy()
        of_regions = softmax(output.location_logits[0].float().cpu().numpy(), card.temperature, card.bias)
    if not np.isfinite(logits).all():
        raise ArithmeticError("the network's answer is not a number")
    facts = _facts(entry, card, slide)
    within = preparation.within if isinstance(preparation, Preparation) else None
    return SlideResult(
        **facts | {"notes": (*scale.notes, *facts["notes"])},
        status="ok",
        probabilities=tuple(float(p) for p in softmax(logits, card.temperature, card.bias)),
        logits=tuple(float(value) for value in logits),
        score=score,
        roots=len(traversal.levels[0].regions),
        locations=traversal.location_count,
        roi_area_px=None if within is None else round(within.area_px),
        regions=_region_results(traversal, weights=weights, probabilities=of_regions, mpp=scale.mpp),
    ).answered()


def _region_results(
    traversal: Traversal, *, weights: np.ndarray, probabilities: np.ndarray, mpp: tuple[float, ...]
) -> tuple[AttendedRegion, ...]:
    results: list[AttendedRegion] = []
    for number, record in enumerate(traversal.levels):
        for region, location_log_prob, path_log_prob in zip(
            record.regions, record.location_log_probs, record.path_log_probs, strict=True
        ):
            row = len(results)
            results.append(
                AttendedRegion(
                    region=region,
                    processing_level=record.processing_level,
                    mpp=mpp[record.processing_level] if mpp else None,
                    location_probability=float(np.exp(float(location_log_prob))),
                    path_probability=float(np.exp(float(path_log_prob))),
                    weight=float(weights[row]),
                    class_probabilities=tuple(float(p) for p in probabilities[row]),
                    is_location=number > 0 or record.allowed is None,
                )
            )
    return tuple(results)


def _facts(entry: SlideInput, card: ModelCard, slide: Slide | None) -> dict[str, Any]:
    """Return what every result says of its slide, whatever became of it."""
    facts: dict[str, Any] = {
        "slide": entry.name,
        "path": entry.shown_path,
        "class_names": card.network.class_names,
        "calibration_error": card.calibration_error,
    }
    if slide is not None:
        facts |= {
            "size": slide.size,
            "mpp": slide.mpp,
            "mpp_source": slide.mpp_source,
            "reader": slide.reader,
            "pixels_read": slide.pixels_read,
            "bytes_read": slide.bytes_read,
            "fraction_read": min(1.0, slide.pixels_read / slide.size.area),
            "bounds": slide.bounds,
            "doubts": slide.doubts,
            "notes": tuple(doubt.sentence for doubt in slide.doubts),
        }
    return facts
