"""Folders and patterns: which files are slides, which are parts of one, links, order."""

import os
import re
import shutil
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tnet_cli.inputs.discovery import Tally, natural_key, slides_in, slides_matching
from tnet_cli.inputs.inputs import find_inputs


def touch(folder: Path, *names: str) -> Path:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return folder


def inside(folder: Path, tally: Tally | None = None, **options) -> list[str]:
    found = slides_in(folder, tally=tally or Tally(), **options)
    return [file.path.relative_to(folder).as_posix() for file in found]


def matching(folder: Path, pattern: str, tally: Tally | None = None, **options) -> list[str]:
    found = slides_matching(f"{folder}/{pattern}", tally=tally or Tally(), **options)
    return [file.path.relative_to(folder).as_posix() for file in found]


# What is a slide


def test_slides_are_known_by_suffix_and_the_rest_is_counted(tmp_path):
    slides = ["a.svs", "b.TIF", "c.ndpi", "d.mrxs", "e.png", "f.JPEG", "g.ome.tiff", "h.scn", "i.bif", "j.svslide"]
    touch(tmp_path, *slides, "t.txt", "u.txt", "v.geojson", "w", "labels.csv", "x.zarr/0.0", "x.zarr/1.tif")
    tally = Tally()
    assert inside(tmp_path, tally) == slides
    assert tally.others == {".txt": 2, ".geojson": 1, "": 1, ".csv": 1, ".zarr": 1}
    notes: list[str] = []
    tally.tell("dir", notes.append)
    assert notes == ["dir: ignored 6 files: no slides (2 .txt, 1 without suffix, 1 .csv, 1 .geojson, 1 .zarr)"]


def test_hidden_files_and_those_of_file_servers_are_ignored(tmp_path):
    touch(tmp_path, "a.svs", "._a.svs", ".b.svs", ".git/c.png", "@eaDir/a.svs/SYNO_THUMB.jpg", "__MACOSX/a.svs")
    tally = Tally()
    assert inside(tmp_path, tally) == ["a.svs"]
    assert not tally.others
    assert matching(tmp_path, "*") == ["a.svs"]
    assert matching(tmp_path, ".b*") == [".b.svs"]


def test_a_slide_without_a_telling_suffix_is_known_by_its_content(tmp_path, shared):
    slides = shared / "data" / "slides"
    shutil.copy(slides / "boxes.tiff", tmp_path / "scan")
    shutil.copy(slides / "boxes_0.dcm", tmp_path / "1.2.840.113")
    shutil.copy(slides / "small.svs", tmp_path / "small.vendor")
    touch(tmp_path, "empty.vendor")
    (tmp_path / "liar.vendor").write_bytes(b"II*\0" + bytes(200))
    assert inside(tmp_path) == ["1.2.840.113", "scan", "small.vendor"]


def test_pictures_called_after_a_slide_only_show_it(tmp_path):
    touch(tmp_path, "s1.svs", "s1_thumb.png", "s1-label.jpg", "s1.svs.macro.jpg", "S1 Overview.png")
    touch(tmp_path, "s1.png", "s2_thumb.png", "mask.png", "other/s1_thumb.png")
    tally = Tally()
    assert inside(tmp_path, tally) == ["mask.png", "other/s1_thumb.png", "s1.png", "s1.svs", "s2_thumb.png"]
    assert tally.parts == 4


# Slides of several files


def test_a_mirax_slide_counts_once_and_its_folder_is_not_searched(tmp_path):
    touch(tmp_path, "m.mrxs", "m/Slidedat.ini", "m/Data0000.dat", "m/Index.dat", "m/preview.jpg")
    touch(tmp_path, "n.mrxs", "n/own.svs")
    tally = Tally()
    assert inside(tmp_path, tally) == ["m.mrxs", "n/own.svs", "n.mrxs"]
    assert matching(tmp_path, "**/*.*") == ["m.mrxs", "n/own.svs", "n.mrxs"]
    assert not tally.others
    # The shell gives the folder too when asked for all there is.
    given = [str(tmp_path / name) for name in ("m", "m.mrxs", "n", "n.mrxs")]
    assert [Path(entry.path).name for entry in find_inputs(given)] == ["m.mrxs", "own.svs", "n.mrxs"]


