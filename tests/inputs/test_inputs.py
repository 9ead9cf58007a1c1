"""Inputs: slides by name, folders, patterns, URLs and manifests, in any mix; each once, under a name of its own."""

from pathlib import Path

import pytest

from tnet_cli.errors import ManifestError, UsageError
from tnet_cli.inputs.inputs import find_inputs, read_labelled, read_manifest


def touch(folder: Path, *names: str) -> Path:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return folder


def names(*given: object, **options) -> list[str]:
    return [entry.name for entry in find_inputs([str(text) for text in given], **options)]


def test_slides_keep_their_order_and_their_paths_as_given():
    found = find_inputs(["b/two.svs", "a/one.tif"])
    assert [(entry.shown_path, entry.name) for entry in found] == [("b/two.svs", "two"), ("a/one.tif", "one")]


def test_slides_of_the_same_stem_get_different_names():
    assert names("a/one.svs", "a/one.tif", "b/one.tif", "a/other.tif") == ["a/one.svs", "a/one.tif", "b/one", "other"]


def test_a_folder_is_searched_with_those_below_it(tmp_path):
    touch(tmp_path, "x/one.svs", "x/y/one.tif", "two.png")
    found = find_inputs([str(tmp_path)])
    assert [entry.shown_path for entry in found] == [str(tmp_path / p) for p in ("two.png", "x/one.svs", "x/y/one.tif")]
    assert [entry.name for entry in found] == ["two", "x/one", "x/y/one"]
    assert names(tmp_path, recursive=False) == ["two"]


def test_everything_in_any_mix_in_input_order(tmp_path):
    touch(tmp_path, "dir/b.svs", "dir/a.svs", "glob/z1.tif", "glob/z.txt", "single.svs", "listed.svs")
    (tmp_path / "m.csv").write_text("slide,label\nlisted.svs,yes\ns3://bucket/far.svs,no\n")
    given = ["single.svs", "https://host/near.svs?token=1", "glob/z*", "m.csv", "dir"]
    found = find_inputs([text if "://" in text else str(tmp_path / text) for text in given])
    assert [entry.name for entry in found] == ["single", "near", "z1", "listed", "far", "a", "b"]
    assert [entry.label for entry in found] == [None, None, None, "yes", "no", None, None]
    assert found[1].path.opened_whole() == "https://host/near.svs?token=1"
    assert found[4].shown_path == "s3://bucket/far.svs"


def test_two_folders_with_the_same_inside_do_not_collide(tmp_path):
    touch(tmp_path, "A/x/one.svs", "B/x/one.svs", "B/x/two.svs")
    assert names(tmp_path / "A", tmp_path / "B") == ["A/x/one", "B/x/one", "x/two"]


def test_urls_of_the_same_stem_do_not_collide():
    assert names("s3://b/2024/one.svs", "s3://b/2025/one.svs", "https://c/a%20b.svs") == ["2024/one", "2025/one", "a b"]


def test_a_file_given_twice_counts_once_and_is_told(tmp_path):
    touch(tmp_path, "one.svs")
    (tmp_path / "link.svs").symlink_to("one.svs")
    notes: list[str] = []
    given = [tmp_path / "one.svs", tmp_path / "link.svs", tmp_path, f"{tmp_path}/../{tmp_path.name}/one.svs"]
    assert names(*given, on_note=notes.append) == ["one"]
    assert notes[0] == f"{tmp_path}: 1 slide found again through links and counted once"
    assert notes[1] == f"{tmp_path}/link.svs: the same slide as {tmp_path}/one.svs; it counts once"
    assert f"{tmp_path}/one.svs: given twice; it counts once" in notes


def test_many_slides_given_twice_are_counted_not_listed(tmp_path):
    touch(tmp_path, *(f"{n}.svs" for n in range(20)))
    notes: list[str] = []
    assert len(names(tmp_path, tmp_path, on_note=notes.append)) == 20
    assert len(notes) == 6
    assert notes[-1] == "and 15 other inputs given again or belonging to another slide"


