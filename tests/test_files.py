"""Files are written whole or not at all."""

import os
import re
from collections.abc import Callable
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


@pytest.fixture
def on_disk(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """What is asked of the disk, in order: syncs and what is put into place, by the last name of the path."""
    asked: list[tuple[str, str]] = []
    sync, replace, rename = os.fsync, os.replace, os.rename

    def recorded(descriptor: int) -> None:
        asked.append(("sync", Path(f"/proc/self/fd/{descriptor}").readlink().name))
        sync(descriptor)

    def put(how: Callable[..., None]) -> Callable[..., None]:
        def recorded_put(old: object, new: object, **named: object) -> None:
            asked.append(("put", Path(str(new)).name))
            how(old, new, **named)

        return recorded_put

    monkeypatch.setattr(os, "fsync", recorded)
    monkeypatch.setattr(os, "replace", put(replace))
    monkeypatch.setattr(os, "rename", put(rename))
    return asked


def test_a_file_is_on_the_disk_before_it_is_put_into_place_and_its_name_after(tmp_path: Path, on_disk):
    write_text_whole(tmp_path / "new" / "a.txt", "line\n")
    made, (first, draft), *rest = on_disk
    assert made == ("sync", tmp_path.name)
    assert (first, draft.startswith(".a.txt.")) == ("sync", True)
    assert rest == [("put", "a.txt"), ("sync", "new")]


def test_the_files_of_a_folder_are_on_the_disk_before_it_is_put_into_place(tmp_path: Path, on_disk):
    target = tmp_path / "deep" / "folder"
    files = {"a.txt": b"a", "b.txt": b"b"}
    write_folder(target, tmp_path, files)
    put = on_disk.index(("put", "folder"))
    assert {name for _, name in on_disk[:put]} >= {"a.txt", "b.txt", tmp_path.name}
    assert any(re.fullmatch(r"\d+\.[0-9a-f]{12}", name) for _, name in on_disk[:put]), "the names of both"
    assert on_disk[put + 1 :] == [("sync", "deep")]
    on_disk.clear()
    write_folder(target, tmp_path, files)
    put = on_disk.index(("put", "a.txt"))
    assert {name for _, name in on_disk[:put]} >= {"a.txt", "b.txt"}
    assert on_disk[put:] == [("put", "a.txt"), ("put", "b.txt"), ("sync", "folder")]


@pytest.mark.parametrize(
    "make", [lambda path: path.symlink_to("old"), os.mkfifo, Path.mkdir], ids=["link", "pipe", "folder"]
)
def test_only_an_ordinary_file_is_replaced_or_appended_to(make: Callable[[Path], None], tmp_path: Path):
    (tmp_path / "old").write_text("old")
    make(tmp_path / "a.txt")
    for write in (open_for_appending, lambda path: write_text_whole(path, "new")):
        with pytest.raises(OSError, match=r"is a link|is no ordinary file|is a folder"):
            write(tmp_path / "a.txt")
    assert (tmp_path / "old").read_text() == "old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.txt", "old"]
