"""The names of an imported model's classes: a checkpoint holds none."""

import re
from pathlib import Path

from tnet_cli.errors import ManifestError

FMOW = (
    *("airport", "airport_hangar", "airport_terminal", "amusement_park", "aquaculture", "archaeological_site", "barn"),
    *("border_checkpoint", "burial_site", "car_dealership", "construction_site", "crop_field", "dam"),
    *("debris_or_rubble", "educational_institution", "electric_substation", "factory_or_powerplant", "fire_station"),
    *("flooded_road", "fountain", "gas_station", "golf_course", "ground_transportation_station", "helipad", "hospital"),
    *("interchange", "lake_or_pond", "lighthouse", "military_facility", "multi-unit_residential"),
    *("nuclear_powerplant", "office_building", "oil_or_gas_facility", "park", "parking_lot_or_garage"),
    *("place_of_worship", "police_station", "port", "prison", "race_track", "railway_bridge", "recreational_facility"),
    *("impoverished_settlement", "road_bridge", "runway", "shipyard", "shopping_mall", "single-unit_residential"),
    *("smokestack", "solar_farm", "space_facility", "stadium", "storage_tank", "surface_mine", "swimming_pool"),
    *("toll_booth", "tower", "tunnel_opening", "waste_disposal", "water_treatment_facility", "wind_farm", "zoo"),
)
"""The 62 categories of Functional Map of the World (arXiv:1711.07846) in the order of the published weights.

It is alphabetical but for ``impoverished_settlement``.
"""


def numbered_names(count: int) -> tuple[str, ...]:
    """Name classes by their number: ``class_0`` and so on."""
    return tuple(f"class_{number}" for number in range(count))


def read_class_names(path: Path, count: int) -> tuple[str, ...]:
    """Read class names from a text file, one a line in the order of the logits.

    A number before each name, counting up from 0 or 1 as in CUB's ``classes.txt``, is left out. Empty lines are too.

    Raises:
        ManifestError: the file cannot be read, or has not as many names as the model has classes, or the same twice.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as exc:
        reason = exc.strerror if isinstance(exc, OSError) and exc.strerror else str(exc)
        raise ManifestError(f"{path}: cannot be read as class names: {reason}") from exc
    names = _without_numbers([line.strip() for line in text.splitlines() if line.strip()])
    if len(names) != count:
        raise ManifestError(f"{path}: lists {len(names)} class names, but the model has {count} classes; one a line")
    if len(set(names)) != count:
        twice = next(name for name in names if names.count(name) > 1)
        raise ManifestError(f"{path}: lists the class name {twice!r} more than once")
    return tuple(names)


def _without_numbers(lines: list[str]) -> list[str]:
    split = [re.fullmatch(r"(\d+)\s+(\S.*)", line) for line in lines]
    numbered = [(int(each[1]), each[2]) for each in split if each]
    numbers = [number for number, _ in numbered]
    if len(numbered) == len(lines) and lines and numbers in (list(range(len(lines))), list(range(1, len(lines) + 1))):
        return [name for _, name in numbered]
    return lines
