"""Deep zoom's arithmetic against OpenSlide's, and slides that are opened when looked at and closed when not."""

import threading
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from openslide import ImageSlide
from openslide.deepzoom import DeepZoomGenerator
from PIL import Image

from tests.results.runs_made_by_hand import done
from tnet_cli.errors import SlideError
from tnet_cli.geometry import Region, Size
from tnet_cli.results.reader import SlideRecord
from tnet_cli.slide.opening import open_slide
from tnet_cli.slide.slide import Slide
from tnet_cli.viewer.deepzoom import DeepZoom, tile_jpeg
from tnet_cli.viewer.slides import OpenSlides, find_again


@settings(max_examples=60, deadline=None)
@given(width=st.integers(1, 700), height=st.integers(1, 700), tile_px=st.sampled_from([64, 100, 512]))
def test_zoom_levels_and_tiles_are_openslides(width, height, tile_px):
    oracle = DeepZoomGenerator(ImageSlide(Image.new("L", (width, height))), tile_size=tile_px, overlap=0)
    zoom = DeepZoom(Size(width, height), tile_px)
    assert zoom.last_zoom_level == oracle.level_count - 1
    for level, (columns, rows) in enumerate(oracle.level_tiles):
        size = zoom.zoom_size(level)
        assert (size.width, size.height) == oracle.level_dimensions[level]
        for column in range(columns):
            for row in range(rows):
                tile = zoom.tile(level, column, row)
                assert tile is not None
                assert (tile[1].width, tile[1].height) == oracle.get_tile_dimensions(level, (column, row))
                (x, y), _, _ = oracle.get_tile_coordinates(level, (column, row))
                assert (tile[0].x, tile[0].y) == (x, y)
        assert zoom.tile(level, columns, 0) is None
        assert zoom.tile(level, 0, rows) is None
    assert zoom.tile(oracle.level_count, 0, 0) is None
    assert zoom.tile(-1, 0, 0) is None
    assert zoom.tile(0, -1, 0) is None


def test_the_finest_tiles_put_together_are_the_slide(picture):
    zoom = DeepZoom(Size(1300, 900))
    with open_slide(picture) as slide:
        whole = slide.read(Region(0, 0, 1300, 900), 1300, 900)
        found = np.zeros_like(whole)
        for column in range(3):
            for row in range(2):
                data = tile_jpeg(slide, zoom.last_zoom_level, column, row)
                assert data is not None
                tile = np.asarray(Image.open(BytesIO(data)))
                top, left = row * 512, column * 512
                found[top : top + tile.shape[0], left : left + tile.shape[1]] = tile
    assert np.abs(found.astype(int) - whole).mean() < 1.5


def is_open(slide: Slide) -> bool:
    try:
        slide.read(Region(0, 0, 8, 8), 8, 8)
    except SlideError as error:
        if "is closed" not in str(error):
            raise
        return False
    return True


def test_slides_no_longer_read_are_closed_oldest_first(records):
    slides = OpenSlides(Path(), most=2)
    opened = []
    for record in records:
        with slides.reading(record) as slide:
            opened.append(slide)
        assert [is_open(slide) for slide in opened] == [*[False] * (len(opened) - 2), True, True][-len(opened) :]
    with slides.reading(records[-1]) as again:
        assert again is opened[-1]
    slides.close()
    assert not any(map(is_open, opened))
    with pytest.raises(SlideError, match="the viewer has ended"), slides.reading(records[0]):
        pass


def test_a_slide_is_not_closed_while_it_is_read(records):
    slides = OpenSlides(Path(), most=1)
    others = []
    with slides.reading(records[0]) as first:
        for record in records[1:]:
            with slides.reading(record) as other:
                others.append(other)
        assert is_open(first)
        slides.close()
        assert is_open(first)
    assert not any(map(is_open, [first, *others]))


def test_many_readers_at_once_share_few_open_slides(records):
    slides = OpenSlides(Path(), most=2)
    together = threading.Barrier(8)
    lent: set[Slide] = set()

    def read(number: int) -> int:
        together.wait()
        total = 0
        for step in range(12):
            with slides.reading(records[(number + step) % len(records)]) as slide:
                lent.add(slide)
                total += int(slide.read(Region(0, 0, 16, 16), 4, 4).sum())
        return total

    with ThreadPoolExecutor(8) as pool:
        totals = list(pool.map(read, range(8)))
    # The slides show the same picture, so every reader saw the same.
    assert len(set(totals)) == 1
    assert totals[0] > 0
    assert sum(map(is_open, lent)) <= 2
    slides.close()
    assert not any(map(is_open, lent))


def test_a_slide_that_cannot_be_opened_leaves_nothing_behind(records, tmp_path):
    slides = OpenSlides(tmp_path, most=1)
    with slides.reading(records[0]) as first:
        pass
    for name in ("gone", "gone", "lost"):
        record = SlideRecord(name, {"path": str(tmp_path / f"{name}.png")}, {}, None)
        with pytest.raises(SlideError, match="not there any more"), slides.reading(record):
            pass
    with slides.reading(records[0]) as again:
        assert again is first
    slides.close()


def test_another_slide_in_the_place_of_the_first_is_not_shown(picture):
    record = SlideRecord("a", done("a", path=str(picture)).row(), {"width": 4000, "height": 3000}, None)
    slides = OpenSlides(Path())
    with pytest.raises(SlideError, match="is another slide by now"), slides.reading(record):
        pass
    slides.close()


def test_a_relative_path_is_looked_for_here_and_beside_the_run(tmp_path, monkeypatch):
    (tmp_path / "lab" / "in").mkdir(parents=True)
    (tmp_path / "lab" / "in" / "a.png").write_bytes(b"x")
    run = tmp_path / "lab" / "results" / "run"
    run.mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    record = SlideRecord("a", {"path": "in/a.png"}, {}, None)
    assert Path(find_again(record, run)) == tmp_path / "lab" / "in" / "a.png"
    with pytest.raises(SlideError, match=r"in/b\.png: the slide is not there any more"):
        find_again(SlideRecord("b", {"path": "in/b.png"}, {}, None), run)
    assert find_again(SlideRecord("c", {"path": "https://host/c.svs"}, {}, None), run) == "https://host/c.svs"


@pytest.fixture(scope="module")
def picture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A smooth picture of 1300 x 900 px."""
    path = tmp_path_factory.mktemp("pictures") / "a.png"
    y, x = np.mgrid[:900, :1300]
    Image.fromarray(np.stack([x // 6, y // 4, (x + y) // 9], axis=-1).astype(np.uint8)).save(path)
    return path


@pytest.fixture
def records(picture: Path, tmp_path: Path) -> list[SlideRecord]:
    """Five slides of a run, all with the same picture."""
    made = []
    for number in range(5):
        path = tmp_path / f"{number}.png"
        path.write_bytes(picture.read_bytes())
        made.append(SlideRecord(str(number), {"path": str(path), "reader": "pillow"}, {}, None))
    return made
