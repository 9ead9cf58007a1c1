"""The ledger of a run: a line for each slide that is begun or has ended, appended at once and never changed.

It is what a run is resumed from; the tables are made from it. A slide that was begun and has not ended was under way
when the process died, and may be why. A line is appended by a single call of the kernel, so
that a process that is killed leaves at most one torn line, the last, which is cut off when the ledger is opened again.
"""

import errno
import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from tnet_cli.files import open_for_appending
from tnet_cli.inputs.fingerprint import Fingerprint
from tnet_cli.results.result import SlideRow

FORMAT = 2
"""Version of a row's columns and of what lies in a slide's folder; rows of another version are made anew."""


@dataclass(frozen=True, slots=True)
class RunIdentity:
    """What a result depends on besides the slide; results of another identity are never taken for this one's.

    Attributes:
        model: Digest of the model file.
        options: As ``TraversalOptions.record`` gives them.
    """

    model: str
    options: dict[str, Any]

    def facts(self) -> dict[str, Any]:
        """Return what the ledger says of it: name -> JSON value."""
        return {"format": FORMAT, "model": self.model} | self.options

    @property
    def digest(self) -> str:
        """Names these facts."""
        text = json.dumps(self.facts(), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


@dataclass(frozen=True, slots=True)
class LedgerEntry:
    """One slide that has ended.

    Attributes:
        run: Digest of the identity it was made under.
        given_mpp: What the manifest said, or None.
        fingerprint: Of its content, or None when that was not known.
        part: Of the run, where one looks at its slides several times, such as an arm of an evaluation.
        fatal: Whether the process that read it died of it.
    """

    row: SlideRow
    run: str
    given_mpp: float | None
    fingerprint: Fingerprint | None
    part: str = ""
    fatal: bool = False


SlideKey = tuple[str, str]
"""Part of the run, and name of a slide."""


class Ledger:
    """An open ledger. A context manager; for one process at a time.

    Args:
        path: The file, in a folder that exists.
        afresh: Begin with an empty one, in place of what is there; only of what processes died is still known.

    Attributes:
        entries: The last of each slide, by part of the run and name, as they were when the ledger was opened.
        suspects: Slides that were under way when a process died, or of which one did, as far as that is known by now.
        identities: Facts of the runs that wrote into it, by digest.
    """

    def __init__(self, path: Path, *, afresh: bool = False) -> None:
        self.entries: dict[SlideKey, LedgerEntry] = {}
        self.suspects: set[SlideKey] = set()
        self.identities: dict[str, dict[str, Any]] = {}
        self._under_way: set[SlideKey] = set()
        self._file = open_for_appending(path)
        try:
            self._read(path)
            if afresh:
                self.entries, self.identities = {}, {}
                os.ftruncate(self._file, 0)
                for slide in sorted(self.suspects):
                    self._write(_begun(slide))
        except BaseException:
            os.close(self._file)
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._file)

    def begin(self, identity: RunIdentity) -> None:
        """Note under which identity the next rows are made."""
        if identity.digest not in self.identities:
            self._append({"run": identity.digest, "identity": identity.facts()})

    def attempt(self, slide: SlideKey) -> None:
        """Note a slide before it is opened.

        Raises:
            OSError: the disk is full or gone.
        """
        self._under_way.add(slide)
        self._write(_begun(slide))

    def end_attempts(self) -> None:
        """Note that slides which are under way are given up by a process that ends well: none of them ends it.

        Raises:
            OSError: the disk is full or gone.
        """
        innocent = sorted(self._under_way - self.suspects)
        self._under_way.clear()
        if innocent:
            self._append({"given_up": innocent})

    def append(self, entry: LedgerEntry) -> None:
        """Note a slide that has ended and whose files are in place.

        Raises:
            OSError: the disk is full or gone.
        """
        particular = {"part": entry.part, "kept": dict(entry.row.kept), "fatal": entry.fatal}
        self._append(
            {name: value for name, value in particular.items() if value}
            | {
                "run": entry.run,
                "given_mpp": entry.given_mpp,
                "fingerprint": entry.fingerprint,
                "files": dict(entry.row.files),
                "reasons": list(entry.row.reasons),
                "row": dict(entry.row.values),
            }
        )
        slide = (entry.part, entry.row.values["slide"])
        self._under_way.discard(slide)
        (self.suspects.add if entry.fatal else self.suspects.discard)(slide)

    def sync(self) -> None:
        """See that what was appended survives even the loss of power."""
        os.fsync(self._file)

    def _append(self, document: Mapping[str, Any]) -> None:
        self._write(json.dumps(document, allow_nan=False) + "\n")

    def _write(self, text: str) -> None:
        line = text.encode("ascii")
        end = os.lseek(self._file, 0, os.SEEK_END)
        if os.write(self._file, line) < len(line):
            # A full disk took part of it: nothing may be glued to a torn line.
            os.ftruncate(self._file, end)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def _read(self, path: Path) -> None:
        whole = 0
        with path.open("rb") as file:
            for line in file:
                if not line.endswith(b"\n"):
                    break
                whole += len(line)
                self._understand(line)
        os.ftruncate(self._file, whole)

    def _understand(self, line: bytes) -> None:
        """Take in a line; one that a damaged disk left unreadable is as if it had never been written."""
        try:
            said = json.loads(line)
            if "identity" in said:
                self.identities[said["run"]] = dict(said["identity"])
                return
            if "begun" in said:
                self.suspects.add((str(said.get("part", "")), str(said["begun"])))
                return
            if "given_up" in said:
                self.suspects -= {(part, name) for part, name in said["given_up"]}
                return
            fingerprint = said["fingerprint"] if "fingerprint" in said else said["stamp"]  # as it was called once
            values, files, kept = dict(said["row"]), dict(said["files"]), dict(said.get("kept", {}))
            row = SlideRow(values, tuple(said.get("reasons", ())), files, kept)
            entry = LedgerEntry(
                row, said["run"], said["given_mpp"], fingerprint, said.get("part", ""), fatal=bool(said.get("fatal"))
            )
            slide = (entry.part, values["slide"])
            texts = (*slide, entry.run, values["path"], values["status"])
            if all(isinstance(text, str) for text in texts):
                self.entries[slide] = entry
                (self.suspects.add if entry.fatal else self.suspects.discard)(slide)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            return


def _begun(slide: SlideKey) -> str:
    part, name = slide
    return json.dumps({"begun": name} | ({"part": part} if part else {})) + "\n"
