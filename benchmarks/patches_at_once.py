"""How many patches a network should look at at once on a processor: processor time a patch, by batch size.

python benchmarks/patches_at_once.py [--backbone tf_efficientnet_lite0] [--threads 1]
"""

import argparse
import statistics
import time

import torch

from tnet_cli.model.backbone import build_backbone

PATCHES, SIDE_PX = 32, 224


def main() -> None:
    """Print a line for each batch size, medians of rounds in which all take their turn."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="tf_efficientnet_lite0")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    network = build_backbone(given.backbone, SIDE_PX).eval().to(memory_format=torch.channels_last)
    patches = torch.rand(PATCHES, 3, SIDE_PX, SIDE_PX).to(memory_format=torch.channels_last)
    took: dict[int, list[float]] = {size: [] for size in (1, 2, 4, 8, 16, 32)}
    with torch.inference_mode():
        for _ in range(given.rounds):
            for size, seconds in took.items():
                before = time.process_time()
                for part in torch.split(patches, size):
                    network(part)
                seconds.append((time.process_time() - before) / PATCHES)
    for size, seconds in took.items():
        print(f"{size:3} at once: {1000 * statistics.median(seconds):6.1f} ms of processor time a patch")


if __name__ == "__main__":
    main()
