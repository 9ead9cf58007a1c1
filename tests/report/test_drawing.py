"""Text that fits, in letters that can be drawn."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import ImageDraw

from tnet_cli.geometry import Size
from tnet_cli.report.drawing import (
    blank,
    length,
    percent,
    resample,
    resolution,
    shorten,
    stack,
    text_width,
    wrap,
    writable,
    write,
)


@given(text=st.text(st.characters(min_codepoint=33, max_codepoint=126), max_size=60), width=st.integers(20, 600))
def test_a_shortened_text_fits_and_keeps_its_ends(text, width):
    short = shorten(text, 16, width)
    assert text_width(short, 16) <= width
    if short == text:
        return
    head, tail = short.split("…", maxsplit=1)
    assert text.startswith(head)
    assert text.endswith(tail)
    assert 0 <= len(head) - len(tail) <= 1


def test_a_long_slide_name_loses_its_middle():
    name = "TCGA-A2-A0T2-01Z-00-DX1.29A5C4C5-8F61-4D5F-AF55-BD2A2E6A0F1C.svs"
    short = shorten(name, 30, 500)
    assert short.startswith("TCGA-A2-A0T2")
    assert short.endswith("0F1C.svs")
    assert "…" in short


@given(text=st.text(alphabet="ab cde\n", max_size=80), width=st.integers(60, 300))
def test_wrapped_lines_fit_and_lose_no_word(text, width):
    lines = wrap(text, 16, width)
    assert all(text_width(line, 16) <= width for line in lines)
    if all(text_width(word, 16) <= width for word in text.split()):
        assert " ".join(lines).split() == text.split()


def test_what_has_no_letter_is_written_with_others():
    assert writable("Müller, 20×, 0.5 µm – β") == "Muller, 20x, 0.5 µm - ?"
    assert writable("0.5 \N{GREEK SMALL LETTER MU}m") == "0.5 µm"
    assert writable("日本") == "??"
    assert writable("a\tb\n") == "a?b?"


def test_the_micro_sign_is_a_u_with_a_stem():
    pages = []
    for text in ("u", "µ"):
        page = blank(40, 40)
        write(ImageDraw.Draw(page), (5, 5), text, 24, (0, 0, 0))
        pages.append(np.asarray(page).min(axis=2) < 128)
    u, micro = pages
    assert micro[u].all()
    stem = np.argwhere(micro & ~u)
    assert stem[:, 0].max() > np.argwhere(u)[:, 0].max()
    assert stem[:, 1].max() < np.argwhere(u)[:, 1].mean()
    assert text_width("u", 24) == text_width("µ", 24)


@pytest.mark.parametrize(
    ("share", "text"),
    [(0, "0.0 %"), (1, "100.0 %"), (0.5, "50.0 %"), (0.0004, "< 0.1 %"), (0.9996, "> 99.9 %"), (math.nan, "unknown")],
)
def test_percent(share, text):
    assert percent(share) == text


def test_lengths_and_resolutions():
    assert [length(um) for um in (20, 499, 500, 1024, 20_000)] == ["20 µm", "499 µm", "0.5 mm", "1.02 mm", "20 mm"]
    assert [resolution(mpp) for mpp in (0.4990, 0.125, 8.0001, 32)] == [
        "0.499 µm/px",
        "0.125 µm/px",
        "8 µm/px",
        "32 µm/px",
    ]
    assert resolution(0.499, 2) == "0.5 µm/px"


def test_stacked_sections_stand_below_each_other():
    page = stack([blank(10, 5), blank(30, 7)], 40, 3)
    assert page.size == (40, 15)
    assert stack([], 40, 3).size == (40, 1)


def test_resampling_averages_areas():
    pixels = np.array([[[0, 0, 0], [100, 200, 40]]], dtype=np.uint8)
    assert np.asarray(resample(pixels, Size(1, 1))).tolist() == [[[50, 100, 20]]]
    assert np.asarray(resample(pixels, Size(4, 1)))[0, :, 0].tolist() == [0, 0, 100, 100]
