"""Files are written whole or not at all."""

import os
from pathlib import Path

import numpy as np
import pytest

from tnet_cli.files import open_for_appending, scratch_file, write_folder_whole, write_text_whole, written_whole


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


def contents(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in folder.iterdir()}


NAMES = ("a.txt", "b.txt")


def write_folder(target: Path, within: Path, contents: dict[str, bytes]) -> None:
    write_folder_whole(target, contents, drafts=within / "drafts", within=within, names=NAMES)


def test_a_new_folder_appears_with_all_its_files(tmp_path: Path):
    target = tmp_path / "deep" / "folder"
    write_folder(target, tmp_path, {"a.txt": b"new"})
    assert contents(target) == {"a.txt": "new"}
    assert contents(tmp_path / "drafts") == {}


def test_in_an_old_folder_files_are_replaced_and_what_is_of_somebody_else_stays(tmp_path: Path):
    target = tmp_path / "folder"
    target.mkdir()
    for name in (*NAMES, "notes.txt"):
        (target / name).write_text("old")
    with pytest.raises(FileNotFoundError):
        write_folder(target, tmp_path, {"a.txt": b"new", "no/such/folder.txt": b"new"})
    assert contents(target) == {"a.txt": "old", "b.txt": "old", "notes.txt": "old"}
    write_folder(target, tmp_path, {"a.txt": b"new"})
    assert contents(target) == {"a.txt": "new", "notes.txt": "old"}
    assert contents(tmp_path / "drafts") == {}


def test_what_is_appended_is_at_the_end_whoever_wrote_before(tmp_path: Path):
    descriptors = [open_for_appending(tmp_path / "log") for _ in range(2)]
    for number in range(4):
        os.write(descriptors[number % 2], f"{number}\n".encode())
    for descriptor in descriptors:
        os.close(descriptor)
    assert (tmp_path / "log").read_text() == "0\n1\n2\n3\n"


def test_a_scratch_file_has_no_name_and_outlives_its_handle_where_it_is_mapped():
    with scratch_file(4096) as file:
        assert os.fstat(file.fileno()).st_nlink == 0
        mapped = np.memmap(file, np.uint8, "w+", shape=(4096,))
    mapped[:] = 7
    assert mapped.sum() == 7 * 4096