def test_the_pictures_of_a_hamamatsu_slide_are_its_parts(tmp_path):
    touch(tmp_path, "s(0,0).jpg", "s(1,0).jpg", "s_map2.jpg", "s_macro.jpg", "s.opt", "own.jpg", "v.ngr", "v_map.jpg")
    (tmp_path / "s.vms").write_text(
        "[Virtual Microscope Specimen]\nNoLayers=1\nImageFile=s(0,0).jpg\nImageFile(1,0)=s(1,0).jpg\n"
        "MapFile=s_map2.jpg\nMacroImage=s_macro.jpg\nOptimisationFile=s.opt\n"
    )
    (tmp_path / "v.vmu").write_text("[Uncompressed Virtual Microscope Specimen]\nImageFile=v.ngr\nMapFile=v_map.jpg\n")
    tally = Tally()
    assert inside(tmp_path, tally) == ["own.jpg", "s.vms", "v.vmu"]
    assert tally.parts == 7
    notes: list[str] = []
    given = [str(path) for path in sorted(tmp_path.iterdir()) if path.suffix in {".jpg", ".vms"}]
    found = find_inputs(given, on_note=notes.append)
    assert [entry.name for entry in found] == ["own", "s", "v_map"]
    assert notes[0] == f"{tmp_path}/s(0,0).jpg: belongs to {tmp_path}/s.vms and is no row of its own"


def test_a_set_of_ndpi_files_counts_once(tmp_path):
    touch(tmp_path, "c1.ndpi", "c2.ndpi", "single.ndpi", "apart.ndpi")
    (tmp_path / "set.ndpis").write_text(
        "[NanoZoomer Digital Pathology Image Set]\nNoImages=2\nImage0=c1.ndpi\nImage1=c2.ndpi\n"
    )
    (tmp_path / "one.ndpis").write_text("[NanoZoomer Digital Pathology Image Set]\nNoImages=1\nImage0=single.ndpi\n")
    assert inside(tmp_path) == ["apart.ndpi", "set.ndpis", "single.ndpi"]


def test_an_index_file_that_is_damaged_is_a_slide_that_will_fail(tmp_path):
    (tmp_path / "s.vms").write_bytes(os.urandom(5000))
    assert inside(tmp_path) == ["s.vms"]


@pytest.fixture
def dicom(shared: Path, tmp_path: Path) -> Path:
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        shutil.copy(shared / "data" / "slides" / "boxes_0.dcm", tmp_path / folder / "b.dcm")
        shutil.copy(shared / "data" / "slides" / "boxes_1.dcm", tmp_path / folder / "a.dcm")
    return tmp_path


def test_a_dicom_series_is_one_slide_shown_by_its_finest_resolution(dicom):
    tally = Tally()
    assert inside(dicom, tally) == ["one/b.dcm", "two/b.dcm"]
    assert tally.parts == 2
    assert matching(dicom, "*/*.dcm") == ["one/b.dcm", "two/b.dcm"]


def test_files_of_one_dicom_series_given_by_name_are_one_slide(dicom):
    notes: list[str] = []
    found = find_inputs([str(dicom / name) for name in ("one/a.dcm", "one/b.dcm", "two")], on_note=notes.append)
    assert [entry.shown_path for entry in found] == [str(dicom / "one/a.dcm"), str(dicom / "two/b.dcm")]
    assert f"{dicom}/one/b.dcm: the same slide as {dicom}/one/a.dcm; it counts once" in notes


def test_dicom_of_other_kinds_is_no_slide_and_damaged_dicom_is_a_row(dicom):
    data = (dicom / "one" / "b.dcm").read_bytes()
    storage = b"1.2.840.10008.5.1.4.1.1.77.1.6"
    (dicom / "ct.dcm").write_bytes(data.replace(storage, b"1.2.840.10008.5.1.4.1.1.2\0\0\0\0\0"))
    (dicom / "cut.dcm").write_bytes(data[:400])
    (dicom / "noise.dcm").write_bytes(b"no DICOM at all")
    tally = Tally()
    assert inside(dicom, tally, recursive=False) == ["cut.dcm", "noise.dcm"]
    assert tally.others == {".dcm of other kinds": 1}


def test_any_damage_to_dicom_leaves_a_row(dicom):
    data = (dicom / "one" / "b.dcm").read_bytes()
    shutil.rmtree(dicom / "two")
    for seed in range(0, 1200, 7):
        broken = bytearray(data[: 140 + seed] if seed % 2 else data)
        broken[132 + seed % 900] ^= 0xFF
        (dicom / "one" / "b.dcm").write_bytes(broken)
        (dicom / "one" / "a.dcm").unlink(missing_ok=True)
        tally = Tally()
        assert inside(dicom, tally) == ["one/b.dcm"] or tally.others == {".dcm of other kinds": 1}


