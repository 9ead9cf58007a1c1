"""Keyed hashes in place of names, and sentences without them."""

from pathlib import Path

import pytest

from tnet_cli.errors import UsageError
from tnet_cli.inputs.inputs import SlideInput
from tnet_cli.inputs.pseudonyms import DIGITS, Pseudonyms, without_names
from tnet_cli.places import Place

KEY = Pseudonyms(b"0123456789abcdef")


@pytest.fixture
def entry(tmp_path: Path) -> SlideInput:
    path = tmp_path / "slides of Jane Doe.svs"
    return SlideInput(Place(path), "sub/slides of Jane Doe", patient="Jane Doe", roi=tmp_path / "doe-roi.geojson")


def test_a_hash_depends_on_the_key_the_kind_and_the_name():
    other = Pseudonyms(b"0123456789abcdeg")
    hashes = {KEY.of("slide", "a"), KEY.of("slide", "b"), KEY.of("path", "a"), other.of("slide", "a")}
    assert len(hashes) == 4
    assert {len(each) for each in hashes} == {DIGITS}
    # RFC 2104 with SHA-256, computed by openssl.
    assert KEY.of("slide", "a") == "5065942c93721f25121b"


def test_a_hidden_slide_shows_nothing_of_its_own(entry):
    hidden = KEY.hidden(entry)
    assert hidden.path == entry.path
    assert "oe" not in f"{hidden.name} {hidden.shown_path} {hidden.patient}"
    assert KEY.hidden(entry) == hidden


@pytest.mark.parametrize(
    "said",
    [
        "{folder}/slides of Jane Doe.svs: gone",
        "cannot read {folder}/slides of Jane Doe/Data0001.dat",
        "the slides of Jane Doe.svs is damaged",
        "slides of Jane Doe: no scale",
        "{folder}/doe-roi.geojson: damaged, and (doe-roi.geojson)",
        "beside it: {folder}/Jane.ini",
    ],
)
def test_sentences_lose_the_names_of_the_slides_files(said, entry, tmp_path):
    hidden = KEY.hidden(entry)
    text = said.format(folder=tmp_path)
    assert without_names(text, entry) == text
    left = without_names(text, hidden)
    assert str(hidden.alias) in left
    assert "Jane" not in left
    assert "doe" not in left.lower()


@pytest.mark.parametrize(("content", "said"), [(None, "No such file"), (b"short\n", "has 5 bytes, fewer than 16")])
def test_a_key_is_never_made(content, said, tmp_path):
    file = tmp_path / "key"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(UsageError, match=said) as refused:
        Pseudonyms.read(file)
    assert "openssl rand -hex 32 > " in str(refused.value)
    assert file.exists() == (content is not None)


def test_line_ends_are_no_part_of_a_key(tmp_path):
    (tmp_path / "key").write_bytes(b"0123456789abcdef\r\n")
    assert Pseudonyms.read(tmp_path / "key") == KEY
