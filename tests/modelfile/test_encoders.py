"""Encoders that users bring: presets against their packages' own networks, and sources of weights."""

import json
import warnings
from typing import Any

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file

from tests.hub_server import serving_hub
from tnet_cli.cli.app import main
from tnet_cli.errors import ModelFileError, UsageError
from tnet_cli.model.encoder import Encoder
from tnet_cli.modelfile.encoders import encoder_from, load_weights
from tnet_cli.modelfile.presets import PRESETS

BUILT = [name for name, each in PRESETS.items() if each.config is not None]
OF_TIMM = [name for name in BUILT if PRESETS[name].loads == "timm"]


def shrunk(name: str):
    """Return a preset's configuration with two blocks, which a processor can run."""
    config = PRESETS[name].config
    assert config is not None
    key = "depth" if config.backbone.startswith("timm:") else "num_hidden_layers"
    return config.model_copy(update={"arguments": {**config.arguments, key: 2}})


def as_given(config, pixels: torch.Tensor) -> torch.Tensor:
    mean, std = (torch.tensor(each).view(1, 3, 1, 1) for each in (config.pixel_mean, config.pixel_std))
    return (pixels.float() / 255 - mean) / std


@pytest.mark.parametrize("name", BUILT)
def test_every_preset_is_built_whole_on_no_memory_and_has_the_length_it_says(name):
    config = PRESETS[name].config
    assert config is not None
    with torch.device("meta"):
        encoder = Encoder(config, needs_map=False)
    assert encoder.feature_length == PRESETS[name].dim


@pytest.mark.parametrize("name", OF_TIMM)
def test_a_preset_sees_what_timms_own_network_sees(name):
    torch.manual_seed(0)
    config = shrunk(name)
    encoder = Encoder(config, needs_map=True).eval()
    layers = {"SwiGLUPacked": getattr(timm.layers, "SwiGLUPacked"), "SiLU": torch.nn.SiLU}  # noqa: B009 (untyped there)
    arguments: dict[str, Any] = {
        key: layers.get(value, value) if isinstance(value, str) else value for key, value in config.arguments.items()
    }
    own: Any = timm.create_model(
        config.backbone.removeprefix("timm:"), pretrained=False, num_classes=0, **arguments
    ).eval()
    own.load_state_dict(encoder.backbone.network.state_dict())  # type: ignore[union-attr]
    pixels = torch.randint(0, 256, (2, 3, 224, 224), dtype=torch.uint8)
    with torch.inference_mode():
        vectors, maps = encoder(pixels)
        said = own(as_given(config, pixels))
    if config.pooling == "cls+mean":
        assert own.num_prefix_tokens == config.first_token
        said = torch.cat([said[:, 0], said[:, config.first_token :].mean(dim=1)], dim=1)
    assert torch.allclose(vectors, said, atol=1e-4)
    side = 224 // own.patch_embed.patch_size[0]
    assert maps.shape == (2, own.num_features, side, side)


@pytest.mark.parametrize("name", [name for name in BUILT if name not in OF_TIMM])
def test_a_preset_sees_what_transformers_own_network_sees(name):
    from transformers import Dinov2Config, Dinov2Model

    torch.manual_seed(0)
    config = shrunk(name)
    small = config.model_copy(update={"arguments": {**config.arguments, "hidden_size": 96, "num_attention_heads": 4}})
    encoder = Encoder(small, needs_map=True).eval()
    own = Dinov2Model(Dinov2Config(**small.arguments)).eval()
    own.load_state_dict(encoder.backbone.network.state_dict())  # type: ignore[union-attr]
    pixels = torch.randint(0, 256, (2, 3, 224, 224), dtype=torch.uint8)
    with torch.inference_mode():
        tokens = own(pixel_values=as_given(small, pixels)).last_hidden_state
        said = tokens[:, 0] if small.pooling == "cls" else torch.cat([tokens[:, 0], tokens[:, 1:].mean(dim=1)], dim=1)
        assert torch.allclose(encoder(pixels)[0], said, atol=1e-4)


def test_the_list_names_all_with_their_terms(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["models", "encoders", "--json"])
    assert ended.value.code == 0
    listed = {each["name"]: each for each in json.loads(capsys.readouterr().out)["encoders"]}
    assert listed.keys() == PRESETS.keys()
    assert listed["midnight-12k"]["licence"] == "MIT"
    assert listed["uni2-h"]["gated"]
    with pytest.raises(SystemExit):
        main(["models", "encoders"])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 * len(PRESETS)
    assert max(map(len, lines)) <= 120


