"""Decoded tiles, kept while they are likely to be wanted again."""

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable

import numpy as np


class TileCache:
    """The most recently used tiles, up to a number of bytes. Safe for many threads.

    A tile that two threads want at once is decoded by one of them; the other waits for it.

    Args:
        capacity_bytes: Most that is kept.
    """

    def __init__(self, capacity_bytes: int) -> None:
        self._capacity = capacity_bytes
        self._held = 0
        self._tiles: OrderedDict[Hashable, np.ndarray] = OrderedDict()
        self._lock = threading.Lock()
        self._under_way: dict[Hashable, threading.Lock] = {}

    def get(self, key: Hashable, decode: Callable[[], np.ndarray]) -> np.ndarray:
        """Return a tile, decoded now unless it is still held."""
        with self._lock:
            tile = self._tiles.get(key)
            if tile is not None:
                self._tiles.move_to_end(key)
                return tile
            own = self._under_way.setdefault(key, threading.Lock())
        with own:
            with self._lock:
                tile = self._tiles.get(key)
            if tile is not None:
                return tile
            try:
                tile = decode()
            finally:
                with self._lock:
                    self._under_way.pop(key, None)
            self._keep(key, tile)
        return tile

    def clear(self) -> None:
        """Let go of everything."""
        with self._lock:
            self._tiles.clear()
            self._held = 0

    def _keep(self, key: Hashable, tile: np.ndarray) -> None:
        with self._lock:
            if key in self._tiles:
                return
            self._tiles[key] = tile
            self._held += tile.nbytes
            while self._held > self._capacity and len(self._tiles) > 1:
                _, dropped = self._tiles.popitem(last=False)
                self._held -= dropped.nbytes
