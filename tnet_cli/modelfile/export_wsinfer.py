"""A model's finest view as a patch model of the WSInfer zoo's kind, which QuPath's extension loads from a folder."""

import io
import warnings
from pathlib import Path

import torch
from torch import Tensor, nn

from tnet_cli.errors import UsageError
from tnet_cli.files import FolderKind, claim, held_by_command, write_bytes_whole, write_json
from tnet_cli.model.encoder import ProgramClassifier
from tnet_cli.modelfile.modelfile import find_model, load_model
from tnet_cli.modelfile.zoo import CONFIG, PICKLED, PROGRAM, WEIGHTS, PatchModel, patch_model_of
from tnet_cli.modelfile.zoo_config import ZooConfig

WSINFER_EXPORT = FolderKind("models export --format wsinfer", (CONFIG, PROGRAM))


class _Logits(nn.Module):
    """Normalised patches (N, 3, S, S) to logits (N, C), of which the zoo's programs take the softmax."""

    def __init__(self, model: PatchModel) -> None:
        super().__init__()
        self.backbone = model.network.backbone

    def forward(self, patches: Tensor) -> Tensor:
        logits: Tensor = self.backbone(patches)[0]
        return logits


def export_wsinfer(name: str, folder: Path, *, overwrite: bool = False) -> PatchModel:
    """Write a model's finest view: ``torchscript_model.pt`` and the ``config.json`` of the zoo's schema 1.0.

    Raises:
        ModelFileError: the model cannot be used, or its finest view is no patch model.
        UsageError: the folder holds such files, or others that would be taken for the model's.
        OSError: a file cannot be written.
    """
    if held_by_command(folder, WSINFER_EXPORT) and not overwrite and (folder / CONFIG).exists():
        raise UsageError(f"--out {folder}: {CONFIG} exists; give another folder, or replace it with --overwrite")
    if beside := [each for each in (WEIGHTS, PICKLED) if (folder / each).exists()]:
        raise UsageError(
            f"--out {folder}: holds {beside[0]}, which whoever reads the folder would take for this model's; "
            "give another folder"
        )
    model = patch_model_of(load_model(find_model(name)))
    config = _config_of(model)
    program = _program_of(model)
    claim(folder, WSINFER_EXPORT)
    write_bytes_whole(folder / PROGRAM, program)
    write_json(folder / CONFIG, config.model_dump(mode="json", exclude_none=True))
    return model


def _program_of(model: PatchModel) -> bytes:
    if isinstance(model.network.backbone, ProgramClassifier):
        return model.network.backbone.program.numpy().tobytes()
    patches = torch.zeros(2, 3, model.encoder.input_px, model.encoder.input_px)
    archive = io.BytesIO()
    with warnings.catch_warnings():
        # torch would have others leave TorchScript; the zoo and QuPath have not.
        warnings.simplefilter("ignore")
        traced = torch.jit.trace(_Logits(model).eval(), patches, check_trace=False)  # type: ignore[no-untyped-call]
        torch.jit.save(traced, archive)
    return archive.getvalue()


def _config_of(model: PatchModel) -> ZooConfig:
    encoder = model.encoder
    return ZooConfig.model_validate(
        {
            "spec_version": "1.0",
            "architecture": model.architecture,
            "num_classes": len(model.classes),
            "patch_size_pixels": model.patch_px,
            "spacing_um_px": model.spacing_um_px,
            "class_names": model.classes,
            "transform": [
                {"name": "Resize", "arguments": {"size": encoder.input_px}},
                {"name": "ToTensor"},
                {"name": "Normalize", "arguments": {"mean": encoder.pixel_mean, "std": encoder.pixel_std}},
            ],
            "name": model.name,
            "license": model.licence,
            "attribution": model.attribution or None,
        }
    )
