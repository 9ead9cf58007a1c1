"""Plots: pictures of a size that fits a page, the same for the same numbers, nothing of them cut."""

import io

import numpy as np
import pytest
from PIL import Image

from tnet_cli.report.plots import (
    DOTS_PER_INCH,
    Curve,
    Point,
    Series,
    confusion_plot,
    locations_plot,
    precision_recall_plot,
    reliability_plot,
    roc_plot,
)

LINE = np.linspace(0, 1, 20)


def picture(png):
    with Image.open(io.BytesIO(png)) as image:
        return np.asarray(image.convert("RGB"))


def some_plots():
    curves = [Curve(LINE, LINE**0.3, f"arm {number}, AUROC 0.9 (0.8 to 1.0)", number) for number in range(4)]
    points = [Point(x, x, max(0, x - 0.1), min(1, x + 0.1)) for x in (0.1, 0.5, 0.9)]
    counts = np.array([3, 0, 0, 4, 0, 9, 0, 1, 2, 30])
    many = [Series(tuple(Point(n, 0.8, 0.7, 0.9) for n in (1, 2, 4)), text, place) for place, text in enumerate("ab")]
    return {
        "roc": roc_plot(curves, (0.1, 0.5, "decision threshold 0.42")),
        "roc of many classes": roc_plot(curves * 5, None),
        "precision_recall": precision_recall_plot(curves, 0.4, None),
        "confusion": confusion_plot(np.array([[5, 1], [0, 7]]), ["benign", "lesion"]),
        "confusion of many classes": confusion_plot(
            np.eye(80, dtype=np.int64), [f"a class with a long name {n}" for n in range(80)]
        ),
        "confusion of no slides of a class": confusion_plot(np.array([[0, 0], [2, 3]]), ["a" * 60, "b"]),
        "reliability": reliability_plot(
            points, counts, np.linspace(0, 1, 11), stated="Stated", observed="Observed", summary="ECE 0.1"
        ),
        "locations": locations_plot(many, [Series((Point(0, 0.5, 0.4, 0.6),), "coarse (no location)", 2)]),
        "locations of one budget": locations_plot([Series((Point(12, 1.0, 0.6, 1.0),), "tnet", 0)], []),
    }


@pytest.fixture(scope="module")
def plots():
    return some_plots()


def test_the_same_numbers_give_the_same_picture(plots):
    assert plots == some_plots()


def test_they_fit_a_page_and_nothing_is_cut(plots):
    for name, png in plots.items():
        pixels = picture(png)
        height, width = pixels.shape[:2]
        assert 600 < width < 8.5 * DOTS_PER_INCH, name
        assert 600 < height < 8.5 * DOTS_PER_INCH, name
        # What is cut would reach the rim.
        rim = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
        assert (rim == 255).all(), name


def test_arms_are_told_apart_without_colour(plots):
    grey = [
        np.asarray(Image.open(io.BytesIO(roc_plot([Curve(LINE, LINE, "a", 0), Curve(LINE, y, "b", 1)], None))))
        for y in (LINE, LINE**0.5)
    ]
    # Curves that run together are still both to be seen.
    both = grey[0].reshape(-1, grey[0].shape[-1])[:, :3]
    for colour in ((0, 0x72, 0xB2), (0xD5, 0x5E, 0)):
        assert (both == colour).all(axis=1).sum() > 1000
