"""The report's colours: told apart with every kind of colour vision, and from stained tissue."""

RGB = tuple[int, int, int]

# Okabe and Ito, "Color Universal Design" (2008): a palette for all kinds of colour vision. Yellow and pink are left
# out, which vanish on glass and on eosin. The most contrasting three come first: most models have as many views.
_PROCESSING_LEVELS: tuple[RGB, ...] = (
    (86, 180, 233),  # sky blue
    (230, 159, 0),  # orange
    (0, 158, 115),  # bluish green
    (213, 94, 0),  # vermilion
    (0, 114, 178),  # blue
)

PAGE: RGB = (255, 255, 255)
INK: RGB = (28, 30, 33)
FAINT_INK: RGB = (98, 103, 110)
RULE: RGB = (214, 217, 221)
NOTICE: RGB = (150, 62, 0)
NOTICE_GROUND: RGB = (253, 243, 232)
BAR: RGB = (168, 174, 182)
BAR_OF_THE_LABEL: RGB = (0, 90, 141)


def processing_level_colour(processing_level: int) -> RGB:
    """Return the colour of a processing level; after the fifth they begin again.

    Raises:
        ValueError: the processing level is negative.
    """
    if processing_level < 0:
        raise ValueError(f"a processing level is 0 or more, not {processing_level}")
    return _PROCESSING_LEVELS[processing_level % len(_PROCESSING_LEVELS)]
