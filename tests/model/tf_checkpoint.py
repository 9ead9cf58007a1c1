"""Reads the published checkpoints (TensorFlow's tensor bundle) with numpy alone, and names them as TNet does.

The index is an uncompressed table of the LevelDB format; the data file is raw little-endian memory.
"""

import re
import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

MAGIC = 0xDB4775248B80FB57
FOOTER_BYTES = 48
BLOCK_TRAILER_BYTES = 5
FLOAT32 = 1
SUFFIX = "/.ATTRIBUTES/VARIABLE_VALUE"
OPTIMISER = ("iter", "optimizer/", "save_counter", "beta_1", "beta_2", "decay", "learning_rate")

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


def read_checkpoint(prefix: Path) -> dict[str, np.ndarray]:
    """Return the model's float32 variables by name, without the optimiser's.

    Args:
        prefix: The checkpoint's files without ``.index`` and ``.data-...``.
    """
    index = prefix.with_name(prefix.name + ".index").read_bytes()
    data = prefix.with_name(prefix.name + ".data-00000-of-00001").read_bytes()
    variables = {}
    for key, value in _table(index):
        name = key.decode()
        if not name.endswith(SUFFIX) or "/.OPTIMIZER_SLOT/" in name:
            continue
        name = name.removesuffix(SUFFIX).replace(".S", "/")
        fields = dict(_fields(value))
        if name.startswith(OPTIMISER) or fields.get(1) != FLOAT32:
            continue
        # Each axis is a message of its own in the shape; protocol buffers leave zeros out.
        shape = [_size(axis) for tag, axis in _fields(_as_bytes(fields.get(2, b""))) if tag == 2]
        offset, size = fields.get(4, 0), fields.get(5, 0)
        assert isinstance(offset, int)
        assert isinstance(size, int)
        variables[name] = np.frombuffer(data[offset : offset + size], "<f4").reshape(shape)
    return variables


def to_state_dict(variables: dict[str, np.ndarray]) -> dict[str, Tensor]:
    """Name and lay out a fMoW or CUB checkpoint's variables as ``TNet.state_dict`` does; the baseline is left out."""
    state: dict[str, Tensor] = {}
    scaling: dict[tuple[str, str], float] = {}
    for name, value in variables.items():
        if name == "baseline_var":
            continue
        scaled = re.fullmatch(r"location_prediction/(?:.+/)?(height|width)_scaling/(kernel|bias)", name)
        if scaled:
            scaling[scaled[1], scaled[2]] = float(value.reshape(()))
            continue
        module, _, kind = name.rpartition("/")
        target = MODULES.get(module) or _backbone_module(module)
        if kind in NORMALISATION:
            state[f"{target}.{NORMALISATION[kind]}"] = torch.from_numpy(value.copy())
        else:
            suffix = "bias" if kind == "bias" else "weight"
            state[f"{target}.{suffix}"] = torch.from_numpy(_weight(value, kind).copy())
    for axis, target in (("height", "row"), ("width", "column")):
        state[f"location.{target}_scaling"] = torch.tensor([scaling[axis, "kernel"], scaling[axis, "bias"]])
    return state


def _weight(value: np.ndarray, kind: str) -> np.ndarray:
    match kind, value.ndim:
        case "bias", 1:
            return value
        case "kernel", 4:
            return value.transpose(3, 2, 0, 1)
        case "depthwise_kernel", 4:
            return value.transpose(2, 3, 0, 1)
        case "kernel", 2:
            return value.T
        case _:
            raise ValueError(f"a variable {kind} with {value.ndim} axes is unknown")


def _backbone_module(module: str) -> str:
    """Name the place in torchvision's EfficientNet: stage, block, and step in the block."""
    features = "feature.backbone.network.features"
    ends = {"stem": 0, "top": 8}
    end = re.fullmatch(r"feature_extraction/(stem|top)/(conv2d|batch_norm)", module)
    if end:
        return f"{features}.{ends[end[1]]}.{int(end[2] == 'batch_norm')}"
    inner = re.fullmatch(r"feature_extraction/part(\d)_block(\d)/(expand|depthwise|se|bottleneck)/(\w+)", module)
    if not inner:
        raise ValueError(f"a variable of {module!r} has no place in TNet")
    part, block, step, layer = int(inner[1]), int(inner[2]), inner[3], inner[4]
    # The first stage does not expand, so its later steps come one earlier.
    steps = {"expand": 0, "depthwise": 1, "se": 2, "bottleneck": 3}
    at = f"{features}.{part - 1}.{block - 1}.block.{steps[step] - (part == 2)}"
    if step == "se":
        return f"{at}.fc{layer.removeprefix('conv2d_')}"
    return f"{at}.{int(layer == 'batch_norm')}"


def _table(index: bytes) -> Iterator[tuple[bytes, bytes]]:
    footer = index[-FOOTER_BYTES:]
    if struct.unpack("<Q", footer[-8:])[0] != MAGIC:
        raise ValueError("not the index of a TensorFlow checkpoint")
    _, at = _varint(footer, 0)
    _, at = _varint(footer, at)
    offset, at = _varint(footer, at)
    size, _ = _varint(footer, at)
    for _, handle in _block(index, offset, size):
        block_offset, after = _varint(handle, 0)
        block_size, _ = _varint(handle, after)
        yield from _block(index, block_offset, block_size)


def _block(index: bytes, offset: int, size: int) -> Iterator[tuple[bytes, bytes]]:
    assert index[offset + size] == 0, "compressed tables are not read"
    block = index[offset : offset + size]
    end = size - 4 - 4 * struct.unpack("<I", block[-4:])[0]
    at, key = 0, b""
    while at < end:
        shared, at = _varint(block, at)
        unshared, at = _varint(block, at)
        length, at = _varint(block, at)
        key = key[:shared] + block[at : at + unshared]
        at += unshared
        yield key, block[at : at + length]
        at += length


def _fields(message: bytes) -> Iterator[tuple[int, int | bytes]]:
    at = 0
    while at < len(message):
        tag, at = _varint(message, at)
        match tag & 7:
            case 0:
                value, at = _varint(message, at)
                yield tag >> 3, value
            case 2:
                length, at = _varint(message, at)
                yield tag >> 3, message[at : at + length]
                at += length
            case 5:
                yield tag >> 3, message[at : at + 4]
                at += 4
            case wire:
                raise ValueError(f"wire type {wire} does not occur in a checkpoint's index")


def _as_bytes(value: int | bytes) -> bytes:
    assert isinstance(value, bytes)
    return value


def _size(axis: int | bytes) -> int:
    size = dict(_fields(_as_bytes(axis))).get(1, 0)
    assert isinstance(size, int)
    return size


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            return value, at
