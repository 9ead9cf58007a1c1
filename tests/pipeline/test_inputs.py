"""Inputs: plain lists of slides and manifests."""

from pathlib import Path

import pytest

from tnet_cli.errors import ManifestError, SlideError
from tnet_cli.pipeline.inputs import find_inputs, read_manifest


def test_slides_keep_their_order_and_their_paths_as_given():
    found = find_inputs(["b/two.svs", "a/one.tif"])
    assert [(entry.path, entry.name) for entry in found] == [("b/two.svs", "two"), ("a/one.tif", "one")]


def test_slides_of_the_same_stem_get_different_names():
    found = find_inputs(["a/one.svs", "a/one.tif", "b/one.tif", "a/other.tif"])
    assert [entry.name for entry in found] == ["one.svs", "one.tif", "one.tif-2", "other"]


def test_a_directory_is_refused_with_one_sentence(tmp_path: Path):
    with pytest.raises(SlideError, match="is a directory; give the slides in it"):
        find_inputs([str(tmp_path)])


def test_manifest_paths_are_relative_to_the_manifest(tmp_path: Path):
    manifest = tmp_path / "labels.csv"
    manifest.write_text("slide,label,mpp,annotation\nx/a.tif,lesion,0.25,x/a.geojson\nb.tif,,,\n")
    first, second = find_inputs([str(manifest)])
    assert first.path == str(tmp_path / "x" / "a.tif")
    assert (first.label, first.mpp, first.annotation) == ("lesion", 0.25, tmp_path / "x" / "a.geojson")
    assert (second.label, second.mpp, second.annotation) == (None, None, None)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("file,label\na.tif,x\n", "no column 'slide'; found file, label"),
        ("slide,colour\na.tif,x\n", "unknown column 'colour'"),
        ("slide,mpp\na.tif,fine\n", "line 2: mpp 'fine' is not a number"),
        ("slide,label\n,x\n", "line 2: the column 'slide' is empty"),
        ("slide\n", "lists no slides"),
        ("", "no column 'slide'; found nothing"),
    ],
)
def test_a_wrong_manifest_says_what_is_wrong(tmp_path: Path, text: str, complaint: str):
    manifest = tmp_path / "m.csv"
    manifest.write_text(text)
    with pytest.raises(ManifestError, match=complaint):
        read_manifest(manifest)


def test_a_missing_manifest_is_named(tmp_path: Path):
    with pytest.raises(ManifestError, match=r"none\.csv: cannot be read as a CSV manifest: No such file"):
        read_manifest(tmp_path / "none.csv")