def test_what_a_manifest_knows_of_a_slide_given_before_is_kept(tmp_path):
    touch(tmp_path, "one.svs")
    (tmp_path / "m.csv").write_text("slide,mpp,patient\none.svs,0.25,p7\n")
    (found,) = find_inputs([str(tmp_path), str(tmp_path / "m.csv")])
    assert (found.shown_path, found.mpp, found.patient) == (str(tmp_path / "one.svs"), 0.25, "p7")


def test_a_named_file_is_always_a_row_whatever_it_is(tmp_path):
    touch(tmp_path, "notes.txt")
    assert names(tmp_path / "notes.txt", tmp_path / "gone.svs") == ["notes", "gone"]


def test_a_folder_without_slides_says_what_is_in_it(tmp_path):
    with pytest.raises(UsageError, match=r"no slides in it or the folders below it; found no files at all, expected"):
        find_inputs([str(tmp_path)])
    touch(tmp_path, "a.txt", "b.txt", "c.xml", "below/d.svs")
    with pytest.raises(
        UsageError, match=r"directly in it.*found 3 other files \(2 \.txt, 1 \.xml\), expected"
    ) as raised:
        find_inputs([str(tmp_path)], recursive=False)
    assert raised.value.exit_code == 2


def test_an_empty_folder_beside_other_inputs_is_only_told(tmp_path):
    touch(tmp_path, "full/a.svs")
    (tmp_path / "empty").mkdir()
    notes: list[str] = []
    assert names(tmp_path / "empty", tmp_path / "full", on_note=notes.append) == ["a"]
    assert notes[0].startswith(f"{tmp_path}/empty: no slides in it")


def test_a_pattern_without_a_match_is_refused(tmp_path):
    touch(tmp_path, "a.txt", "b.svs")
    with pytest.raises(UsageError, match=r"\*\.tif: matches no slide, nothing; check the pattern"):
        find_inputs([str(tmp_path / "*.tif"), str(tmp_path / "b.svs")])
    with pytest.raises(UsageError, match=r"matches no slide, only 1 file \(1 \.txt\)"):
        find_inputs([str(tmp_path / "a*")])
    with pytest.raises(UsageError, match="cannot be followed as a pattern"):
        find_inputs([str(tmp_path / "a**" / "*.svs")])


def test_a_file_whose_name_looks_like_a_pattern_is_that_file(tmp_path):
    touch(tmp_path, "case[1].svs", "case1.svs")
    assert [Path(e.path).name for e in find_inputs([str(tmp_path / "case[1].svs")])] == ["case[1].svs"]


def test_names_that_cannot_be_written_down_are_left_out_with_a_note(tmp_path):
    touch(tmp_path, "good.svs", "odd\udcff.svs")
    notes: list[str] = []
    assert names(tmp_path, tmp_path / "odd\udcff.svs", on_note=notes.append) == ["good"]
    assert len(notes) == 2
    assert all("odd�.svs: left out, since its name is not UTF-8" in note for note in notes)


def test_no_inputs_at_all():
    with pytest.raises(UsageError, match="no inputs are given"):
        find_inputs([])


def test_an_empty_input_is_not_the_working_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(touch(tmp_path, "a.svs"))
    with pytest.raises(UsageError, match="one of the inputs is empty"):
        find_inputs([""])


# Manifests


def test_manifest_paths_are_relative_to_the_manifest(tmp_path):
    manifest = tmp_path / "labels.csv"
    manifest.write_text("slide,label,mpp,annotation\nx/a.tif,lesion,0.25,x/a.geojson\nb.tif,,,\n")
    first, second = find_inputs([str(manifest)])
    assert first.shown_path == str(tmp_path / "x" / "a.tif")
    assert (first.label, first.mpp, first.annotation) == ("lesion", 0.25, tmp_path / "x" / "a.geojson")
    assert (second.label, second.mpp, second.annotation) == (None, None, None)
    assert [first.name, second.name] == ["x/a", "b"]


def test_absolute_paths_urls_and_paths_outside_stay_as_they_are(tmp_path):
    manifest = tmp_path / "lists" / "m.csv"
    manifest.parent.mkdir()
    manifest.write_text("slide\n/far/away/a.tif\nhttps://host/p/b.svs?x=1\n../c.tif\n")
    assert [(e.shown_path, e.name) for e in find_inputs([str(manifest)])] == [
        ("/far/away/a.tif", "a"),
        ("https://host/p/b.svs?...2eeba22ebf70", "b-2eeba22ebf70"),
        (str(tmp_path / "lists" / ".." / "c.tif"), "c"),
    ]


