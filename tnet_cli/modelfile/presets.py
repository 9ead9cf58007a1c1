"""Pathology encoders by name: what they are, how they are built, and under which terms.

Facts from the models' own pages; none of their weights comes with tnet.
"""

from dataclasses import dataclass
from typing import Any

from tnet_cli.errors import UsageError
from tnet_cli.model.config import EncoderConfig

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
HALF = (0.5, 0.5, 0.5)
BIOPTIMUS_MEAN, BIOPTIMUS_STD = (0.707223, 0.578729, 0.703617), (0.211883, 0.230117, 0.177517)


@dataclass(frozen=True, slots=True)
class Preset:
    """An encoder that others have trained.

    Attributes:
        dim: Length of its vectors.
        loads: By which package, or why not.
        repository: On the hub.
        config: How it is built; None where the repository's own ``config.json`` says it, or where it is not loaded.
        gated: Whether its page asks for an account and consent first.
        spacing_um_px: Of the patches that its makers recommend.
    """

    name: str
    dim: int
    licence: str
    loads: str
    repository: str
    config: EncoderConfig | None
    gated: bool = False
    spacing_um_px: float = 0.5

    @property
    def page(self) -> str:
        """Where its terms stand, and where one asks for it."""
        return f"https://huggingface.co/{self.repository}"

    def document(self) -> dict[str, Any]:
        """Return what ``tnet models encoders --json`` says of it."""
        return {
            "name": self.name,
            "dim": self.dim,
            "licence": self.licence,
            "gated": self.gated,
            "loads": self.loads,
            "page": self.page,
            "spacing_um_px": self.spacing_um_px,
            "encoder": self.config and self.config.model_dump(mode="json", exclude={"processing_levels"}),
        }


def _timm(backbone: str, arguments: dict[str, Any], **more: Any) -> EncoderConfig:
    statistics = {"pixel_mean": IMAGENET_MEAN, "pixel_std": IMAGENET_STD}
    given: dict[str, Any] = {"input_px": 224, "interpolation": "bicubic", "frozen": True} | statistics | more
    return EncoderConfig(backbone=f"timm:{backbone}", arguments=arguments, **given)


def _dino(arguments: dict[str, Any], **more: Any) -> EncoderConfig:
    return EncoderConfig(
        backbone="transformers:dinov2",
        arguments=arguments,
        input_px=224,
        interpolation="bicubic",
        frozen=True,
        **more,
    )


_UNI = {"init_values": 1e-5, "dynamic_img_size": True}
_UNI2 = {
    "img_size": 224,
    "patch_size": 14,
    "depth": 24,
    "num_heads": 24,
    "init_values": 1e-5,
    "embed_dim": 1536,
    "mlp_ratio": 2.66667 * 2,
    "no_embed_class": True,
    "mlp_layer": "SwiGLUPacked",
    "act_layer": "SiLU",
    "reg_tokens": 8,
    "dynamic_img_size": True,
}
_VIRCHOW = {
    "img_size": 224,
    "init_values": 1e-5,
    "mlp_ratio": 5.3375,
    "mlp_layer": "SwiGLUPacked",
    "act_layer": "SiLU",
    "global_pool": "",
    "dynamic_img_size": True,
}
_OPTIMUS = {"img_size": 224, "init_values": 1e-5, "dynamic_img_size": False}
_GIGAPATH = {
    "img_size": 224,
    "patch_size": 16,
    "embed_dim": 1536,
    "depth": 40,
    "num_heads": 24,
    "init_values": 1e-5,
    "mlp_ratio": 5.33334,
}
_DINO_L = {
    "hidden_size": 1024,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "patch_size": 16,
    "image_size": 224,
}
_DINO_G = {
    "hidden_size": 1536,
    "num_hidden_layers": 40,
    "num_attention_heads": 24,
    "patch_size": 14,
    "image_size": 518,
    "use_swiglu_ffn": True,
}
_OPTIMUS_PIXELS = {"pixel_mean": BIOPTIMUS_MEAN, "pixel_std": BIOPTIMUS_STD}
_OPTIMUS_1_TERMS = "CC-BY-NC-ND-4.0, and a clause on models trained on its outputs"
_REMOTE = "not loaded: its code would come from the repository"

_ALL = (
    Preset("uni", 1024, "see its page", "timm", "MahmoodLab/UNI", _timm("vit_large_patch16_224", _UNI), gated=True),
    Preset(
        *("uni2-h", 1536, "CC-BY-NC-ND-4.0", "timm", "MahmoodLab/UNI2-h"),
        _timm("vit_giant_patch14_224", _UNI2),
        gated=True,
    ),
    Preset(
        *("virchow", 2560, "Apache-2.0", "timm", "paige-ai/Virchow"),
        _timm("vit_huge_patch14_224", _VIRCHOW, pooling="cls+mean"),
        gated=True,
    ),
    Preset(
        *("virchow2", 2560, "see its page", "timm", "paige-ai/Virchow2"),
        _timm("vit_huge_patch14_224", _VIRCHOW | {"reg_tokens": 4}, pooling="cls+mean", first_token=5),
        gated=True,
    ),
    Preset(
        *("h-optimus-0", 1536, "Apache-2.0", "timm", "bioptimus/H-optimus-0"),
        _timm("vit_giant_patch14_reg4_dinov2", _OPTIMUS, **_OPTIMUS_PIXELS),
    ),
    Preset(
        *("h-optimus-1", 1536, _OPTIMUS_1_TERMS, "timm", "bioptimus/H-optimus-1"),
        _timm("vit_giant_patch14_reg4_dinov2", _OPTIMUS, **_OPTIMUS_PIXELS),
        gated=True,
    ),
    Preset(
        *("gigapath", 1536, "see its page", "timm", "prov-gigapath/prov-gigapath"),
        _timm("vit_giant_patch14_dinov2", _GIGAPATH),
        gated=True,
    ),
    Preset(
        *("lunit-vits8", 384, "see its page", "timm", "1aurent/vit_small_patch8_224.lunit_dino"),
        _timm("vit_small_patch8_224", {}),
    ),
    Preset(
        *("kaiko-vits16", 384, "see its page", "timm"),
        "1aurent/vit_small_patch16_224.kaiko_ai_towards_large_pathology_fms",
        _timm("vit_small_patch16_224", {}, pixel_mean=HALF, pixel_std=HALF),
    ),
    Preset("prost40m", 384, "see its page", "timm, by its own config.json", "waticlems/Prost40M", None),
    Preset("mstar", 1024, "see its page", "timm", "Wangyh/mSTAR", _timm("vit_large_patch16_224", _UNI)),
    Preset(
        *("phikon-v2", 1024, "non-commercial", "transformers", "owkin/phikon-v2"),
        _dino(_DINO_L, pooling="cls", pixel_mean=IMAGENET_MEAN, pixel_std=IMAGENET_STD),
    ),
    Preset(
        *("midnight-12k", 3072, "MIT", "transformers", "kaiko-ai/midnight"),
        _dino(_DINO_G, pooling="cls+mean", pixel_mean=HALF, pixel_std=HALF),
    ),
    Preset("hibou-b", 768, "Apache-2.0", _REMOTE, "histai/hibou-b", None),
    Preset("hibou-l", 1024, "Apache-2.0", _REMOTE, "histai/hibou-L", None),
)
PRESETS = {each.name: each for each in _ALL}


def preset(name: str) -> Preset:
    """Return a preset by name.

    Raises:
        UsageError: there is none of that name.
    """
    if name not in PRESETS:
        raise UsageError(f"{name}: there is no such encoder; expected one of {', '.join(PRESETS)}")
    return PRESETS[name]
