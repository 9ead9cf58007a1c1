"""What a worker of a cluster does with one slide. The model is loaded once in each worker's process."""

import hashlib
import logging
import tempfile
import threading
from contextlib import closing
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path

import torch

from tnet_cli.classification.writing import drawn
from tnet_cli.errors import DISTRIBUTION, UsageError
from tnet_cli.inference.classify import ClassifyOptions, classify_slides
from tnet_cli.inference.device import choose_device
from tnet_cli.inputs.fingerprint import Fingerprint
from tnet_cli.inputs.inputs import SlideInput
from tnet_cli.modelfile.card import ModelCard
from tnet_cli.modelfile.modelfile import LoadedModel, load_model
from tnet_cli.results.result import SlideResult

Answer = tuple[SlideResult, bytes | None, Fingerprint | None]
"""A slide's result, its overlay's file, and what its content is known by."""


@dataclass(frozen=True, slots=True)
class ClusterPlan:
    """What a worker needs to know; it travels to each worker once.

    Attributes:
        weights: The model file's bytes: a worker need not see the client's disk for them.
        digest: SHA-256 of them.
        card: The model's.
        options: How to classify; the device is the worker's own.
        device: As the user asked for it.
        draw: Whether overlays are drawn.
        package: Version of tnet, which must be the worker's too.
    """

    weights: bytes
    digest: str
    card: ModelCard
    options: ClassifyOptions
    device: str
    draw: bool
    package: str

    @property
    def key(self) -> str:
        """Names everything a result depends on."""
        said = f"{self.digest} {self.options} {self.device} {self.draw} {self.package}"
        return hashlib.sha256(said.encode()).hexdigest()[:24]


_models: dict[str, LoadedModel] = {}
_loading = threading.Lock()


def classify_on_worker(plan: ClusterPlan, entry: SlideInput) -> Answer:
    """Classify and draw one slide.

    Raises:
        UsageError: the worker has another version of tnet, or not the device that is asked for.
    """
    if plan.package != version(DISTRIBUTION):
        raise UsageError(
            f"a worker of the cluster has tnet {version(DISTRIBUTION)}, and this is tnet {plan.package}; "
            "install the same everywhere"
        )
    logging.getLogger("tifffile").setLevel(logging.CRITICAL)
    options = replace(plan.options, device=choose_device(plan.device), slides_in_flight=1)
    model = _model_of(plan)
    with closing(classify_slides([entry], model, options)) as outcomes:
        ((_, outcome),) = outcomes
    result, overlay = drawn(outcome, model.card, draw=plan.draw)
    return result, overlay, outcome.fingerprint


def _model_of(plan: ClusterPlan) -> LoadedModel:
    with _loading:
        if plan.digest not in _models:
            torch.set_num_threads(1)  # a worker has the cores that Dask gives it, one for each of its threads
            _models.clear()
            with tempfile.TemporaryDirectory(prefix="tnet-") as folder:
                path = Path(folder) / "model.safetensors"
                path.write_bytes(plan.weights)
                _models[plan.digest] = load_model(path)
        return _models[plan.digest]
