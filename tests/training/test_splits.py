"""Splits: no patient on two sides, classes in proportion, the same whatever the order of the rows."""

import csv
import io
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from tnet_cli.errors import ManifestError
from tnet_cli.inputs.inputs import SlideInput
from tnet_cli.places import Place
from tnet_cli.training.manifest import LabelledSlide, Split, TrainingManifest
from tnet_cli.training.splits import DataSplit, fold_slides, fold_table, split_slides, split_table


def manifest_of(rows: list[tuple[str, str]], splits: dict[str, Split] | None = None) -> TrainingManifest:
    """A manifest of (label, patient) rows; an empty patient makes the slide its own group."""
    slides = []
    for number, (label, patient) in enumerate(rows):
        name = f"{number}.tif"
        group = f"patient {patient}" if patient else f"slide {name}"
        entry = SlideInput(path=Place(f"/slides/{name}"), name=str(number), label=label, patient=patient or None)
        slides.append(LabelledSlide(entry, label, name, None, group, (splits or {}).get(patient)))
    classes = tuple(sorted({label for label, _ in rows}))
    return TrainingManifest(Path("/slides/labels.csv"), tuple(slides), classes, "digest")


def groups_of(slides: tuple[LabelledSlide, ...]) -> set[str]:
    return {slide.group for slide in slides}


def check(manifest: TrainingManifest, split: DataSplit) -> None:
    """Every slide is in one part, no group in two, and every class is learnt."""
    parts = (split.train, split.validation, split.test)
    assert sorted(slide.key for part in parts for slide in part) == sorted(slide.key for slide in manifest.slides)
    train, validation, test = (groups_of(part) for part in parts)
    assert not train & validation
    assert not train & test
    assert not validation & test
    assert all(manifest.count(split.train).values())


rows_with_patients = st.lists(
    st.tuples(st.sampled_from(["a", "b", "c"]), st.sampled_from(["", *(f"p{number}" for number in range(12))])),
    min_size=2,
    max_size=60,
)


@settings(deadline=None, max_examples=100)
@given(rows=rows_with_patients, share=st.floats(0, 0.6), seed=st.integers(0, 5), data=st.data())
def test_a_split_never_leaks_and_keeps_every_class_to_train_on(rows, share, seed, data):
    assume(len({label for label, _ in rows}) >= 2)
    manifest = manifest_of(rows)
    order = data.draw(st.permutations(manifest.slides))
    split = split_slides(manifest, validation_share=share, seed=seed)
    check(manifest, split)
    if share == 0:
        assert split.validation == ()
    again = split_slides(replace(manifest, slides=tuple(order)), validation_share=share, seed=seed)
    assert groups_of(again.validation) == groups_of(split.validation)


@settings(deadline=None, max_examples=30)
@given(rows=rows_with_patients, folds=st.integers(2, 5), seed=st.integers(0, 5))
def test_folds_never_leak_and_validate_every_slide_once(rows, folds, seed):
    manifest = manifest_of([*rows, *([("a", ""), ("b", ""), ("c", "")] * 5)])
    divided = fold_slides(manifest, folds=folds, seed=seed)
    assert len(divided) == folds
    for split in divided:
        check(manifest, split)
    validated = Counter(slide.key for split in divided for slide in split.validation)
    assert set(validated.values()) == {1}
    assert len(validated) == len(manifest.slides)
    turned = fold_slides(replace(manifest, slides=manifest.slides[::-1]), folds=folds, seed=seed)
    assert [groups_of(split.validation) for split in turned] == [groups_of(split.validation) for split in divided]


def test_classes_keep_their_proportion():
    rows = [("rare", f"r{number}") for number in range(20)] + [("often", f"o{number}") for number in range(80)]
    manifest = manifest_of(rows)
    split = split_slides(manifest, validation_share=0.25, seed=1)
    assert manifest.count(split.validation) == {"often": 20, "rare": 5}
    other = split_slides(manifest, validation_share=0.25, seed=2)
    assert groups_of(other.validation) != groups_of(split.validation)
    for fold in fold_slides(manifest, folds=5, seed=0):
        assert manifest.count(fold.validation) == {"often": 16, "rare": 4}


