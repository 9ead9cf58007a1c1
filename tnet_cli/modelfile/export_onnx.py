"""Models for programs that know no torch: the network as two ONNX graphs, with the card beside them."""

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tnet_cli.errors import UsageError, install_hint
from tnet_cli.files import FolderKind, claim, held_by_command, read_record, write_json, written_whole
from tnet_cli.model.normalisation import fold_normalisation
from tnet_cli.model.tnet import TNet
from tnet_cli.modelfile.modelfile import find_model, load_model

LOOK, CLASSIFY, CARD = "look.onnx", "classify.onnx", "card.json"


def _wrote_unclaimed(folder: Path) -> bool:
    return {"name", "summary", "intended_use", "licence", "network"} <= read_record(folder / CARD).keys()


EXPORT = FolderKind("models export", (LOOK, CLASSIFY, CARD), _wrote_unclaimed)


@dataclass(frozen=True, slots=True)
class ExportReport:
    """Where the three files are, of which model, and the size of both graphs."""

    folder: Path
    name: str
    size_bytes: int


class _LookGraph(nn.Module):
    """Patches to features and the log-probabilities of their cells."""

    def __init__(self, network: TNet) -> None:
        super().__init__()
        self.network = network

    def forward(self, patches: Tensor, positions: Tensor, allowed: Tensor) -> tuple[Tensor, Tensor]:
        vectors, cells = self.network.feature(patches)
        return self.network.position(vectors, positions), self.network.location(cells, allowed)


class _ClassifyGraph(nn.Module):
    """All features of one slide to its logits and the weight of each of them."""

    def __init__(self, network: TNet) -> None:
        super().__init__()
        self.network = network

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        weights = self.network.weighting(features)
        return self.network.classification((weights @ features)[None]), weights


def export_model(name: str, folder: Path, *, overwrite: bool = False) -> ExportReport:
    """Write a model as ONNX: ``look.onnx``, ``classify.onnx`` and ``card.json``.

    ``look``: ``patches`` float32 (N, 3, P, P) in [0, 1], ``positions`` int64 (N, 3) and ``allowed`` bool (N, G) give
    ``features`` (N, D) and ``cell_log_probs`` (N, G). ``classify``: ``features`` (K, D) of everything looked at on one
    slide give ``logits`` (1, C), before the card's calibration, and ``weights`` (K,). The folder is made if need be.

    Raises:
        ModelFileError: the model cannot be used.
        UsageError: the onnx extra is not installed, the folder holds such files, or it is none.
        OSError: a file cannot be written.
    """
    _check(folder, overwrite=overwrite)
    model = load_model(find_model(name))
    network = model.network.eval()
    fold_normalisation(network)
    config = network.config
    if config.encoders:
        raise UsageError(f"{model.card.name} has encoders by processing level, which ONNX graphs are not made of yet")
    if config.verdict_from == "closest":
        raise UsageError(
            f"{model.card.name} judges by what it looked at closest, which ONNX graphs are not made of yet"
        )
    # Two of everything: an axis of one would be taken for a constant.
    patches = torch.zeros(2, 3, config.base_px, config.base_px)
    positions = torch.zeros(2, 3, dtype=torch.int64)
    allowed = torch.ones(2, config.grid**2, dtype=torch.bool)
    features = torch.zeros(2, network.feature.feature_length)
    many = {0: torch.export.Dim("regions")}
    look = _graph(
        _LookGraph(network),
        {"patches": patches, "positions": positions, "allowed": allowed},
        {"patches": many, "positions": many, "allowed": many},
        ["features", "cell_log_probs"],
    )
    classify = _graph(_ClassifyGraph(network), {"features": features}, {"features": many}, ["logits", "weights"])
    claim(folder, EXPORT)
    for file, graph in ((LOOK, look), (CLASSIFY, classify)):
        with written_whole(folder / file) as draft:
            graph.save(draft)
    write_json(folder / CARD, model.card.model_dump(mode="json"))
    return ExportReport(
        folder=folder, name=model.card.name, size_bytes=sum((folder / file).stat().st_size for file in (LOOK, CLASSIFY))
    )


def _check(folder: Path, *, overwrite: bool) -> None:
    try:
        import onnxscript  # noqa: F401 (torch exports with it)
    except ImportError as exc:
        raise UsageError(f"exporting needs the onnx extra; install it with: {install_hint('onnx')}") from exc
    if held_by_command(folder, EXPORT):
        name = next((name for name in (LOOK, CLASSIFY, CARD) if (folder / name).exists()), None)
        if name is not None and not overwrite:
            raise UsageError(f"--out {folder}: {name} exists; give another folder, or replace it with --overwrite")


def _graph(
    module: nn.Module, inputs: dict[str, Tensor], axes: dict[str, dict[int, Any]], outputs: list[str]
) -> torch.onnx.ONNXProgram:
    """Return a module as an ONNX program."""
    with warnings.catch_warnings():
        # The exporter warns of its own workings.
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            module.eval(),
            (),
            kwargs=inputs,
            dynamo=True,
            dynamic_shapes=axes,
            output_names=outputs,
            verbose=False,
        )
    if program is None:
        raise ValueError("torch gave no ONNX program")
    return program