# Links, and folders that cannot be read


def test_loops_of_links_end(tmp_path):
    touch(tmp_path, "top/a/1.svs", "top/b/2.svs")
    (tmp_path / "top/a/up").symlink_to("..")
    (tmp_path / "top/b/up").symlink_to("../..")
    (tmp_path / "top/b/to_a").symlink_to("../a")
    (tmp_path / "top/self").symlink_to("self")
    (tmp_path / "top/self.svs").symlink_to("self.svs")
    tally = Tally()
    assert inside(tmp_path / "top", tally) == ["a/1.svs", "b/2.svs", "self.svs"]
    assert tally.links == 3
    assert matching(tmp_path, "**/*.svs") == ["top/a/1.svs", "top/b/2.svs", "top/self.svs"]
    assert matching(tmp_path, "**") == ["top/a/1.svs", "top/b/2.svs", "top/self.svs"]


def test_links_lead_to_slides_elsewhere_and_never_take_a_real_ones_place(tmp_path):
    touch(tmp_path, "store/9.svs", "top/z/1.svs")
    (tmp_path / "top" / "a_link.svs").symlink_to("z/1.svs")
    (tmp_path / "top" / "store").symlink_to("../store")
    tally = Tally()
    assert inside(tmp_path / "top", tally) == ["store/9.svs", "z/1.svs"]
    assert tally.twice == 1
    assert inside(tmp_path / "top", recursive=False) == ["a_link.svs"]


def test_a_broken_link_called_like_a_slide_is_a_row(tmp_path):
    (tmp_path / "gone.svs").symlink_to("nowhere.svs")
    (tmp_path / "gone.txt").symlink_to("nowhere.txt")
    (tmp_path / "gone_folder").symlink_to("nowhere")
    tally = Tally()
    assert inside(tmp_path, tally) == ["gone.svs"]
    assert tally.others == {".txt": 1, "": 1}


def test_a_folder_that_cannot_be_listed_is_told_and_the_rest_found(tmp_path, monkeypatch):
    touch(tmp_path, "open/a.svs", "shut/b.svs", "shut.mrxs")
    real = os.scandir

    def guarded(path: str):
        if str(path).endswith("shut"):
            raise PermissionError(13, "Permission denied")
        return real(path)

    monkeypatch.setattr(os, "scandir", guarded)
    tally = Tally()
    assert inside(tmp_path, tally) == ["open/a.svs", "shut.mrxs"]
    assert tally.problems == [
        f"{tmp_path}/shut: cannot be listed: Permission denied; slides in it are not among the inputs"
    ]


def test_what_is_neither_file_nor_folder_is_passed_by(tmp_path):
    os.mkfifo(tmp_path / "pipe.svs")
    assert inside(touch(tmp_path, "a.svs")) == ["a.svs"]


@pytest.mark.timeout(60)
@pytest.mark.parametrize("name", ["pipe.vms", "pipe.ndpis", "pipe.dcm", "pipe"])
def test_a_pipe_that_is_named_is_not_waited_for(tmp_path, name):
    os.mkfifo(tmp_path / name)
    assert len(find_inputs([str(tmp_path / name)])) == 1


# Results of earlier runs


def test_results_of_this_and_of_other_runs_are_no_slides(tmp_path):
    touch(tmp_path, "a.svs", "b.png", "result.json")
    for out in ("out", "earlier"):
        folder = f"{out}/slides/sub/a"
        touch(tmp_path, f"{folder}/overlay.png", f"{folder}/result.json", f"{folder}/regions.csv", f"{out}/run.json")
    touch(tmp_path, "out/slides/killed/overlay.png", "out/c.svs")
    assert inside(tmp_path, out=tmp_path / "out") == ["a.svs", "b.png", "out/c.svs"]
    assert matching(tmp_path, "**/*.png", out=tmp_path / "out") == ["b.png"]
    assert inside(tmp_path, out=tmp_path) == ["a.svs", "b.png", "out/c.svs", "out/slides/killed/overlay.png"]


# Patterns


