"""Features on disk: whole or not at all, of the right encoder and slide, and removed without anything of the user's."""

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from tnet_cli.errors import UsageError
from tnet_cli.geometry import Region
from tnet_cli.learning.feature_store import RECORD, EncoderFolder, FeatureStore, list_features, remove_features
from tnet_cli.learning.kept import key_of

HERE, THERE = Region(0, 0, 64, 64), Region(64, -8, 64, 64)
SLIDE = key_of("a slide")


def folder_in(store: Path, digest: str = "ab" * 32, **transform: object) -> EncoderFolder:
    return EncoderFolder.within(store, {"digest": digest, "backbone": "resnet10t"}, transform)


def row(*values: float) -> np.ndarray:
    return np.array(values, dtype=np.float32)


def assert_holds(folder: EncoderFolder, expected: Mapping[Region, np.ndarray]) -> None:
    held = folder.get(SLIDE)
    assert held.keys() == expected.keys()
    assert all(np.array_equal(held[region], values) for region, values in expected.items())


def test_what_is_added_is_there_beside_what_was(tmp_path):
    folder = folder_in(tmp_path)
    assert folder.get(SLIDE) == {}
    folder.add(SLIDE, {HERE: row(1, 2)})
    folder_in(tmp_path).add(SLIDE, {THERE: row(3, 4)})  # as another process does
    assert_holds(folder, {HERE: row(1, 2), THERE: row(3, 4)})
    assert folder.get(key_of("another slide")) == {}


@pytest.mark.parametrize("other", [{"digest": "cd" * 32}, {"read_px": 32}])
def test_another_encoder_or_transform_sees_nothing_of_it(tmp_path, other):
    folder_in(tmp_path, read_px=64).add(SLIDE, {HERE: row(1)})
    assert folder_in(tmp_path, **({"read_px": 64} | other)).get(SLIDE) == {}


def test_a_file_that_was_cut_or_moved_from_elsewhere_is_not_read_and_is_replaced(tmp_path):
    folder, other = folder_in(tmp_path), folder_in(tmp_path, "cd" * 32)
    for each in (folder, other):
        each.add(SLIDE, {HERE: row(1, 2)})
    file = folder.path / f"{SLIDE}.safetensors"
    whole = file.read_bytes()
    for damaged in (whole[:-3], whole[:20], b"", (other.path / file.name).read_bytes()):
        file.write_bytes(damaged)
        assert folder.get(SLIDE) == {}
        assert folder.document()["regions"] == 0
    folder.add(SLIDE, {THERE: row(5, 6)})
    assert_holds(folder, {THERE: row(5, 6)})


def test_what_a_killed_process_was_writing_is_not_read_and_goes_with_the_folder(tmp_path):
    folder = folder_in(tmp_path)
    folder.add(SLIDE, {HERE: row(1)})
    (folder.path / f".{SLIDE}.safetensors.77.0a1b2c3d.safetensors").write_bytes(b"half")
    (folder.path / f".{RECORD}.77.0a1b2c3d.json").write_bytes(b"{")
    assert folder.document()["slides"] == 1
    assert remove_features(tmp_path, None)[1] == []
    assert list(tmp_path.iterdir()) == []


def test_the_list_says_whose_features_they_are_and_how_many(tmp_path):
    folder = folder_in(tmp_path, read_px=64)
    folder.add(SLIDE, {HERE: row(1), THERE: row(2)})
    folder.add(key_of("another"), {HERE: row(3)})
    (listed,) = list_features(tmp_path)
    assert listed["encoder"] == {"digest": "ab" * 32, "backbone": "resnet10t"}
    assert (listed["slides"], listed["regions"], listed["transform"]) == (2, 3, {"read_px": 64})
    assert listed["bytes"] == sum(file.stat().st_size for file in folder.path.glob("*.safetensors"))


def test_one_encoder_is_removed_by_the_beginning_of_its_name_in_all_its_transforms(tmp_path):
    for digest, side in (("ab" * 32, 32), ("ab" * 32, 64), ("abab" + "c" * 60, 32)):
        folder_in(tmp_path, digest, read_px=side).add(SLIDE, {HERE: row(1)})
    with pytest.raises(UsageError, match="several encoders"):
        remove_features(tmp_path, "abab")
    with pytest.raises(UsageError, match="too short"):
        remove_features(tmp_path, "ab")
    with pytest.raises(UsageError, match="holds no features of it; it holds abab"):
        remove_features(tmp_path, "ffff")
    removed, left = remove_features(tmp_path, "ababab")
    assert ({each["encoder"]["digest"] for each in removed}, len(removed), left) == ({"ab" * 32}, 2, [])
    assert [each["encoder"]["digest"] for each in list_features(tmp_path)] == ["abab" + "c" * 60]


def test_nothing_but_what_the_store_made_is_removed(tmp_path):
    store, elsewhere = tmp_path / "store", folder_in(tmp_path / "elsewhere")
    folder = folder_in(store)
    for each in (folder, elsewhere):
        each.add(SLIDE, {HERE: row(1)})
    (folder.path / "notes.txt").write_text("mine")
    (store / "mine").mkdir()
    # Of such a name, with no record, with one that is of another folder, and a link to features elsewhere.
    bare, renamed = store / f"{'1' * 16}-{'2' * 8}", store / f"{'3' * 16}-{'4' * 8}"
    for path in (bare, renamed):
        path.mkdir()
        (path / f"{SLIDE}.safetensors").write_bytes(b"mine")
    (renamed / RECORD).write_bytes((folder.path / RECORD).read_bytes())
    linked = store / f"{'5' * 16}-{'6' * 8}"
    linked.symlink_to(elsewhere.path)
    removed, left = remove_features(store, None)
    assert ([each["name"] for each in removed], left) == ([folder.name], [folder.name])
    assert sorted(path.name for path in folder.path.iterdir()) == ["notes.txt"]
    assert (store / "mine").is_dir()
    assert all((path / f"{SLIDE}.safetensors").read_bytes() == b"mine" for path in (bare, renamed))
    assert linked.is_symlink()
    assert_holds(elsewhere, {HERE: row(1)})
    assert list_features(store) == []


def test_a_folder_that_is_a_link_is_not_written_through(tmp_path):
    folder = folder_in(tmp_path / "store")
    (tmp_path / "mine").mkdir()
    (tmp_path / "store").mkdir()
    folder.path.symlink_to(tmp_path / "mine")
    with pytest.raises(OSError, match="is a link"):
        folder.add(SLIDE, {HERE: row(1)})
    assert list((tmp_path / "mine").iterdir()) == []


def test_features_added_after_the_folder_was_removed_make_it_anew(tmp_path):
    folder = folder_in(tmp_path)
    folder.add(SLIDE, {HERE: row(1)})
    remove_features(tmp_path, None)
    folder.add(SLIDE, {THERE: row(2)})
    assert_holds(folder, {THERE: row(2)})
    assert json.loads((folder.path / RECORD).read_text())["encoder"]["digest"] == "ab" * 32


def test_a_store_that_cannot_be_one_is_refused_in_a_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(UsageError, match="is no folder"):
            FeatureStore(path).check_usable()
    FeatureStore(tmp_path / "new" / "store").check_usable()
    assert not (tmp_path / "new").exists()
    with pytest.raises(UsageError, match="is no folder of features"):
        list_features(tmp_path / "absent")
