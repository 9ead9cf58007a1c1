"""The variables of the authors' code, by name and layout, as those of TNet.

A checkpoint of theirs holds each variable under its name with every ``/`` written ``.S``, and beside the model the
optimiser's own numbers, two of them as large as each weight.
"""

import re
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from tnet_cli.modelfile.tensorflow.bundle import Bundle

SUFFIX = "/.ATTRIBUTES/VARIABLE_VALUE"
SCOPE = re.compile(r"^(TNet|Baseline_CNN)/")

NORMALISATION = {"gamma": "weight", "beta": "bias", "moving_mean": "running_mean", "moving_variance": "running_var"}
MODULES = {
    "feature_extraction/logits_layer/linear": "classification.linear",
    "feature_posBurn/linear": "position.project",
    "location_prediction/init/conv2d": "location.init",
    "location_prediction/se/conv2d_1": "location.squeeze",
    "location_prediction/se/conv2d_2": "location.excite",
    "location_prediction/final/conv2d": "location.final",
    "location_prediction/output_linear": "location.score",
    "feat_weighting/se/dense_1": "weighting.squeeze",
    "feat_weighting/se/dense_2": "weighting.excite",
    "feat_weighting/output_linear": "weighting.score",
}
FEATURES = "feature.backbone.network.features"


def read_variables(bundle: Bundle) -> dict[str, np.ndarray]:
    """Return the model's variables by the names they have in the authors' code, float32; the optimiser's are left out.

    Numbers that are no tensors, such as the reward's baseline and the count of steps, are left out too.

    Raises:
        ModelFileError: a variable cannot be read.
    """
    variables = {}
    for key, entry in bundle.entries.items():
        stored = key.removesuffix(SUFFIX)
        # The optimiser's numbers hang from objects of their own, so that their keys have steps.
        if stored == key or "/" in stored or not entry.shape:
            continue
        variables[SCOPE.sub("", stored.replace(".S", "/"))] = bundle.read(key)
    return variables


def to_state_dict(variables: Mapping[str, np.ndarray]) -> dict[str, Tensor]:
    """Name and lay out variables, all of a model or some, as ``TNet.state_dict`` does.

    Raises:
        ValueError: a variable has no place in TNet.
    """
    state: dict[str, Tensor] = {}
    scaling: dict[str, dict[str, np.ndarray]] = {"row": {}, "column": {}}
    for name, value in variables.items():
        scaled = re.fullmatch(r"location_prediction/(?:.+/)?(height|width)_scaling/(kernel|bias)", name)
        if scaled and value.size == 1:
            scaling["row" if scaled[1] == "height" else "column"][scaled[2]] = value.reshape(())
            continue
        module, _, kind = name.rpartition("/")
        target = MODULES.get(module) or _backbone_module(module)
        if kind in NORMALISATION:
            state[f"{target}.{NORMALISATION[kind]}"] = torch.from_numpy(value.copy())
        else:
            suffix = "bias" if kind == "bias" else "weight"
            state[f"{target}.{suffix}"] = torch.from_numpy(_weight(name, value).copy())
    for axis, parts in scaling.items():
        if len(parts) == 2:
            state[f"location.{axis}_scaling"] = torch.tensor([float(parts["kernel"]), float(parts["bias"])])
    return state


def _weight(name: str, value: np.ndarray) -> np.ndarray:
    """Lay a weight out as torch does."""
    match name.rpartition("/")[2], value.ndim:
        case "bias", 1:
            return value
        case "kernel", 4:
            return value.transpose(3, 2, 0, 1)
        case "depthwise_kernel", 4:
            return value.transpose(2, 3, 0, 1)
        case "kernel", 2:
            return value.T
        case _:
            raise ValueError(f"its variable {name} with {value.ndim} axes has no place in TNet")


def _backbone_module(module: str) -> str:
    """Name the place in torchvision's EfficientNet: stage, block, and step in the block."""
    ends = {"stem": 0, "top": 8}
    end = re.fullmatch(r"feature_extraction/(stem|top)/(conv2d|batch_norm)", module)
    if end:
        return f"{FEATURES}.{ends[end[1]]}.{int(end[2] == 'batch_norm')}"
    inner = re.fullmatch(
        r"feature_extraction/part(\d)_block(\d+)/(?:(expand|depthwise|bottleneck)/(conv2d|batch_norm)|se/conv2d_([12]))",
        module,
    )
    if not inner:
        raise ValueError(f"its variables of {module or 'no module'} have no place in TNet")
    part, block, step, layer, squeeze = int(inner[1]), int(inner[2]), inner[3], inner[4], inner[5]
    # The first stage does not expand, so its later steps come one earlier.
    steps = {"expand": 0, "depthwise": 1, None: 2, "bottleneck": 3}
    at = f"{FEATURES}.{part - 1}.{block - 1}.block.{steps[step] - (part == 2)}"
    return f"{at}.fc{squeeze}" if squeeze else f"{at}.{int(layer == 'batch_norm')}"
