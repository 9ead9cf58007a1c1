"""Writes TensorFlow's tensor bundles as the authors' trainer does, and names a TNet's weights as their code does.

It follows the published descriptions of the two formats and shares nothing with the reader but the check sum.
"""

import struct
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch

from tnet_cli.model.tnet import TNet
from tnet_cli.modelfile.tensorflow.bundle import masked_crc32c

FLOAT32, STRING, INT64 = 1, 7, 9
SUFFIX = "/.ATTRIBUTES/VARIABLE_VALUE"


def varint(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


def field(tag: int, value: int | bytes) -> bytes:
    if isinstance(value, bytes):
        return varint(tag << 3 | 2) + varint(len(value)) + value
    return varint(tag << 3) + varint(value) if value else b""  # zeros are left out


def block(pairs: list[tuple[bytes, bytes]], restart_every: int = 16, compression: int = 0) -> bytes:
    out, restarts, last = bytearray(), [], b""
    for number, (key, value) in enumerate(pairs):
        shared = 0
        if number % restart_every == 0:
            restarts.append(len(out))
        else:
            while shared < min(len(key), len(last)) and key[shared] == last[shared]:
                shared += 1
        out += varint(shared) + varint(len(key) - shared) + varint(len(value)) + key[shared:] + value
        last = key
    restarts = restarts or [0]
    out += struct.pack(f"<{len(restarts) + 1}I", *restarts, len(restarts))
    content = bytes(out) + bytes([compression])
    return content + struct.pack("<I", masked_crc32c(content))


def table(pairs: list[tuple[bytes, bytes]], per_block: int = 40, compression: int = 0) -> bytes:
    out, handles = bytearray(), []

    def put(stored: bytes) -> bytes:
        handle = varint(len(out)) + varint(len(stored) - 5)
        out.extend(stored)
        return handle

    pairs = sorted(pairs)
    for first in range(0, len(pairs), per_block):
        part = pairs[first : first + per_block]
        handles.append((part[-1][0], put(block(part, compression=compression))))
    ends = put(block([])) + put(block(handles, restart_every=1))
    return bytes(out) + ends.ljust(40, b"\0") + struct.pack("<Q", 0xDB4775248B80FB57)


def entry(dtype: int, shape: tuple[int, ...], shard: int, offset: int, stored: bytes) -> bytes:
    axes = b"".join(field(2, field(1, side)) for side in shape)
    crc = varint(6 << 3 | 5) + struct.pack("<I", masked_crc32c(stored))
    place = field(3, shard) + field(4, offset) + field(5, len(stored))
    return field(1, dtype) + field(2, axes) + place + crc


def write_bundle(
    prefix: Path, variables: Mapping[str, np.ndarray], *, shards: int = 1, header: bytes = b"", compression: int = 0
) -> Path:
    """Write variables as a checkpoint, with the optimiser's junk beside them; return the prefix."""
    stored: list[tuple[str, int, tuple[int, ...], bytes]] = [
        ("_CHECKPOINTABLE_OBJECT_GRAPH", STRING, (), b"\x01graph"),
        ("save_counter" + SUFFIX, INT64, (), struct.pack("<q", 3)),
        ("iter" + SUFFIX, INT64, (), struct.pack("<q", 123)),
        ("optimizer/beta_1" + SUFFIX, FLOAT32, (), struct.pack("<f", 0.9)),
        ("baseline_var" + SUFFIX, FLOAT32, (), struct.pack("<f", 0.37)),
    ]
    for name, value in variables.items():
        key, data = name.replace("/", ".S"), value.astype("<f4").tobytes()
        stored.append((key + SUFFIX, FLOAT32, value.shape, data))
        if value.size <= 4096:  # two optimisers, as the trainers of birds have
            for slot in ("optimizer/m", "optimizer_1/v"):
                junk = np.full(value.shape, 7.0, "<f4").tobytes()
                stored.append((f"{key}/.OPTIMIZER_SLOT/{slot}{SUFFIX}", FLOAT32, value.shape, junk))
    files = [bytearray() for _ in range(shards)]
    pairs = [(b"", field(1, shards) + header)]
    for number, (key, dtype, shape, data) in enumerate(stored):
        shard = number % shards
        pairs.append((key.encode(), entry(dtype, shape, shard, len(files[shard]), data)))
        files[shard] += data
    prefix.parent.mkdir(parents=True, exist_ok=True)
    prefix.with_name(prefix.name + ".index").write_bytes(table(pairs, compression=compression))
    for number, content in enumerate(files):
        prefix.with_name(f"{prefix.name}.data-{number:05d}-of-{shards:05d}").write_bytes(content)
    return prefix


def renumber(network: TNet, generator: torch.Generator) -> TNet:
    """Give a fresh network numbers that leave nothing at zero or one."""
    with torch.no_grad():
        for name, value in network.state_dict().items():
            noise = torch.rand(value.shape, generator=generator)
            if value.ndim == 1 and name.endswith("weight"):
                value.copy_(0.6 + 0.8 * noise)
            elif value.ndim == 1:
                value.copy_(0.6 * noise - 0.3)
    return network


def shake(network: TNet, seed: int) -> TNet:
    """Give a fresh network numbers that leave nothing at zero or one, and statistics of what it sees.

    Its location logits are centred, so that pixels and not biases decide where it looks.
    """
    generator = torch.Generator().manual_seed(seed)
    renumber(network, generator)
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.momentum = 1.0
        coarse = torch.rand(3, 3, 14, 14, generator=generator)
        patches = torch.nn.functional.interpolate(coarse, scale_factor=16, mode="nearest")
        positions, everywhere = (
            torch.zeros(3, 3, dtype=torch.int64),
            torch.ones(3, network.config.grid**2, dtype=torch.bool),
        )
        network.train().look(patches, positions, everywhere)
        scores: list[torch.Tensor] = []
        handle = network.location.score.register_forward_hook(lambda _m, _i, out: scores.append(out))
        network.eval().look(patches, positions, everywhere)
        handle.remove()
        assert network.location.score.bias is not None
        network.location.score.bias -= scores[0].mean()
    return network


def authors_variables(network: TNet) -> dict[str, np.ndarray]:
    """Name and lay out a network's weights as the authors' code does (names and shapes of the specification, 7.2)."""
    state = {name: value.detach().numpy() for name, value in network.state_dict().items()}
    out = _extractor_variables(network, state)
    _dense(out, state, "feature_posBurn/linear", "position.project")
    _dense(out, state, "feature_extraction/logits_layer/linear", "classification.linear")
    for name, ours in (
        ("init/conv2d", "init"),
        ("se/conv2d_1", "squeeze"),
        ("se/conv2d_2", "excite"),
        ("final/conv2d", "final"),
        ("output_linear", "score"),
    ):
        _conv(out, state, f"location_prediction/{name}", f"location.{ours}")
    for axis, ours in (("height", "row"), ("width", "column")):
        slope, shift = state[f"location.{ours}_scaling"]
        out[f"location_prediction/{axis}_scaling/kernel"] = np.array([[slope]], np.float32)
        out[f"location_prediction/{axis}_scaling/bias"] = np.array([shift], np.float32)
    if network.config.weighting:
        for name, ours in (("se/dense_1", "squeeze"), ("se/dense_2", "excite"), ("output_linear", "score")):
            _dense(out, state, f"feat_weighting/{name}", f"weighting.{ours}")
    return out


Variables = dict[str, np.ndarray]
EXTRACTOR = "feature.backbone.network.features"


def _extractor_variables(network: TNet, state: Variables) -> Variables:
    out: Variables = {}
    for name, number in (("stem", 0), ("top", 8)):
        _conv(out, state, f"feature_extraction/{name}/conv2d", f"{EXTRACTOR}.{number}.0")
        _norm(out, state, f"feature_extraction/{name}", f"{EXTRACTOR}.{number}.1")
    stages = list(network.feature.backbone.get_submodule("network.features").children())
    for stage in range(1, 8):
        for index in range(len(list(stages[stage].children()))):
            name = f"feature_extraction/part{stage + 1}_block{index + 1}"
            steps = ["expand", "depthwise", "se", "bottleneck"][stage == 1 :]
            for number, step in enumerate(steps):
                place = f"{EXTRACTOR}.{stage}.{index}.block.{number}"
                if step == "se":
                    _conv(out, state, f"{name}/se/conv2d_1", f"{place}.fc1")
                    _conv(out, state, f"{name}/se/conv2d_2", f"{place}.fc2")
                    continue
                _norm(out, state, f"{name}/{step}", f"{place}.1")
                _conv(out, state, f"{name}/{step}/conv2d", f"{place}.0", depthwise=step == "depthwise")
    return out


def _conv(out: Variables, state: Variables, name: str, weight: str, *, depthwise: bool = False) -> None:
    kernel = state[f"{weight}.weight"]
    if depthwise:
        out[f"{name}/depthwise_kernel"] = kernel.transpose(2, 3, 0, 1)
    else:
        out[f"{name}/kernel"] = kernel.transpose(2, 3, 1, 0)
    if f"{weight}.bias" in state:
        out[f"{name}/bias"] = state[f"{weight}.bias"]


def _dense(out: Variables, state: Variables, name: str, weight: str) -> None:
    out[f"{name}/kernel"], out[f"{name}/bias"] = state[f"{weight}.weight"].T, state[f"{weight}.bias"]


def _norm(out: Variables, state: Variables, name: str, weight: str) -> None:
    for theirs, ours in (
        ("gamma", "weight"),
        ("beta", "bias"),
        ("moving_mean", "running_mean"),
        ("moving_variance", "running_var"),
    ):
        out[f"{name}/batch_norm/{theirs}"] = state[f"{weight}.{ours}"]
