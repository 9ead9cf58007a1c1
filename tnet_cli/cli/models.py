"""``tnet models``: the models at hand, their cards, whether their files are whole; models from and for elsewhere."""

from pathlib import Path
from typing import Annotated

import typer

from tnet_cli.cli.loading import load
from tnet_cli.cli.terminal import answer, answer_json, note
from tnet_cli.errors import UsageError

models = typer.Typer(
    name="models",
    help="List, show, verify, import and export models; list encoders, and the features that are kept of them.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

Name = Annotated[
    str, typer.Argument(metavar="NAME|FILE", help="Bundled model, model file or hub repository (hf://owner/repo).")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]


@models.command("list")
def list_(as_json: AsJson = False) -> None:
    """List the bundled models and those in your cache of the hub: what each is for, size and classes."""
    load("modelfile.listing")
    from tnet_cli.modelfile.listing import list_models

    notes: list[str] = []
    listed = list_models(notes.append)
    if as_json:
        answer_json({"models": [model.document() for model in listed]})
    else:
        for model in listed:
            names = model.card.network.class_names
            classes = ", ".join(names) if len(names) <= 6 else f"{', '.join(names[:3])} and {len(names) - 3} more"
            answer(f"{model.name} ({model.source}, {_megabytes(model.size_bytes)}): {model.card.summary}")
            answer(f"  classes: {classes}")
            answer(f"  for: {model.card.intended_use}")
    for line in notes:
        note(line)


@models.command()
def show(name: Name, as_json: AsJson = False) -> None:
    """Show the whole card of a model: use, limits, scales, training data with licences, metrics."""
    load("modelfile.listing")
    from tnet_cli.modelfile.listing import describe_model, model_as_text

    if as_json:
        answer_json(describe_model(name))
    else:
        for line in model_as_text(name).split("\n"):
            answer(line)


@models.command()
def verify(name: Name) -> None:
    """Check a model file: header, card, every tensor's shape and values, digest."""
    load("modelfile.listing")
    from tnet_cli.modelfile.listing import verify_model

    found = verify_model(name)
    answer(
        f"{found.path}: whole; {found.name}, {found.weights} weights in {found.tensors} tensors, "
        f"{_megabytes(found.size_bytes)}, SHA-256 {found.digest}"
    )
    if not found.is_sealed:
        note("its header records no digest of the tensors: compare the SHA-256 with the one you were given")


@models.command("import")
def import_(
    checkpoint: Annotated[
        Path, typer.Argument(metavar="CKPT", help="TensorFlow checkpoint: its prefix, its .index file or its folder.")
    ],
    out: Annotated[str, typer.Option("--out", "-o", metavar="FILE", help="Model file to write, NAME.safetensors.")],
    classes: Annotated[
        Path | None, typer.Option(metavar="NAMES.txt", help="Class names, one a line, in the order of the logits.")
    ] = None,
    image_px: Annotated[
        int | None, typer.Option(metavar="448|896", help="Side images are resized to; fMoW weights serve both.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing model file.")] = False,
) -> None:
    """Convert a checkpoint of the authors' TensorFlow code (fMoW, CUB-200, NABirds); needs the tensorflow extra."""
    load("modelfile.tensorflow.import_model")
    from tnet_cli.files import path_given
    from tnet_cli.modelfile.tensorflow.import_model import import_model

    report = import_model(checkpoint, path_given(out), classes=classes, image_px=image_px, overwrite=overwrite)
    network = report.card.network
    answer(
        f"{out}: {network.backbone}, {len(network.class_names)} classes, images of {network.image_px} px, "
        f"{network.processing_levels} processing levels with {network.grid} x {network.grid} cells, "
        f"{'features weighted' if network.weighting else 'features averaged'}, {report.weights} weights"
    )
    for line in report.notes:
        note(line)


@models.command()
def export(
    name: Name,
    out: Annotated[
        str, typer.Option("--out", "-o", metavar="DIR", help="Folder for the files: two graphs, or a patch model.")
    ],
    kind: Annotated[
        str,
        typer.Option(
            "--format",
            metavar="onnx|wsinfer",
            help="Graphs of all of it, or its finest view as a patch model for WSInfer and QuPath.",
        ),
    ] = "onnx",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an earlier export.")] = False,
) -> None:
    """Write a model for other programs: as ONNX graphs (needs the onnx extra), or for WSInfer and QuPath."""
    from tnet_cli.files import path_given

    if kind not in {"onnx", "wsinfer"}:
        raise UsageError(f"--format {kind}: expected onnx or wsinfer")
    if kind == "wsinfer":
        load("modelfile.export_wsinfer")
        from tnet_cli.modelfile.export_wsinfer import export_wsinfer

        model = export_wsinfer(name, path_given(out), overwrite=overwrite)
        side = f"{model.patch_px} px at {model.spacing_um_px:g} µm per pixel"
        answer(f"{out}: {model.name} as torchscript_model.pt and config.json, patches of {side}")
        return
    load("modelfile.export_onnx")
    from tnet_cli.modelfile.export_onnx import export_model

    report = export_model(name, path_given(out), overwrite=overwrite)
    answer(f"{report.folder}: {report.name} as look.onnx, classify.onnx and card.json, {_megabytes(report.size_bytes)}")


@models.command()
def encoders(as_json: AsJson = False) -> None:
    """List the pathology encoders that can be brought by name: length, licence, whether gated, how they load."""
    from tnet_cli.modelfile.presets import PRESETS

    if as_json:
        answer_json({"encoders": [each.document() for each in PRESETS.values()]})
        return
    for each in PRESETS.values():
        gated = "gated" if each.gated else "open"
        answer(f"{each.name} ({each.dim} numbers, {gated}, {each.licence}): {each.loads}")
        answer(f"  {each.page}")


@models.command()
def features(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="As given to tnet train --features.")],
    remove: Annotated[
        str | None,
        typer.Option("--remove", metavar="ENCODER", help="Remove what is kept of one: the beginning of its name."),
    ] = None,
    remove_all: Annotated[bool, typer.Option("--all", help="Remove what is kept of every encoder.")] = False,
    as_json: AsJson = False,
) -> None:
    """List the features of frozen encoders that training has kept, or remove them; other files stay as they are."""
    load("learning.feature_store")
    from tnet_cli.learning.feature_store import list_features, remove_features

    if remove is not None and remove_all:
        raise UsageError("--remove and --all: give one of them")
    left: list[str] = []
    if remove is not None or remove_all:
        listed, left = remove_features(folder, remove)
    else:
        listed = list_features(folder)
    what = "removed" if remove is not None or remove_all else "kept"
    if as_json:
        answer_json({what: listed})
    for each in listed if not as_json else ():
        shown, how = each["encoder"], each["transform"]
        size = f"{each['slides']} slides, {each['regions']} regions, {_megabytes(each['bytes'])}"
        answer(f"{each['name']} ({shown.get('backbone')}, {shown.get('input_px')} px, {how.get('device')}): {size}")
    if not listed:
        note(f"no features are kept in {folder}")
    elif what == "removed":
        note(f"removed from {folder}: {_megabytes(sum(each['bytes'] for each in listed))}")
    for name in left:
        note(f"{folder / name} stays: something that tnet did not write is in it")


def _megabytes(size_bytes: int) -> str:
    return f"{size_bytes / 1e6:.1f} MB"
