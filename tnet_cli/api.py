"""tnet from Python: ``open_slide``, ``load_model``, ``classify``, ``train`` and ``evaluate``.

The command line comes in here too, so a script and a command do the same. Importing this module loads neither torch
nor a slide reader; each function loads what it needs when it is called.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tnet_cli.inputs.options import TraversalOptions, named_model
from tnet_cli.places import Place

if TYPE_CHECKING:
    from tnet_cli.classification.run import RunReport
    from tnet_cli.evaluation.run import EvaluationReport
    from tnet_cli.inference.progress import Progress
    from tnet_cli.modelfile.modelfile import LoadedModel
    from tnet_cli.slide.slide import Slide
    from tnet_cli.training.run import TrainReport

__all__ = ["classify", "evaluate", "load_model", "open_slide", "train"]


def open_slide(path: str | Path, *, mpp: float | None = None, reader: str | None = None) -> "Slide":
    """Open a slide of any kind, for reading regions of it at any scale.

    Args:
        path: A file or a URL.
        mpp: Micrometres per pixel, in place of what the file says.
        reader: Forces a backend: ``openslide``, ``tifffile`` or ``pillow``.

    Returns:
        The slide; a context manager, safe to be read from many threads.

    Raises:
        SlideError: it cannot be opened.
    """
    from tnet_cli.slide.opening import open_slide as opened

    return opened(path, mpp=mpp, reader=reader)


def load_model(name: str | Path | None = None) -> "LoadedModel":
    """Load a model.

    Args:
        name: Of a bundled model, a ``.safetensors`` file, or ``hf://owner/repo``; when None that of the environment's
            ``TNET_MODEL``, else the bundled model of real tissue.

    Returns:
        Its network, in evaluation mode on the CPU, with its card and digest.

    Raises:
        ModelFileError: there is no such model, or its file is damaged.
    """
    from tnet_cli.modelfile.modelfile import find_model
    from tnet_cli.modelfile.modelfile import load_model as loaded

    return loaded(find_model(named_model(name)))


def classify(
    inputs: str | Path | Sequence[str | Path],
    *,
    out: str | Path = "tnet-out",
    model: str | Path | None = None,
    locations: tuple[int, ...] | None = None,
    budget: int | None = None,
    stop_at: float | None = None,
    mpp: float | None = None,
    reader: str | None = None,
    roi: str | Path | None = None,
    roi_class: str | None = None,
    per_roi: bool = False,
    mask: str | Path | None = None,
    save_mask: bool = False,
    device: str = "auto",
    batch_size: int = 16,
    workers: int | None = None,
    answer_anyway: bool = False,
    patient_rule: str | None = None,
    hash_names: str | Path | None = None,
    overlay: bool = True,
    report: bool = True,
    overwrite: bool = False,
    fail_fast: bool = False,
    recursive: bool = True,
    slide_timeout_s: float = 600.0,
    cluster: str | None = None,
    progress: "Progress | None" = None,
) -> "RunReport":
    """Classify slides, and write tables, overlays and a report into a folder as ``tnet classify`` does.

    What the folder already holds of the same slides, model and options is not done again.

    Args:
        inputs: Slides, folders, patterns, URLs or manifests (``.csv`` with a column ``slide``).
        out: Folder for the results.
        model: Bundled name, file or ``hf://owner/repo``; as for ``load_model`` when None.
        locations: Attended locations for each processing level after the first; None for the model's default.
        budget: Attended locations in all; excludes ``locations``.
        stop_at: Attend the most probable locations first, and end when the probabilities move by less than this.
        mpp: Micrometres per pixel of all slides, in place of what their files say.
        reader: Forces a backend: ``openslide``, ``tifffile`` or ``pillow``.
        roi: GeoJSON, as QuPath exports it, of the regions of interest on the only slide; of several a manifest's column
            of that name. Nothing outside is looked at.
        roi_class: Only annotations of this class are regions of interest.
        per_roi: A row for each of them, named ``SLIDE#REGION``, in place of one for the slide.
        mask: PNG or GeoJSON of where the tissue of the only slide is, or a manifest's column.
        save_mask: Write what could be attended, ``mask.png``, for each slide.
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:N`` or ``mps``; several, with commas, share the slides.
        batch_size: Patches in one forward pass.
        workers: Threads that read and decode, or processes of ``cluster="local"``; one a core when None.
        answer_anyway: Also give answers that do not count; their status stays ``abstained``.
        patient_rule: What makes one answer of a patient's slides, where a manifest names patients: ``max``, the slide
            least like the model's first class, or ``mean``; ``max`` when None.
        hash_names: File with a key: names and paths of slides and patients are written as keyed hashes.
        overlay: Draw an overlay for each slide.
        report: Write the run on one page, ``report.html``; without it one that an earlier run left is removed.
        overwrite: Do everything again, in place of what is in the folder.
        fail_fast: Stop at the first slide that fails.
        recursive: Search folders with all those below them.
        slide_timeout_s: Give up a slide that hangs for so long; 0 for never.
        cluster: Address of a Dask scheduler, or ``local``.
        progress: Told how it goes.

    Returns:
        A row for each slide, in input order, as in ``predictions.csv``. Slides that failed are rows too; the report's
        ``raise_for_failures`` turns them into an error.

    Raises:
        UsageError: an option cannot be followed, the inputs hold no slide, or the folder holds another run.
        ModelFileError: the model cannot be used.
        ManifestError: a manifest cannot be used.
        RunStoppedError: the disk is full, or the device or the storage answers no more.
        InterruptedRunError: the user interrupted it; what was finished is kept.
    """
    from tnet_cli.classification.run import RunRequest, run_classify
    from tnet_cli.files import path_given
    from tnet_cli.inputs.roi import WhereToLook

    request = RunRequest(
        inputs=[Place(each) for each in ([inputs] if isinstance(inputs, str | Path) else inputs)],
        out=path_given(out),
        model=named_model(model),
        traversal=TraversalOptions(locations=locations, budget=budget, stop_at=stop_at, mpp=mpp, reader=reader),
        where=WhereToLook(
            roi=None if roi is None else Path(roi),
            roi_class=roi_class,
            per_roi=per_roi,
            mask=None if mask is None else Path(mask),
        ),
        save_mask=save_mask,
        device=device,
        batch_size=batch_size,
        workers=workers,
        answer_anyway=answer_anyway,
        patient_rule=patient_rule,
        hash_names=None if hash_names is None else Path(hash_names),
        overlay=overlay,
        report=report,
        overwrite=overwrite,
        fail_fast=fail_fast,
        recursive=recursive,
        slide_timeout_s=slide_timeout_s,
        cluster=cluster,
    )
    return run_classify(request, progress)


def train(
    manifest: str | Path,
    out: str | Path,
    *,
    config: str | Path | None = None,
    overrides: Sequence[str] = (),
    seed: int | None = None,
    device: str = "auto",
    backbone: str | None = None,
    finest: str | None = None,
    features: str | Path | None = None,
    classes: str | Sequence[str] | None = None,
    normal_class: str | None = None,
    folds: int | None = None,
    validation_share: float | None = None,
    skip_bad: bool | None = None,
    overwrite: bool = False,
    progress: "Progress | None" = None,
) -> "TrainReport":
    """Train a model on labelled slides as ``tnet train`` does; the same call again goes on where it was interrupted.

    Args:
        manifest: Table with columns ``slide,label`` and perhaps ``patient,split,mpp,annotation``.
        out: Folder for the model and everything of the run.
        config: TOML file with tables ``[model]``, ``[training]``, ``[data]`` and ``[card]``.
        overrides: ``TABLE.KEY=VALUE`` each, put over the file's.
        seed: Of everything random.
        device: Where the network runs.
        backbone: ``tnet_small``, a torchvision classifier, or ``timm:NAME``.
        finest: An encoder for the finest view alone, frozen: a preset of ``tnet models encoders``, a folder or a file.
        features: Folder in which the features of frozen encoders are kept, which runs share.
        classes: All classes in the order of the model.
        normal_class: Class of what is not annotated; comes first.
        folds: Cross-validate: train so many models, by patient.
        validation_share: Share to validate on, where the manifest has no split.
        skip_bad: Leave slides out that cannot be read.
        overwrite: Replace the run in the folder.
        progress: Told how it goes.

    Returns:
        The model files, and how good they are on their validation slides. What is None is as the configuration says.

    Raises:
        UsageError: the options or the configuration cannot be followed, or the folder holds another run.
        ManifestError: the manifest cannot be used.
        SlideError: a slide cannot be read.
        ModelFileError: pretrained weights cannot be used.
        TrainingError: the loss is not finite, or memory does not suffice.
    """
    from tnet_cli.files import path_given
    from tnet_cli.training.run import TrainRequest, run_train

    request = TrainRequest(
        manifest=Path(manifest),
        out=path_given(out),
        config=None if config is None else Path(config),
        overrides=overrides,
        seed=seed,
        device=device,
        backbone=backbone,
        finest=finest,
        features=None if features is None else str(path_given(features, "--features")),
        classes=None if classes is None else _several(classes),
        normal_class=normal_class,
        folds=folds,
        validation_share=validation_share,
        skip_bad=skip_bad,
        overwrite=overwrite,
    )
    return run_train(request, progress)


def evaluate(
    manifest: str | Path,
    model: str | Path | None = None,
    *,
    out: str | Path = "tnet-evaluation",
    arms: str | Sequence[str] = ("tnet",),
    locations: tuple[int, ...] | None = None,
    budget: int | None = None,
    stop_at: float | None = None,
    budgets: Sequence[int] = (),
    split: str | None = None,
    calibrate: str | None = None,
    save_model: str | Path | None = None,
    patient_rule: str | None = None,
    bootstrap: int = 1000,
    seed: int = 0,
    mpp: float | None = None,
    reader: str | None = None,
    device: str = "auto",
    batch_size: int = 16,
    workers: int | None = None,
    overwrite: bool = False,
    progress: "Progress | None" = None,
) -> "EvaluationReport":
    """Judge a model on labelled slides, and write metrics with intervals, tables and plots as ``tnet evaluate`` does.

    Args:
        manifest: Table with columns ``slide,label`` and perhaps ``patient,split,annotation,mpp``.
        model: Bundled name, file or ``hf://owner/repo``.
        out: Folder for the results.
        arms: Some of ``tnet``, ``random``, ``coarse``, ``exhaustive``; the first is judged in full.
        locations: Attended locations for each processing level after the first; None for the model's default.
        budget: Attended locations in all; excludes ``locations``.
        stop_at: Arm ``tnet`` ends when the probabilities move by less than this.
        budgets: Of a curve of accuracy against locations.
        split: Rows to judge; ``all`` for all, None for ``test`` where there are splits.
        calibrate: Split to fit probabilities, and what slides have an answer, on; stored in a new model file.
        save_model: That model file; None for ``model.safetensors`` in ``out``.
        patient_rule: As of ``classify``, for the metrics by patient.
        bootstrap: Draws for the intervals; 0 for none.
        seed: Of the bootstrap and of random locations.
        mpp: Micrometres per pixel of all slides, in place of what their files say.
        reader: Forces a backend.
        device: Where the network runs.
        batch_size: Patches in one forward pass.
        workers: Threads that read and decode; one a core when None.
        overwrite: Replace the results of an earlier evaluation.
        progress: Told how it goes.

    Returns:
        Accuracy and AUROC with intervals, and everything that ``metrics.json`` holds.

    Raises:
        UsageError: an option cannot be followed, or the folder holds other results.
        ModelFileError: the model cannot be used.
        ManifestError: the manifest, its labels, splits or annotations cannot be used.
        RunStoppedError: the disk is full, or the device or the storage answers no more.
        InterruptedRunError: the user interrupted it; what was finished is kept.
    """
    from tnet_cli.evaluation.request import EvaluateRequest
    from tnet_cli.evaluation.run import run_evaluation
    from tnet_cli.files import path_given

    request = EvaluateRequest(
        manifest=Path(manifest),
        model=named_model(model),
        out=path_given(out),
        arms=_several(arms),
        traversal=TraversalOptions(locations=locations, budget=budget, stop_at=stop_at, mpp=mpp, reader=reader),
        budgets=tuple(sorted(set(budgets))),
        split=split,
        calibrate=calibrate,
        save_model=None if save_model is None else path_given(save_model, "--save-model"),
        patient_rule=patient_rule,
        bootstrap=bootstrap,
        seed=seed,
        device=device,
        batch_size=batch_size,
        workers=workers,
        overwrite=overwrite,
    )
    return run_evaluation(request, progress)


def _several(names: str | Sequence[str]) -> tuple[str, ...]:
    return (names,) if isinstance(names, str) else tuple(names)