def test_patients_with_many_slides_do_not_swell_the_share():
    rows = [("a", "big")] * 30 + [("a", f"a{n}") for n in range(10)] + [("b", f"b{n}") for n in range(40)]
    manifest = manifest_of(rows)
    for seed in range(20):
        split = split_slides(manifest, validation_share=0.2, seed=seed)
        assert manifest.count(split.validation) == {"a": 8, "b": 8}


def test_small_classes_validate_with_one_patient_and_a_lone_patient_trains():
    manifest = manifest_of([("a", "p1"), ("a", "p2"), ("b", "p3"), ("b", "p4"), ("c", "p5")])
    split = split_slides(manifest, validation_share=0.1, seed=0)
    assert manifest.count(split.validation) == {"a": 1, "b": 1, "c": 0}
    assert split.notes == ("no slide of class 'c' is among the validation slides",)


def test_the_manifests_own_split_is_kept():
    rows = [("a", "p1"), ("b", "p2"), ("a", "p3"), ("b", "p4"), ("a", "p5"), ("b", "p6")]
    named: dict[str, Split] = {"p1": "validation", "p3": "test", "p2": "train"}
    split = split_slides(manifest_of(rows, named), validation_share=0.5, seed=0)
    assert groups_of(split.validation) == {"patient p1"}
    assert groups_of(split.test) == {"patient p3"}
    assert groups_of(split.train) == {"patient p2", "patient p4", "patient p5", "patient p6"}


def test_only_undecided_patients_are_drawn():
    rows = [("a", "p1"), ("b", "p2"), ("a", "p3"), ("b", "p4"), ("a", "p5"), ("b", "p6")]
    named: dict[str, Split] = {"p1": "train", "p2": "train", "p5": "test"}
    for seed in range(8):
        split = split_slides(manifest_of(rows, named), validation_share=0.3, seed=seed)
        assert groups_of(split.test) == {"patient p5"}
        assert groups_of(split.validation) <= {"patient p3", "patient p4", "patient p6"}
        assert "patient p3" in groups_of(split.validation)
    everyone: dict[str, Split] = {f"p{number}": "train" for number in range(1, 7)}
    alone = split_slides(manifest_of(rows, everyone), validation_share=0.3, seed=0)
    assert alone.validation == ()
    assert "nothing will tell how good the model is" in alone.notes[0]


def test_a_class_that_is_never_learnt_is_refused():
    named: dict[str, Split] = {"p2": "test", "p4": "validation"}
    manifest = manifest_of([("a", "p1"), ("b", "p2"), ("a", "p3"), ("b", "p4")], named)
    with pytest.raises(ManifestError, match="no slide of class 'b' is left to train on"):
        split_slides(manifest, validation_share=0.2, seed=0)


def test_folds_that_cannot_be_made_are_refused():
    rows = [("a", "p1"), ("a", "p1"), ("a", "p2"), ("b", "p3"), ("b", "p4"), ("b", "p5")]
    with pytest.raises(ManifestError, match="the class 'a' has 2 patients, fewer than the 3 folds; give at most 2"):
        fold_slides(manifest_of(rows), folds=3, seed=0)
    with pytest.raises(ManifestError, match="'split' says already who trains"):
        fold_slides(manifest_of(rows, {"p1": "train"}), folds=2, seed=0)
    with_test = fold_slides(manifest_of([*rows, ("b", "p6")], {"p6": "test"}), folds=2, seed=0)
    assert [groups_of(split.test) for split in with_test] == [{"patient p6"}] * 2


def test_tables_name_every_slide_with_its_part():
    manifest = manifest_of([("a", "p1"), ("a", "p2"), ("b", "p3"), ("b", ""), ("b", "p9")], {"p9": "test"})
    split = split_slides(manifest, validation_share=0.4, seed=0)
    rows = list(csv.DictReader(io.StringIO(split_table(split))))
    assert [row["slide"] for row in rows] == [
        s.entry.shown_path for s in (*split.train, *split.validation, *split.test)
    ]
    assert Counter(row["split"] for row in rows) == {"train": 2, "validation": 2, "test": 1}
    folded = list(csv.DictReader(io.StringIO(fold_table(fold_slides(manifest, folds=2, seed=0)))))
    assert sorted(row["fold"] for row in folded) == ["", "1", "1", "2", "2"]
