"""The ledger: what was appended is there again, and a torn line is as if it had never been."""

import errno
import os
from dataclasses import replace
from pathlib import Path

import pytest

from tnet_cli.inputs.options import TraversalOptions
from tnet_cli.results.ledger import Ledger, LedgerEntry, RunIdentity
from tnet_cli.results.result import SlideRow

IDENTITY = RunIdentity(model="ab" * 32, options=TraversalOptions(mpp=0.25).record((2, 3)))


def entry(name: str, status: str = "ok") -> LedgerEntry:
    values = {"slide": name, "path": f"x/{name}.svs", "status": status, "probability": 0.123457, "error": None}
    row = SlideRow(values=values, reasons=("ünusual",), files={"result.json": 7})
    return LedgerEntry(row=row, run=IDENTITY.digest, given_mpp=None, fingerprint={"size": 5, "mtime_ns": 2**62})


def written(path: Path, *names: str) -> list[LedgerEntry]:
    entries = [entry(name) for name in names]
    with Ledger(path) as ledger:
        ledger.begin(IDENTITY)
        for each in entries:
            ledger.append(each)
    return entries


def test_what_was_appended_is_there_again_and_the_last_word_counts(tmp_path: Path):
    path = tmp_path / "ledger.jsonl"
    a, b = written(path, "a", "b")
    with Ledger(path) as ledger:
        ledger.begin(IDENTITY)
        ledger.append(entry("a", "failed"))
    with Ledger(path) as ledger:
        assert ledger.entries["", "b"] == b
        assert ledger.entries["", "a"] == entry("a", "failed")
        assert ledger.identities == {IDENTITY.digest: IDENTITY.facts()}
    assert len(path.read_text().splitlines()) == 4
    assert a.row.is_done
    assert not entry("a", "failed").row.is_done


def test_cut_anywhere_it_keeps_every_whole_line_and_can_be_gone_on_with(tmp_path: Path):
    path = tmp_path / "ledger.jsonl"
    written(path, "a", "b", "c")
    whole = path.read_bytes()
    ends = [i + 1 for i, byte in enumerate(whole) if byte == 0x0A]
    for cut in range(0, len(whole) + 1, 7):
        path.write_bytes(whole[:cut])
        with Ledger(path) as ledger:
            assert [name for _, name in ledger.entries] == ["a", "b", "c"][
                : max(0, sum(end <= cut for end in ends) - 1)
            ]
            ledger.append(entry("d"))
        with Ledger(path) as ledger:
            assert list(ledger.entries)[-1] == ("", "d")


def test_a_line_damaged_in_the_middle_loses_that_slide_alone(tmp_path: Path):
    path = tmp_path / "ledger.jsonl"
    written(path, "a", "b", "c")
    lines = path.read_bytes().splitlines(keepends=True)
    lines[2] = b"\0" * (len(lines[2]) - 1) + b"\n"
    lines.insert(1, b'{"row": 5}\n')
    lines.insert(1, b"[]\n")
    lines.insert(1, b"[" * 100_000 + b"]" * 100_000 + b"\n")
    lines.insert(1, b'{"run": "x", "identity": 5}\n')
    lines.insert(1, b'{"begun": []}\n{"given_up": 5}\nnull\n"row"\n\xff\n')
    lines.insert(1, lines[-1].replace(IDENTITY.digest.encode(), b'", "run": {}, "x": "'))
    lines.insert(1, lines[-1].replace(b'"status"', b'"statuses"'))
    path.write_bytes(b"".join(lines))
    with Ledger(path) as ledger:
        assert list(ledger.entries) == [("", "a"), ("", "c")]
        ledger.attempt(("", "b"))
    with Ledger(path, afresh=True) as ledger:
        assert ("", "b") in ledger.suspects


def test_a_slide_that_was_under_way_when_the_process_died_is_a_suspect_until_it_has_ended(tmp_path: Path):
    path = tmp_path / "ledger.jsonl"
    written(path, "a")
    with Ledger(path) as ledger:
        for name in ("a", "b", "c"):
            ledger.attempt(("", name))
        ledger.append(entry("c"))
    with Ledger(path) as ledger:
        assert ledger.suspects == {("", "a"), ("", "b")}
        assert list(ledger.entries) == [("", "a"), ("", "c")]
        ledger.attempt(("", "a"))
        ledger.append(entry("a"))
        ledger.attempt(("arm", "d"))
        ledger.append(replace(entry("e"), fatal=True))
    with Ledger(path, afresh=True) as ledger:
        assert ledger.suspects == {("", "b"), ("", "e"), ("arm", "d")}
        assert ledger.entries == {}
    with Ledger(path) as ledger:
        assert ledger.suspects == {("", "b"), ("", "e"), ("arm", "d")}, "also where all is done again"


def test_a_slide_that_a_process_gives_up_as_it_ends_is_no_suspect(tmp_path: Path):
    path = tmp_path / "ledger.jsonl"
    with Ledger(path) as ledger:
        ledger.attempt(("", "suspect"))
    with Ledger(path) as ledger:
        ledger.attempt(("", "suspect"))
        ledger.attempt(("", "innocent"))
        ledger.end_attempts()
    with Ledger(path) as ledger:
        assert ledger.suspects == {("", "suspect")}, "it was not read to its end, so nothing new is known of it"


def test_afresh_it_is_empty(tmp_path: Path):
    path = tmp_path / "ledger.jsonl"
    written(path, "a")
    with Ledger(path, afresh=True) as ledger:
        assert ledger.entries == {}
    assert path.read_bytes() == b""


def test_a_full_disk_that_takes_half_a_line_leaves_none_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / "ledger.jsonl"
    written(path, "a")
    before = path.read_bytes()
    with Ledger(path) as ledger:
        real_write = os.write
        monkeypatch.setattr(os, "write", lambda file, data: real_write(file, data[: len(data) // 2]))
        with pytest.raises(OSError, match="No space left") as raised:
            ledger.append(entry("b"))
        assert raised.value.errno == errno.ENOSPC
    assert path.read_bytes() == before


@pytest.mark.parametrize("change", [{"model": "cd" * 32}, {"locations": (2, 4)}, {"budget": 9}, {"mpp": None}])
def test_an_identity_is_known_by_everything_a_result_depends_on(change):
    def identity(model="ab" * 32, **options):
        return RunIdentity(model, TraversalOptions(**{"mpp": 0.25} | options).record((2, 3)))

    assert identity(**change).digest != IDENTITY.digest
    assert identity().digest == identity(locations=(2, 3)).digest == IDENTITY.digest
