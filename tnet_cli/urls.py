"""URLs among the inputs, and how they are shown: never with what lets others in."""

import re
from pathlib import Path

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")
_HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[^:\[\]]*)(:\d*)?")


def is_url(text: str) -> bool:
    """Tell a URL, ``scheme://...``, from a path."""
    return _SCHEME.match(text) is not None


def redacted(path: str | Path) -> str:
    """Return a URL as it may be shown or written down: without user, password, query and fragment.

    A signed URL carries its signature in the query, so whoever reads it there can read the file. Paths of files are
    returned as they are.
    """
    text = str(path)
    scheme = _SCHEME.match(text)
    if scheme is None:
        return text
    rest = re.split(r"[?#]", text[scheme.end() :], maxsplit=1)[0]
    authority, slash, place = rest.partition("/")
    host = authority.rpartition("@")[2]
    if _HOST.fullmatch(host) is None:
        # A password with a slash or question mark in it, left unquoted, would pass for a host, and be shown.
        return f"{scheme.group()}..."
    return f"{scheme.group()}{host}{slash}{place}"
