"""What was read of slides, kept in a run's folder, so that a run that goes on reads nothing a second time.

Each file is written whole, and its name is a digest of all that decides what is in it: the slide's fingerprint, the
settings, and for what a network chose that network's weights. So no file is ever wrong, only in vain.
"""

import hashlib
import json
import re
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from tnet_cli.files import write_bytes_whole

_ABOUT = "tnet_kept"
_NAME = re.compile(r"\.?[0-9a-f]{40}\.safetensors.*")


def key_of(*decisive: object) -> str:
    """Return the key of what these JSON values decide, 40 hexadecimal digits."""
    return hashlib.sha256(json.dumps(decisive, sort_keys=True, default=str).encode()).hexdigest()[:40]


@dataclass(slots=True, eq=False)
class KeptReads:
    """Arrays by key, in files of a folder.

    Attributes:
        folder: Made with the first file; None to hold the arrays in memory, for as long as the process lives.
    """

    folder: Path | None = None
    _held: dict[str, tuple[dict[str, np.ndarray], dict[str, Any]]] = field(default_factory=dict)

    def put(self, key: str, arrays: Mapping[str, np.ndarray], about: Mapping[str, Any] | None = None) -> None:
        """Keep arrays, and JSON values about them.

        Raises:
            OSError: there is no room for them.
        """
        if self.folder is None:
            self._held[key] = dict(arrays), dict(about or {})
            return
        whole = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
        write_bytes_whole(self._path(self.folder, key), save(whole, metadata={_ABOUT: json.dumps(about or {})}))

    def get(self, key: str, leave_out: Collection[str] = ()) -> tuple[dict[str, np.ndarray], dict[str, Any]] | None:
        """Return the arrays of a key but those of some names, and what is said of them; None where there are none."""
        if self.folder is None:
            held = self._held.get(key)
            return held and ({name: array for name, array in held[0].items() if name not in leave_out}, held[1])
        try:
            with safe_open(self._path(self.folder, key), framework="np") as file:
                about = json.loads((file.metadata() or {})[_ABOUT])
                return {name: file.get_tensor(name) for name in file.keys() if name not in leave_out}, about  # noqa: SIM118 (not a dict)
        except (SafetensorError, OSError, KeyError, ValueError):
            return None  # absent, or what a failing disk left of it: it is read again

    def row(self, key: str, name: str, number: int) -> np.ndarray:
        """Return one row of an array that is kept.

        Raises:
            OSError: it is there no more.
        """
        if self.folder is None:
            held: np.ndarray = self._held[key][0][name][number]
            return held
        path = self._path(self.folder, key)
        try:
            with safe_open(path, framework="np") as file:
                rows: np.ndarray = file.get_slice(name)[number : number + 1]
                row: np.ndarray = rows[0]
        except (SafetensorError, IndexError) as exc:
            raise OSError(f"{path}: is damaged: {exc}") from exc
        return row

    def clear(self) -> None:
        """Remove everything, and what a killed run was writing; files of other names stay."""
        self._held.clear()
        if self.folder is None or not self.folder.is_dir():
            return
        for path in self.folder.iterdir():
            if _NAME.fullmatch(path.name):
                path.unlink(missing_ok=True)
        with suppress(OSError):  # something else is in it
            self.folder.rmdir()

    @staticmethod
    def _path(folder: Path, key: str) -> Path:
        return folder / f"{key}.safetensors"
