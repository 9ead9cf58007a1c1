"""The stages each arm goes through, and the folder that keeps what each of them gave."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from benchmarks.megapixel_mnist.arms import attending_network, budget_locations, full_network, shrunk_network
from benchmarks.megapixel_mnist.canvas import Digits
from benchmarks.megapixel_mnist.loop import Loop, Stage, write_whole
from benchmarks.megapixel_mnist.training import (
    Series,
    hold_all_but_locations,
    learn_to_attend,
    learn_whole,
    warm_up,
)
from tnet_cli.model.tnet import TNet

SHARED_SIDES = (32, 64)
"""The small images that every arm's features begin with."""

SHARED = (Stage("digits at 32 px", 300, 64, 3e-3), Stage("digits at 64 px", 200, 64, 2e-3))
WARM_UP = Stage("warm-up", 1200, 48, 3e-3)
LOCATIONS = Stage("locations alone", 300, 16, 3e-3)
ATTENTION = Stage("hard attention", 300, 16, 1e-3)
SHRUNK = Stage("shrunk", 600, 32, 1e-3)
GROWING = (
    (128, Stage("full at 128 px", 300, 32, 2e-3)),
    (256, Stage("full at 256 px", 200, 16, 1e-3)),
    (448, Stage("full at 448 px", 200, 8, 1e-3)),
)
"""Arm (a) meets images that grow, each stage with more fragments beside the one digit."""

FULL = Stage("full", 600, 4, 5e-4)
LARGER_THAN_PX = 896
"""Arm (a) on images that are larger goes on from what it learnt on images of half the side."""

LARGER = Stage("full, larger", 300, 4, 5e-4)
EXPLORED, ATTENDED = 8, 4
"""Locations for each image while the location module learns alone, and while everything learns."""


@dataclass(frozen=True, slots=True, eq=False)
class Recipe:
    """What is trained, on what, and where it is kept.

    Attributes:
        folder: Of the checkpoints; a stage that is there is not trained again.
        digits: The training part of MNIST.
        side_px: Of the images.
        effort: Share of each stage's steps.
        teach_locations: Whether the location module is told where the digit is, beside what REINFORCE teaches it.
    """

    folder: Path
    digits: Digits
    side_px: int
    effort: float = 1.0
    teach_locations: bool = False

    def train(self, arm: str) -> None:
        """Train one arm, and first what it starts from: ``tnet``, ``shrunk`` or ``full``."""
        {"tnet": self._tnet, "shrunk": self._shrunk, "full": self._full}[arm]()

    def load(self, arm: str) -> tuple[TNet, float]:
        """Return a trained arm, and the processor time of all its stages, in seconds.

        Raises:
            FileNotFoundError: it has not been trained.
        """
        network = make_network(arm, self.side_px)
        state = torch.load(self._path(f"{arm}-{self.side_px}"), weights_only=True)
        network.load_state_dict(state["network"])
        return network, float(state["cpu_seconds"])

    def _digits(self) -> str:
        """Train what all arms begin with: the network on small images at their own resolution."""
        before = None
        for number, (side, stage) in enumerate(zip(SHARED_SIDES, SHARED, strict=True)):
            before = self._stage(f"digits-{side}", before, full_network(side), stage, side, number, learn_whole)
        return f"digits-{SHARED_SIDES[-1]}"

    def _warm(self) -> str:
        def learn(network: TNet, series: Series, loop: Loop) -> None:
            warm_up(network, series, loop, teach_locations=self.teach_locations)

        network = attending_network(self.side_px)
        return self._stage(f"warm-{self.side_px}", self._digits(), network, WARM_UP, self.side_px, 10, learn)

    def _tnet(self) -> None:
        def explore(network: TNet, series: Series, loop: Loop) -> None:
            locations = budget_locations(self.side_px, EXPLORED)
            learn_to_attend(network, series, loop, locations=locations, teach_locations=False)

        def attend(network: TNet, series: Series, loop: Loop) -> None:
            locations = budget_locations(self.side_px, ATTENDED)
            learn_to_attend(network, series, loop, locations=locations, teach_locations=self.teach_locations)

        before, network = self._warm(), attending_network(self.side_px)
        if not self.teach_locations:
            hold_all_but_locations(network, held=True)
            before = self._stage(f"locations-{self.side_px}", before, network, LOCATIONS, self.side_px, 20, explore)
            hold_all_but_locations(network, held=False)
        self._stage(f"tnet-{self.side_px}", before, network, ATTENTION, self.side_px, 21, attend)

    def _shrunk(self) -> None:
        name, network = f"shrunk-{self.side_px}", shrunk_network(self.side_px)
        self._stage(name, self._warm(), network, SHRUNK, self.side_px, 30, learn_whole)

    def _full(self) -> None:
        if self.side_px > LARGER_THAN_PX:
            half = replace(self, side_px=self.side_px // 2)
            half.train("full")
            name, network = f"full-{self.side_px}", full_network(self.side_px)
            self._stage(name, f"full-{half.side_px}", network, LARGER, self.side_px, 49, learn_whole)
            return
        before = self._digits()
        for number, (side, stage) in enumerate(GROWING):
            if side < self.side_px:
                name = f"full-{self.side_px}-at-{side}"
                before = self._stage(name, before, full_network(side), stage, side, 40 + number, learn_whole)
        name, network = f"full-{self.side_px}", full_network(self.side_px)
        self._stage(name, before, network, FULL, self.side_px, 49, learn_whole)

    def _stage(
        self,
        name: str,
        before: str | None,
        network: TNet,
        stage: Stage,
        side_px: int,
        seed: int,
        learn: Callable[[TNet, Series, Loop], None],
    ) -> str:
        """Train one stage from the weights of another, unless it is there; return its name.

        The processor time kept with it is that of this stage and of all before it.
        """
        path, unfinished = self._path(name), self._path(f"{name}-unfinished")
        if path.exists():
            return name
        torch.manual_seed(seed)
        spent = 0.0
        if before is not None:
            state = torch.load(self._path(before), weights_only=True)
            network.load_state_dict(state["network"])
            spent = float(state["cpu_seconds"])
        shortened = replace(stage, steps=max(2, round(stage.steps * self.effort)))
        loop = Loop(network, shortened, unfinished)
        # Series of the same numbers must not meet: one for each stage and side.
        learn(network, Series(self.digits, side_px, seed, stage.batch), loop)
        kept = {"network": network.state_dict(), "cpu_seconds": spent + loop.cpu_seconds}
        write_whole(kept, path)
        unfinished.unlink(missing_ok=True)
        return name

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}.pt"


def make_network(arm: str, side_px: int) -> TNet:
    """Return an arm's network, with random weights: ``tnet``, ``shrunk`` or ``full``."""
    return {"tnet": attending_network, "shrunk": shrunk_network, "full": full_network}[arm](side_px)
