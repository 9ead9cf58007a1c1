"""The pages' templates and assets, as they lie in the package. Whatever is put into a page is escaped."""

import base64
import hashlib
import unicodedata
from functools import lru_cache
from importlib.resources import files
from typing import Any

from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup

from tnet_cli.report.drawing import percent

ASSETS = files("tnet_cli.report") / "assets"


def asset_text(name: str) -> str:
    """Read a text asset by its path below ``report/assets``."""
    return ASSETS.joinpath(name).read_text(encoding="utf-8")


def content_hash(text: str) -> str:
    """Return the source expression by which a content security policy admits one inline script or style."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


_DIRECTIONS = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
"""Characters that turn the direction of writing."""


def visible(text: object) -> str:
    """Return a text on one line, with a � for each control character and each that turns the direction of writing.

    A file may be named with them, so that what is read is not what it is.
    """
    line = " ".join(str(text).split())
    if line.isascii() and line.isprintable():
        return line
    return "".join("�" if char in _DIRECTIONS or unicodedata.category(char) in ("Cc", "Cs") else char for char in line)


def render(template: str, **values: Any) -> str:
    """Fill a template of the package's assets.

    Raises:
        jinja2.UndefinedError: the template names a value that is not given.
    """
    return _environment().get_template(template).render(**values)


@lru_cache(maxsize=1)
def _environment() -> Environment:
    environment = Environment(
        loader=FunctionLoader(asset_text),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "visible": visible,
        "share": lambda value: percent(value) if value < 1 else "whole",
        "sentence": lambda reason: f"{str(reason)[:1].upper()}{str(reason)[1:]}.",
        "figure": figure,
        "number": lambda value, digits: "" if value is None else f"{value:.{digits}f}",
        "asset": lambda name: Markup(asset_text(name)),  # noqa: S704 - the package's own text
    }
    return environment


def figure(value: object) -> str:
    """Write a number with four significant figures, and anything else as it is."""
    return f"{value:.4g}" if isinstance(value, float) else visible(value)