def test_patient_and_split_are_read(tmp_path):
    manifest = tmp_path / "m.csv"
    manifest.write_text("slide,patient,split\na.tif, p1 ,train\nb.tif,,\n")
    first, second = read_manifest(manifest)
    assert (first.patient, first.split) == ("p1", "train")
    assert (second.patient, second.split) == (None, None)


@pytest.mark.parametrize(
    "content",
    [
        b'\xef\xbb\xbfslide,label,mpp\r\n"a, b.tif",yes,0.5\r\n',
        b'slide;label;mpp\n"a, b.tif";yes;0,5\n;;\n\n',
        b"slide\tlabel\tmpp\na, b.tif\tyes\t0.5\n",
        b' slide , label , mpp,\n"a, b.tif", yes ,"0,5",\n   ,,,\n',
        b"sep=;\r\nSlide;Label;MPP\r\na, b.tif;yes;0,5\r\n",
        "slide\tlabel\tmpp\na, b.tif\tyes\t0.5\n".encode("utf-16"),
    ],
    ids=["excel", "semicolons", "tabs", "spaces and empty columns", "separator line and capitals", "utf-16"],
)
def test_manifests_of_all_spreadsheets_are_read(tmp_path, content):
    manifest = tmp_path / "m.csv"
    manifest.write_bytes(content)
    (row,) = read_manifest(manifest)
    assert (row.shown_path, row.label, row.mpp) == (str(tmp_path / "a, b.tif"), "yes", 0.5)


def test_a_slide_listed_twice_alike_counts_once(tmp_path):
    manifest = tmp_path / "m.csv"
    manifest.write_text("slide,label\na.tif,x\nb.tif,x\na.tif,x\n")
    notes: list[str] = []
    assert [row.name for row in read_manifest(manifest, on_note=notes.append)] == ["a", "b"]
    assert notes == [f"{manifest}, line 4: {tmp_path}/a.tif is listed twice; it counts once"]


def test_a_folder_in_a_manifest_is_the_one_slide_in_it(tmp_path):
    touch(tmp_path, "case/only.svs", "both/a.svs", "both/b.svs")
    manifest = tmp_path / "m.csv"
    manifest.write_text("slide\ncase\n")
    assert read_manifest(manifest)[0].shown_path == str(tmp_path / "case" / "only.svs")
    manifest.write_text("slide\nboth\n")
    with pytest.raises(ManifestError, match=r"line 2: .*both is a folder with 2 slides; expected one slide"):
        read_manifest(manifest)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("file,label\na.tif,x\n", "no column 'slide'; found file, label"),
        ("slide,colour\na.tif,x\n", "unknown column 'colour'"),
        ("slide,label,label\na.tif,x,y\n", "the column 'label' is there twice"),
        ("slide,mpp\na.tif,fine\n", "line 2: mpp 'fine' is not a number"),
        ("slide,mpp\na.tif,-1\n", "line 2: mpp '-1' is not a positive number"),
        ("slide,mpp\na.tif,nan\n", "line 2: mpp 'nan' is not a positive number"),
        ("slide,label\n,x\n", "line 2: the column 'slide' is empty"),
        ("slide,label\na, b.tif,x\n", "line 2: 3 values for 2 columns; put values that hold a separator in quotes"),
        ("slide,label\na.tif,x\n\na.tif,y\n", r"line 4: .*a\.tif is listed before with other values"),
        ("slide\n", "lists no slides"),
        ("slide\n\n,\n", "2 values|lists no slides"),
        ("", "no column 'slide'; found nothing"),
        ("slide\x00\n", "is not UTF-8 text; save the table as CSV UTF-8"),
    ],
)
def test_a_wrong_manifest_says_what_is_wrong(tmp_path, text, complaint):
    manifest = tmp_path / "m.csv"
    manifest.write_text(text)
    with pytest.raises(ManifestError, match=complaint):
        read_manifest(manifest)


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("slide,label\na.tif,h\u00e9matome\n".encode("latin-1"), "it is not UTF-8 text; save the table as CSV UTF-8"),
        (b"II*\0" + bytes(9000), "it is not UTF-8 text"),
        (b"PK\x03\x04 and more", "is a workbook and no CSV; save its table as CSV UTF-8"),
        (b"\xff\xfes\0l\0i", "it is not UTF-8 text"),
        (b'slide,label\na.tif,"x\n', "cannot be read as a CSV manifest: unexpected end of data"),
    ],
    ids=["latin-1", "a slide", "a workbook", "half a character", "a quote that never ends"],
)
def test_what_is_no_such_table_is_refused_in_a_sentence(tmp_path, content, complaint):
    manifest = tmp_path / "m.csv"
    manifest.write_bytes(content)
    with pytest.raises(ManifestError, match=rf"m\.csv: .*{complaint}"):
        read_manifest(manifest)


