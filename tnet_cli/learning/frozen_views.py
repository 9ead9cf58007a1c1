"""What frozen encoders see of the patches of the warm-up, of a fixed number of views of each, computed once.

A view is a patch turned, mirrored and tinted in one way. Where every patch has a few of them (``[training] views``) and
its encoder learns nothing, what the encoder sees of one is looked up the second time that it is drawn. Each is encoded
alone: then it does not depend, not even in its last digits, on what else was drawn, and a run that goes on repeats what
it would have done.
"""

import weakref
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from tnet_cli.files import scratch_file
from tnet_cli.learning.frozen_features import encoded_rows, parted_rows
from tnet_cli.model.tnet import TNet
from tnet_cli.model.traversal import Look


class _Rows:
    """Rows of float32 by number, in a file that is gone when nobody needs it any more.

    Args:
        folder: There already; None for the system's own place of such files.
    """

    def __init__(self, folder: Path | None) -> None:
        self.held: set[int] = set()
        self._bytes = 0
        stack = ExitStack()
        self._file = stack.enter_context(scratch_file(folder=folder))
        weakref.finalize(self, stack.close)

    def put(self, number: int, row: np.ndarray) -> None:
        """Keep a row, as long as all others.

        Raises:
            OSError: there is no room for it.
        """
        self._bytes = row.nbytes
        self._file.seek(number * self._bytes)
        self._file.write(row.tobytes())
        self.held.add(number)

    def get(self, number: int) -> np.ndarray:
        """Return a row that is held, float32 (L,)."""
        self._file.seek(number * self._bytes)
        return np.frombuffer(self._file.read(self._bytes), np.float32)


class FrozenViews:
    """What the frozen encoders of a network see of numbered views.

    Args:
        network: With its weights; at least one encoder is frozen.
        device: Where it computes.
        folder: For the file in which rows are kept; None for the system's own place of such files.
    """

    def __init__(self, network: TNet, device: torch.device, folder: Path | None) -> None:
        self.network, self.device = network, device
        frozen = [number for number, each in enumerate(network.config.encoders) if each.frozen]
        self._rows = {number: _Rows(folder) for number in frozen}

    def serves(self, processing_level: int) -> bool:
        """Whether the encoder of a processing level is frozen."""
        return self.network.config.encoder_number(processing_level) in self._rows

    def holds(self, view: int, processing_level: int) -> bool:
        """Whether what the processing level's encoder sees of a view is there, so that its pixels are not needed."""
        return view in self._rows[self.network.config.encoder_number(processing_level)].held

    def look(self, views: Sequence[int], pixels: Tensor, positions: Tensor, allowed: Tensor) -> Look:
        """Look at views of one frozen encoder, as ``TNet.look`` does; no gradient can pass into what is frozen.

        Args:
            views: Their numbers.
            pixels: uint8 (N, 3, H, W); those of views that are held are not looked at.
            positions: int64 (N, 3), on the device.
            allowed: bool (N, G), on the device.

        Raises:
            OSError: there is no room for what was seen.
        """
        processing_level = int(positions[0, 2])
        number = self.network.config.encoder_number(processing_level)
        rows = self._rows[number]
        for row, view in enumerate(views):
            if view not in rows.held:
                seen = encoded_rows(self.network, pixels[row : row + 1].to(self.device), processing_level)
                rows.put(view, seen[0].cpu().numpy())
        found = torch.from_numpy(np.stack([rows.get(view) for view in views])).to(self.device)
        vectors, cells = parted_rows(self.network, number, found)
        return self.network.look_at_encoded(processing_level, vectors, cells, positions, allowed)