def small_vit() -> torch.nn.Module:
    torch.manual_seed(1)
    network: torch.nn.Module = timm.create_model(
        "vit_tiny_patch16_224", num_classes=0, depth=2, img_size=64, reg_tokens=2
    ).eval()
    return network


CONFIG = {
    "architecture": "vit_tiny_patch16_224",
    "num_classes": 0,
    "model_args": {"depth": 2, "img_size": 64, "reg_tokens": 2},
    "pretrained_cfg": {
        "input_size": [3, 64, 64],
        "mean": [0.7, 0.6, 0.5],
        "std": [0.2, 0.2, 0.2],
        "interpolation": "bicubic",
    },
}


def check(source: str) -> None:
    found = encoder_from(source, (3,))
    assert (found.config.processing_levels, found.config.frozen, found.config.input_px) == ((3,), True, 64)
    encoder = Encoder(found.config, needs_map=False).eval()
    load_weights(encoder.backbone, found.tensors(), name=found.config.backbone, source=source)
    pixels = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    with torch.inference_mode():
        assert torch.allclose(encoder(pixels)[0], small_vit()(as_given(found.config, pixels)), atol=1e-5)


def test_a_folder_and_a_file_with_timms_config_are_read(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    with pytest.raises(ModelFileError, match=r"needs model\.safetensors or"):
        encoder_from(str(tmp_path), (3,))
    save_file(small_vit().state_dict(), tmp_path / "model.safetensors")
    check(str(tmp_path))
    check(str(tmp_path / "model.safetensors"))
    torch.save({"state_dict": {f"module.{k}": v for k, v in small_vit().state_dict().items()}}, tmp_path / "x.pth")
    check(str(tmp_path / "x.pth"))


def test_what_is_no_encoder_is_refused_in_a_sentence(tmp_path):
    for source, error, words in (
        ("nothing-like-it", UsageError, "is neither a preset"),
        ("timm:no_such_net", UsageError, "timm has no model"),
        ("torchvision:no_such_net", UsageError, "no such model"),
        ("hibou-b", UsageError, "its code would come from the repository"),
    ):
        with pytest.raises(error, match=words):
            encoder_from(source, (0,))
    (tmp_path / "x.pth").write_bytes(b"")
    with pytest.raises(ModelFileError, match=r"stands in no config\.json"):
        encoder_from(str(tmp_path / "x.pth"), (0,))
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "hibou", "auto_map": {"AutoModel": "x"}}))
    with pytest.raises(ModelFileError, match="is not run"):
        encoder_from(str(tmp_path / "x.pth"), (0,))
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    torch.save({"other": torch.zeros(2)}, tmp_path / "x.pth")
    found = encoder_from(str(tmp_path / "x.pth"), (0,))
    network, tensors = Encoder(found.config, needs_map=False).backbone, found.tensors()
    with pytest.raises(ModelFileError, match="tensors are missing"):
        load_weights(network, tensors, name=found.config.backbone, source="x.pth")


@pytest.fixture
def hub(tmp_path, monkeypatch):
    folder = tmp_path / "hub"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(CONFIG))
    save_file(small_vit().state_dict(), folder / "model.safetensors")
    with serving_hub(folder, tmp_path / "cache", monkeypatch):
        yield


@pytest.mark.usefixtures("hub")
def test_an_encoder_comes_from_the_hub_and_a_gated_one_says_where_to_ask():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        check("hf-hub:lab/open")
        with pytest.raises(ModelFileError, match=r"is gated: ask for access on .*lab/gated, then set HF_TOKEN"):
            encoder_from("hf-hub:lab/gated", (0,))


def test_other_sides_of_patches_are_taken_where_the_architecture_allows():
    rng = np.random.default_rng(0)
    patches = torch.from_numpy(rng.integers(0, 256, (1, 3, 96, 96), dtype=np.uint8))
    config = PRESETS["kaiko-vits16"].config
    assert config is not None
    small = config.model_copy(update={"input_px": 96, "arguments": {"depth": 1}})
    with torch.inference_mode():
        vectors, maps = Encoder(small).eval()(patches)
    assert vectors.shape == (1, 384)
    assert maps.shape == (1, 384, 6, 6)
