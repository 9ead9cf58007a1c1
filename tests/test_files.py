"""Files are written whole or not at all."""

from pathlib import Path

import pytest

from tnet_cli.files import write_text_whole, written_whole


class PowerCutError(Exception):
    """Stands for whatever ends a write halfway."""


def test_a_file_and_its_folder_are_made(tmp_path: Path):
    write_text_whole(tmp_path / "new" / "a.txt", "line\n")
    assert (tmp_path / "new" / "a.txt").read_bytes() == b"line\n"
    assert [entry.name for entry in (tmp_path / "new").iterdir()] == ["a.txt"]


def write_half(target: Path) -> None:
    with written_whole(target) as draft:
        draft.write_text("half")
        raise PowerCutError


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path: Path):
    target = tmp_path / "a.txt"
    target.write_text("old")
    with pytest.raises(PowerCutError):
        write_half(target)
    assert target.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.txt"]


def test_the_target_is_never_seen_half_written(tmp_path: Path):
    target = tmp_path / "a.txt"
    with written_whole(target) as draft:
        draft.write_text("half")
        assert not target.exists()
    assert target.read_text() == "half"


def test_the_draft_keeps_the_suffix_so_that_formats_are_recognised(tmp_path: Path):
    with written_whole(tmp_path / "a.png") as draft:
        assert draft.suffix == ".png"
        assert draft.parent == tmp_path
        draft.touch()
