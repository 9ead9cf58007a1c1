"""What a slide's file does not hold: how it is filled, what is said of it, and when the slide is refused."""

from tnet_cli.slide.opening import open_slide
from tnet_cli.slide.slide import Doubt


def test_an_ordinary_slide_leaves_no_doubt_and_a_doubt_is_told_once(write_tiff, smooth):
    with open_slide(write_tiff(smooth(300, 200), tile=(64, 64))) as slide:
        assert slide.doubts == ()
        slide.doubt("scale", "names a scale for one axis alone", may_change_answer=False)
        slide.doubt("scale", "is not told twice")
        assert slide.doubts == (Doubt("scale", "names a scale for one axis alone", may_change_answer=False),)
