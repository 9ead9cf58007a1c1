"""Names of slides: unique, and the path of a folder that every file system takes."""

import time
from pathlib import PurePosixPath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tnet_cli.inputs.inputs import find_inputs
from tnet_cli.inputs.names import LONGEST_NAME, LONGEST_PART, NameSource, safe_name, unique_names

HOSTILE = st.sampled_from(
    [
        "..",
        ".",
        "",
        " ",
        "CON",
        "nul.x",
        "a",
        "A",
        "a.",
        "a ",
        "ä",
        "a\u0308",
        "x" * 300,
        "result.json",
        "a/b",
        "\udcff",
        "é:*?",
    ]
)
PARTS = st.one_of(HOSTILE, st.text(max_size=12))


@given(
    st.lists(
        st.builds(
            NameSource,
            st.lists(PARTS, max_size=3).map(tuple),
            PARTS,
            st.sampled_from(["", ".svs", ".TIF"]),
            st.integers(0, 3),
        ),
        max_size=8,
    )
)
def test_any_names_become_folders_of_their_own_everywhere(sources):
    found = unique_names(sources)
    assert len(found) == len(sources)
    assert len({name.casefold() for name in found}) == len(found)
    for name in found:
        assert name.encode()  # no lone surrogates
        assert len(name.encode()) <= LONGEST_NAME + 4
        for part in name.split("/"):
            assert part not in {"", ".", ".."}
            assert not part.startswith(".")
            assert part[-1] not in ". "
            assert not set(part) & set('<>:"\\|?*\0\n')
            assert len(part.encode()) <= LONGEST_PART + 4
            assert part.split(".")[0].casefold() not in {"con", "nul"}
        assert not PurePosixPath(name).is_absolute()


def test_a_slide_keeps_its_name_unless_another_has_it():
    sources = [
        NameSource(("data", "a"), "one", ".svs"),
        NameSource(("data", "b"), "one", ".svs"),
        NameSource(("data", "b"), "two", ".svs"),
        NameSource(("data", "b"), "three", ".svs"),
        NameSource(("data", "b"), "three", ".tif"),
    ]
    assert unique_names(sources) == ["a/one", "b/one", "two", "three.svs", "three.tif"]


def test_cases_and_ways_to_write_an_accent_do_not_tell_slides_apart():
    assert unique_names(
        [NameSource((), "Slide"), NameSource((), "slide"), NameSource((), "é"), NameSource((), "e\u0301")]
    ) == [
        "Slide",
        "slide-2",
        "é",
        "é-2",
    ]


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        (("..", "up"), "_/up"),
        (("a:b", 'c"d'), "a_b/c_d"),
        ((".hidden",), "_hidden"),
        (("CON",), "CON_"),
        (("nul.tar",), "_nul.tar"),
        (("one", "result.json"), "one/_result.json"),
        (("dots...",), "dots"),
        (("Müller 3",), "Müller 3"),
    ],
)
def test_parts_are_made_safe(parts, expected):
    assert safe_name(parts) == expected


def test_long_names_are_cut_and_still_differ():
    one, two = safe_name(("x" * 300 + "1",)), safe_name(("x" * 300 + "2",))
    assert one != two
    assert len(one) == len(two) == LONGEST_PART
    deep = safe_name((*(str(n) * 30 for n in range(9)), "slide"))
    assert deep.endswith("/slide")
    assert len(deep) == 8 + len("/slide")


@pytest.mark.parametrize(
    "inputs",
    [
        [f"https://host/slide.svs?id={number}" for number in range(20_000)],
        [f"https://{number}/a/b/c/d/e/slide.svs" for number in range(20_000)],
        [f"s3://bucket/{'<>:*|'[number % 5]}{'?' * (number // 5)}" for number in range(100)],
        [f"https://host/{number}{'/x' * 500}/slide.svs" for number in range(500)],
        [NameSource(("a",), "slide", ".svs")] * 20_000,
    ],
    ids=["queries", "folders", "letters no file may have", "deep folders", "alike in all"],
)
def test_the_time_for_names_grows_as_their_number(inputs):
    began = time.process_time()
    sources = inputs if isinstance(inputs[0], NameSource) else [NameSource((), e.name) for e in find_inputs(inputs)]
    names = unique_names(sources)
    assert time.process_time() - began < 15  # it is one; where every name was compared with every other, minutes
    assert len({name.casefold() for name in names}) == len(inputs)


def test_what_tells_addresses_apart_is_in_their_names_whoever_else_is_given():
    one, two = "https://host/slide.svs?id=1", "https://host/slide.svs?id=2"
    (first,), (second,) = find_inputs([one]), find_inputs([two])
    assert first.name != second.name
    assert [entry.name for entry in find_inputs([two, one])] == [second.name, first.name]