def test_a_line_is_counted_in_the_file_whatever_comes_first(tmp_path):
    manifest = tmp_path / "m.csv"
    manifest.write_text('sep=;\nslide;mpp\n"a\nb.tif";fine\n')
    with pytest.raises(ManifestError, match="line 4: mpp 'fine' is not a number"):
        read_manifest(manifest)


def test_splits_are_spelled_freely(tmp_path):
    manifest = tmp_path / "m.csv"
    words = ["Train", " TRAINING ", "Val", "validation", "tune", "TEST", "holdout", ""]
    manifest.write_text("slide,split\n" + "".join(f"{n}.tif,{word}\n" for n, word in enumerate(words)))
    expected = ["train", "train", "validation", "validation", "validation", "test", "holdout", None]
    assert [row.split for row in read_manifest(manifest)] == expected


def test_a_slide_that_is_labelled_differently_by_two_ways_to_it_is_refused(tmp_path):
    (tmp_path / "a.tif").write_bytes(b"slide")
    (tmp_path / "again.tif").symlink_to("a.tif")
    manifest = tmp_path / "m.csv"
    manifest.write_text("slide,label\na.tif,x\nagain.tif,x\n")
    notes: list[str] = []
    assert len(read_labelled(manifest, on_note=notes.append)) == 1
    assert notes == [f"{tmp_path}/again.tif: the same slide as {tmp_path}/a.tif; it counts once"]
    manifest.write_text("slide,label\na.tif,x\nagain.tif,y\n")
    with pytest.raises(ManifestError, match=r"again\.tif is listed as .*a\.tif too, with the label 'x' and 'y'"):
        read_labelled(manifest)


@pytest.mark.parametrize("label", ["=1+1", "-", "@x", '"a\nb"', "a\x1b[31m"])
def test_a_label_that_is_no_name_for_a_class_is_refused(tmp_path, label):
    manifest = tmp_path / "m.csv"
    manifest.write_text(f"slide,label\na.tif,{label}\n")
    with pytest.raises(ManifestError, match=r"the label .* of 1 slide (begins with|holds a control character)"):
        read_labelled(manifest)


def test_a_label_that_may_mean_that_nothing_is_known_is_kept_and_remarked_on(tmp_path):
    manifest = tmp_path / "m.csv"
    manifest.write_text("slide,label\na.tif,NA\nb.tif,x\nc.tif,NA\n")
    notes: list[str] = []
    assert [row.label for row in read_labelled(manifest, on_note=notes.append)] == ["NA", "x", "NA"]
    assert len(notes) == 1
    assert "the label 'NA' of 2 slides is taken for the name of a class" in notes[0]


def test_a_missing_manifest_is_named(tmp_path):
    with pytest.raises(ManifestError, match=r"none\.csv: cannot be read as a CSV manifest: No such file"):
        read_manifest(tmp_path / "none.csv")


def test_a_remote_manifest_is_refused(tmp_path):
    with pytest.raises(ManifestError, match="manifests are read from this machine"):
        find_inputs(["https://host/labels.csv?x=1"])


def test_an_address_that_is_signed_twice_counts_once_and_that_is_said():
    notes: list[str] = []
    urls = [f"https://user:pw@host/a.svs?id=1&token={number}" for number in (1, 2)]
    (entry,) = find_inputs(urls, on_note=notes.append)
    assert notes == [f"{entry.path}: given twice, with another signature, token or password; it counts once"]
    assert "pw" not in notes[0]
