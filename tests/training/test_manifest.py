"""The training manifest: classes, patients, and what is refused."""

from pathlib import Path

import pytest

from tnet_cli.errors import ManifestError
from tnet_cli.training.manifest import TrainingManifest


def write(folder: Path, text: str) -> Path:
    path = folder / "labels.csv"
    path.write_text(text)
    return path


def test_classes_are_the_sorted_labels_and_the_normal_one_comes_first(tmp_path):
    path = write(tmp_path, "slide,label\na.tif,tumour\nb.tif,necrosis\nc.tif,stroma\nd.tif,tumour\n")
    assert TrainingManifest.read(path).class_names == ("necrosis", "stroma", "tumour")
    assert TrainingManifest.read(path, normal_class="stroma").class_names == ("stroma", "necrosis", "tumour")
    given = TrainingManifest.read(path, classes=("tumour", "stroma", "necrosis"), normal_class="stroma")
    assert given.class_names == ("tumour", "stroma", "necrosis")
    assert given.count() == {"tumour": 2, "stroma": 1, "necrosis": 1}


def test_slides_of_a_patient_are_one_group_and_share_its_split(tmp_path):
    path = write(tmp_path, "slide,label,patient,split\na.tif,x,p1,VAL\nb.tif,y,p1,\nx/c.tif,y,,\nd.tif,x,p2,test\n")
    manifest = TrainingManifest.read(path)
    assert [slide.group for slide in manifest.slides] == ["patient p1", "patient p1", "slide x/c.tif", "patient p2"]
    assert [slide.split for slide in manifest.slides] == ["validation", "validation", None, "test"]
    assert manifest.slides[2].entry.shown_path == str(tmp_path / "x" / "c.tif")


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("slide\na.tif\nb.tif\n", "no slide has a label; expected a column 'label'"),
        ("slide,label\na.tif,x\nb.tif,\nc.tif,y\n", r"1 of 3 slides have no label, such as .*b\.tif"),
        ("slide,label\na.tif,x\nb.tif,x\n", "all 2 slides have the label 'x'; a model needs two classes"),
        (
            "slide,label,patient,split\na.tif,x,p1,train\nb.tif,y,p1,val\n",
            "patient p1 is in two splits, train .*and valid",
        ),
        ("slide,label,split\na.tif,x,holdout\nb.tif,y,\n", "has the split 'holdout'; expected train, validation"),
        ("slide,label\na.tif,x\nb.tif,y\n./a.tif,y\n", r"a\.tif is listed before with other values"),
    ],
)
def test_a_wrong_manifest_says_what_is_wrong(tmp_path, text, complaint):
    path = write(tmp_path, text)
    with pytest.raises(ManifestError, match=complaint) as refused:
        TrainingManifest.read(path)
    assert str(path) in str(refused.value)
    assert refused.value.exit_code == 5


def test_a_link_to_a_listed_slide_is_the_same_slide(tmp_path):
    (tmp_path / "a.tif").write_bytes(b"slide")
    (tmp_path / "again.tif").symlink_to("a.tif")
    path = write(tmp_path, "slide,label\na.tif,x\nb.tif,y\nagain.tif,x\n")
    assert len(TrainingManifest.read(path).slides) == 2
    path = write(tmp_path, "slide,label\na.tif,x\nb.tif,y\nagain.tif,y\n")
    with pytest.raises(ManifestError, match=r"again\.tif is listed as .*a\.tif too, with the label 'x' and 'y'"):
        TrainingManifest.read(path)


def test_classes_that_were_asked_for_must_be_those_of_the_labels(tmp_path):
    path = write(tmp_path, "slide,label\na.tif,x\nb.tif,y\nc.tif,z\n")
    with pytest.raises(ManifestError, match=r"the label 'z' \(1 slides\) is not among the classes x, y"):
        TrainingManifest.read(path, classes=("x", "y"))
    with pytest.raises(ManifestError, match="no slide has the label 'w'; found x, y, z"):
        TrainingManifest.read(path, classes=("x", "y", "z", "w"))
    with pytest.raises(ManifestError, match="the normal class 'w' is not among the classes x, y, z"):
        TrainingManifest.read(path, normal_class="w")


def test_the_digest_is_that_of_what_the_rows_say(tmp_path):
    rows = ["a.tif,x,p1", "b.tif,y,p2"]
    folders = [tmp_path / name for name in ("one", "two", "three")]
    for folder in folders:
        folder.mkdir()
    header = "slide,label,patient\n"
    first = TrainingManifest.read(write(folders[0], header + "\n".join(rows)))
    moved_and_turned = TrainingManifest.read(write(folders[1], header + "\n".join(rows[::-1])))
    changed = TrainingManifest.read(write(folders[2], header + "\n".join(rows).replace("p2", "p3")))
    assert first.digest == moved_and_turned.digest != changed.digest