def test_patterns_find_what_they_say(tmp_path):
    touch(tmp_path, "p1/a.svs", "p1/b.tif", "p2/deep/c.svs", "p2/deep/er/f.svs", "p10/d.svs", "p1/notes.txt", "q/e.svs")
    assert matching(tmp_path, "p?/*.svs") == ["p1/a.svs"]
    assert matching(tmp_path, "p[12]/*") == ["p1/a.svs", "p1/b.tif", "p2/deep/c.svs", "p2/deep/er/f.svs"]
    assert matching(tmp_path, "p[12]/*", recursive=False) == ["p1/a.svs", "p1/b.tif", "p2/deep/c.svs"]
    assert matching(tmp_path, "**/*.svs") == [
        "p1/a.svs",
        "p2/deep/c.svs",
        "p2/deep/er/f.svs",
        "p10/d.svs",
        "q/e.svs",
    ]
    assert matching(tmp_path, "**/deep/*.svs") == ["p2/deep/c.svs"]
    assert matching(tmp_path, "p*/*.txt") == ["p1/notes.txt"]  # asked for by its suffix


def test_names_from_a_pattern_begin_where_it_begins_to_vary(tmp_path):
    touch(tmp_path, "set/p1/a.svs", "set/p2/a.svs")
    assert [e.name for e in find_inputs([f"{tmp_path}/set/*/a.svs"])] == ["p1/a", "p2/a"]
    assert [e.name for e in find_inputs([f"{tmp_path}/set/p*"])] == ["p1/a", "p2/a"]


def test_patterns_are_relative_to_the_working_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(touch(tmp_path, "a/1.svs", "2.svs"))
    assert [(e.shown_path, e.name) for e in find_inputs(["**/*.svs"])] == [("2.svs", "2"), ("a/1.svs", "a/1")]
    assert [e.shown_path for e in find_inputs(["."])] == ["2.svs", "a/1.svs"]


# Order and size


def test_order_is_natural_and_does_not_depend_on_the_file_system(tmp_path):
    touch(tmp_path, *(f"S{n}.svs" for n in (10, 9, 1, 100, 2)), "s3.svs", "a/2.svs", "a/10.svs", "B.svs")
    expected = ["a/2.svs", "a/10.svs", "B.svs", "S1.svs", "S2.svs", "s3.svs", "S9.svs", "S10.svs", "S100.svs"]
    assert inside(tmp_path) == expected


@given(st.lists(st.text(max_size=8)))
def test_natural_keys_order_any_names_in_one_way(texts):
    backwards = texts[::-1]
    backwards.sort(key=natural_key)
    assert sorted(texts, key=natural_key) == backwards


@given(st.lists(st.text("aAbZ019 ._-()", max_size=9), unique=True))
def test_names_sort_by_their_numbers_and_letters_whatever_the_case(texts):
    def pieces(text: str) -> list[tuple[int, int | str]]:
        found = re.findall("[0-9]+|[^0-9]+", text.casefold())
        return [(0, int(piece)) if piece[0].isdigit() else (1, piece) for piece in found]

    assert sorted(texts, key=natural_key) == sorted(texts, key=lambda text: (pieces(text), text))


def test_ten_thousand_files_are_listed_in_seconds(tmp_path):
    for folder in range(20):
        (tmp_path / f"case {folder}").mkdir()
        for number in range(500):
            os.close(os.open(tmp_path / f"case {folder}" / f"slide {number}.svs", os.O_CREAT))
    started = time.perf_counter()
    found = find_inputs([str(tmp_path)])
    seconds = time.perf_counter() - started
    assert len({entry.name for entry in found}) == 10_000
    assert found[501].name == "case 1/slide 1"
    assert seconds < 10  # about half a second on an idle core


# Real files


def test_the_real_slides_are_found(shared):
    notes: list[str] = []
    found = find_inputs([str(shared / "data" / "slides")], on_note=notes.append)
    assert [entry.name for entry in found] == [
        "boxes",
        "boxes_0",
        "broken/highdicom_sm_image_grayscale",
        "broken/unopenable",
        "broken/unreadable",
        "broken/zero_gi",
        "CMU-1-Small-Region",
        "OS-1-detail.ome",
        "OS-2-ndpi.ome",
        "rgba_geotiff",
        "small",
        "test3-DAPI-2-387",
        "test_orient1",
        "test_orient6",
        "yb10kx5k.zstd",
    ]
    assert notes == [f"{shared}/data/slides: 1 file counted as part of another slide"]
