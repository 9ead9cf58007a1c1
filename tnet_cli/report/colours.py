"""The report's colours: told apart with every kind of colour vision, and from stained tissue."""

RGB = tuple[int, int, int]

OKABE_ITO = {
    "blue": "#0072B2",
    "vermilion": "#D55E00",
    "bluish green": "#009E73",
    "reddish purple": "#CC79A7",
    "sky blue": "#56B4E9",
    "orange": "#E69F00",
    "black": "#000000",
}
"""A palette for all kinds of colour vision, without yellow, which vanishes on white.

Source: Okabe and Ito, "Color Universal Design" (2008).
"""

# Without the purple, which vanishes on eosin. The most contrasting three come first: most models have as many views.
_PROCESSING_LEVELS = ("sky blue", "orange", "bluish green", "vermilion", "blue")

PAGE: RGB = (255, 255, 255)
INK: RGB = (28, 30, 33)
FAINT_INK: RGB = (98, 103, 110)
RULE: RGB = (214, 217, 221)
NOTICE: RGB = (150, 62, 0)
NOTICE_GROUND: RGB = (253, 243, 232)
ASKED_FOR: RGB = (0, 0, 0)
"""Of the border of what a user says to look at."""

BAR: RGB = (168, 174, 182)
BAR_OF_THE_LABEL: RGB = (0, 90, 141)


def processing_level_colour(processing_level: int) -> RGB:
    """Return the colour of a processing level; after the fifth they begin again, and none is below 0 (ValueError)."""
    if processing_level < 0:
        raise ValueError(f"a processing level is 0 or more, not {processing_level}")
    red, green, blue = bytes.fromhex(OKABE_ITO[_PROCESSING_LEVELS[processing_level % len(_PROCESSING_LEVELS)]][1:])
    return red, green, blue
