"""What a patch may look like too, without another label: turned, mirrored, and tinted."""

import numpy as np


def augment_patch(
    pixels: np.ndarray, cells: np.ndarray, colour_jitter: float, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Turn, mirror and tint a patch, and carry its cells along: changes that leave its label alone.

    Args:
        pixels: uint8 (H, W, 3), square.
        cells: (K, G) any values per cell of the n x n attention grid, row-major.
        colour_jitter: Largest relative change of each colour channel.

    Returns:
        The changed pixels uint8 (H, W, 3) and cells (K, G).
    """
    turns, mirrored = int(rng.integers(4)), bool(rng.integers(2))
    side = round(cells.shape[1] ** 0.5)
    grid = cells.reshape(-1, side, side)
    pixels, grid = np.rot90(pixels, turns, axes=(0, 1)), np.rot90(grid, turns, axes=(1, 2))
    if mirrored:
        pixels, grid = pixels[:, ::-1], grid[:, :, ::-1]
    gain = 1 + rng.uniform(-colour_jitter, colour_jitter, size=3)
    table = np.clip(np.arange(256)[:, None] * gain, 0, 255).astype(np.uint8)  # (256, 3)
    tinted = np.stack([table[:, channel][pixels[..., channel]] for channel in range(3)], axis=-1)
    return tinted, grid.reshape(cells.shape)
