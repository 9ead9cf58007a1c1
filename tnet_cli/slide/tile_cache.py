"""Decoded tiles, kept while they are likely to be wanted again."""

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from concurrent.futures import Future

import numpy as np


class TileCache:
    """The most recently used tiles, up to a number of bytes. Safe for many threads.

    A tile that several threads want at once is decoded by one of them; the others wait for it, and share its error.
    Tiles that are handed out are read-only, because others may hold the same pixels.

    Args:
        capacity_bytes: Most that is kept; a single larger tile is kept until the next one comes.
    """

    def __init__(self, capacity_bytes: int) -> None:
        self._capacity = capacity_bytes
        self._held = 0
        self._tiles: OrderedDict[Hashable, np.ndarray] = OrderedDict()
        self._under_way: dict[Hashable, Future[np.ndarray]] = {}
        self._lock = threading.Lock()

    def get(self, key: Hashable, decode: Callable[[], np.ndarray]) -> np.ndarray:
        """Return a tile, decoded now unless it is still held."""
        with self._lock:
            held = self._tiles.get(key)
            if held is not None:
                self._tiles.move_to_end(key)
                return held
            under_way = self._under_way.get(key)
            if under_way is None:
                future = self._under_way[key] = Future()
            else:
                future = under_way
        if under_way is not None:
            return future.result()
        try:
            tile = decode()
        except BaseException as exc:
            with self._lock:
                del self._under_way[key]
            future.set_exception(exc)
            raise
        tile.flags.writeable = False
        with self._lock:
            # Both at once: whoever comes now finds it held, and nobody decodes it again.
            self._keep(key, tile)
            del self._under_way[key]
        future.set_result(tile)
        return tile

    def __contains__(self, key: Hashable) -> bool:
        with self._lock:
            return key in self._tiles

    def clear(self) -> None:
        """Let go of everything."""
        with self._lock:
            self._tiles.clear()
            self._held = 0

    def _keep(self, key: Hashable, tile: np.ndarray) -> None:
        self._tiles[key] = tile
        self._held += tile.nbytes
        while self._held > self._capacity and len(self._tiles) > 1:
            _, dropped = self._tiles.popitem(last=False)
            self._held -= dropped.nbytes
