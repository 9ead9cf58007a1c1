"""Where something lies, a path or an address: opened with all of it, and shown without what lets others in."""

import hashlib
import os
import re
import unicodedata
from dataclasses import dataclass
from functools import cached_property
from pathlib import PurePath
from typing import Any
from urllib.parse import unquote, unquote_plus

_OBJECT_STORES = frozenset({"s3", "s3a", "gs", "gcs"})
"""Their keys are opaque: a ``?`` or ``#`` in one is a character like any other."""

_KNOWN = r"https?|s3a?|gc?s|hf|s?ftps?|tls|tcp|wss?|file|az|abfss?|wasbs?"
"""Schemes that show an address also where its slashes are wrong: a path made of one has a single slash."""

_START = re.compile(
    rf"\s*(?:(?P<scheme>[a-z][a-z0-9+.-]+)(?P<slashes>://+)|(?P<known>{_KNOWN})(?P<wrong>:[/\\]+)|(?P<web>https?):"
    r"|(?:(?P<other>[a-z][a-z0-9+.-]+):[/\\]|[/\\]{2})[/\\]*(?=[^\s/\\@]{0,500}:[^@]{0,500}@))",
    re.IGNORECASE,
)
_INSIDE = re.compile(
    rf"(?<![a-z0-9+.-])(?:[a-z][a-z0-9+.-]{{1,30}}://|(?:{_KNOWN}):[/\\]|https?:(?=\S{{0,2000}}@)"
    r"|[a-z][a-z0-9+.-]{1,30}:[/\\]{1,4}(?=[^\s/\\@]{0,500}:[^\s@]{0,500}@))",
    re.IGNORECASE,
)
_RUN = re.compile(rf"(?:{_INSIDE.pattern})[^\s'\"<>]*", re.IGNORECASE)
_HOST = re.compile(r"(?:\[[0-9A-Fa-f:.]+\]|[\w.-]+)(?::\d{0,5})?")
_SHORTENED = re.compile(r"\.\.\.[0-9a-f]{12}")

_SECRET = re.compile(
    r"x-(?:amz|goog|oss|cos|obs)-.*|.*(?:token|sig|signature|secret|password|passwd|credentials?|accesskeyid|accessid)"
    r"|.*(?:api|access|subscription|account)[-_]?key|key-pair-id|hdnts|hdnea|.*session[-_]?id|sas|jwt|hmac|auth|pwd?|pass"
)
"""Names of parameters, in lower case, that let in whoever knows their values."""

_OF_A_SIGNATURE = re.compile(
    r"exp|expires|expiry|expiration|policy|nonce|timestamp|ts|s[epirstv]|srt|spr|sip|sdd|sk[estv]|sk[ot]id|s[au]oid"
)
"""Names of parameters that renew with a signature beside them: how long it holds, and what for."""

_SAID = re.compile(
    r"(?P<name>(?:[?&;#]|%3F|%26|%3B|%23)(?:[\w.~-]*(?:token|sig|signature|secret|password|passwd|credentials?|session[-_]?id"
    r"|accesskeyid|(?:api|access)[-_]?key)|x-(?:amz|goog)-[\w-]+)(?:=|%3D))(?!\.\.\.)[^\s&;/'\"<>]+",
    re.IGNORECASE,
)
_LOGIN = re.compile(r"//[^\s/'\"@]{0,500}:[^\s'\"@]{0,500}@")

_UNCLEAR = (
    "is not a valid address: where its host begins is not clear; expected one such as https://host/slide.svs or "
    "s3://bucket/slide.svs, in which the characters / ? # @ : of a user, a password or a name are written as "
    "%2F %3F %23 %40 %3A"
)
_WITHOUT_QUERY = (
    "is how tnet writes down an address, without what follows the question mark, since that may be secret; give the "
    "whole address (the command that was given before does what is not done yet)"
)


@dataclass(frozen=True, slots=True)
class _Address:
    """An address as it is shown.

    Attributes:
        host: Or bucket, with its port.
        path: With the slash before it.
        query: Stands for what is in it; empty where it is harmless.
        problem: Why it cannot be opened, if so.
    """

    scheme: str
    host: str
    path: str = ""
    query: str = ""
    problem: str | None = None

    def __str__(self) -> str:
        return f"{self.scheme}://{self.host}{self.path}{'?' * bool(self.query)}{self.query}"


class Place:
    """A path or an address that a user gave, which may hold a password, a signature or a token.

    As text, in whichever way, it is what may be shown and written down. Of an address that is: no user, no password,
    and in place of query and fragment twelve digits that stand for what is in them; what renews by itself, such as a
    signature, does not count. So the text is the same for the same object however often its address is signed, and
    another for another object. Places are equal when their texts are.

    Args:
        whole: As given. A path stays as it is; what is left out of an address is known to ``opened_whole`` alone.
    """

    def __init__(self, whole: "str | os.PathLike[str] | Place") -> None:
        self._whole: str = whole.opened_whole() if isinstance(whole, Place) else os.fspath(whole)
        self._address: _Address | None = None
        if is_url(self._whole):
            self._whole = self._whole.strip()
            self._address = _address(self._whole)
        self._text = str(self._address) if self._address else _with_addresses_hidden(self._whole)

    def opened_whole(self) -> str:
        """Return all of it, secrets included: for whatever opens it, and for nothing else."""
        return self._whole

    @property
    def is_url(self) -> bool:
        """Whether it is an address, and no path."""
        return self._address is not None

    @property
    def problem(self) -> str | None:
        """Why the address cannot be opened; None where nothing speaks against it."""
        return self._address.problem if self._address else None

    @property
    def query(self) -> str:
        """What stands for an address's query; empty without one."""
        return self._address.query.removeprefix("...") if self._address else ""

    @cached_property
    def parts(self) -> tuple[str, ...]:
        """Of an address the host or bucket, the folders and the file's name; of a path its parts."""
        if self._address is None:
            return PurePath(self._whole).parts
        path = self._address.path if self._address.scheme in _OBJECT_STORES else unquote(self._address.path)
        return (self._address.host, *(part for part in path.split("/") if part not in {"", "."}))

    @property
    def suffix(self) -> str:
        """The suffix of the file's name in lower case, with its dot; empty when it has none."""
        if self.is_url:
            name = self.parts[-1].partition("?versionId=")[0] if len(self.parts) > 1 else ""
        else:
            name = os.path.basename(self._whole)  # noqa: PTH119  quicker, and there may be many
        return os.path.splitext(name)[1].lower()  # noqa: PTH122

    def __str__(self) -> str:
        return self._text

    def __repr__(self) -> str:
        return f"Place({self._text!r})"

    def __format__(self, spec: str) -> str:
        return format(self._text, spec)

    def __fspath__(self) -> str:
        if self.is_url:
            raise ValueError(f"{self}: is an address, and no file of this machine")
        return self._whole

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Place) and self._text == other._text

    def __hash__(self) -> int:
        return hash(self._text)

    def __deepcopy__(self, _memo: dict[int, Any]) -> "Place":
        return self


def is_url(text: str) -> bool:
    """Tell an address, ``scheme://...``, from a path; of schemes that tnet knows also one with its slashes wrong."""
    return _START.match(text) is not None


def redacted(text: "str | os.PathLike[str] | Place") -> str:
    """Return a path or an address as it may be shown or written down, as the text of its ``Place``."""
    return str(Place(text))


def scrubbed(text: str, *known: Place) -> str:
    """Return a sentence, such as that of a library's error, without the secrets of the addresses in it.

    Args:
        known: Places that it may hold: where the address of one ends cannot always be seen.
    """
    for place in known:
        whole = place.opened_whole()
        if place.is_url or str(place) != whole:
            text = text.replace(whole, str(place)).replace(repr(whole)[1:-1], str(place))
    if "/" not in text and "\\" not in text and "=" not in text:
        return text
    return _SAID.sub(r"\g<name>...", _LOGIN.sub("//", _RUN.sub(_shown_run, text)))


def _shown_run(found: re.Match[str]) -> str:
    address = found.group().rstrip(".,:;!)]}")
    return redacted(address) + found.group()[len(address) :] if is_url(address) else found.group()


def _with_addresses_hidden(path: str) -> str:
    """Return a path; an address inside it, as in ``cache::https://...``, is shown as one."""
    inside = _INSIDE.search(path)
    return path if inside is None else path[: inside.start()] + redacted(path[inside.start() :])


def _address(whole: str) -> _Address:
    start = _START.match(whole)
    if start is None:
        raise ValueError("no address")
    scheme = (start["scheme"] or start["known"] or start["web"] or start["other"] or "address").lower()
    rest = whole[start.end() :]
    authority = re.split(r"[/\\?#]", rest, maxsplit=1)[0]
    host, tail = authority.rpartition("@")[2], rest[len(authority) :]
    is_malformed = start["slashes"] != "://"
    if _SHORTENED.fullmatch(rest) or not rest:
        return _Address(scheme, rest, problem=_UNCLEAR)
    if _is_unclear(scheme, authority, tail, is_malformed=is_malformed):
        place, mark, query = unicodedata.normalize("NFKC", unquote(rest)).rpartition("@")[2].partition("?")
        return _Address(scheme, f"...{_digest(place + mark + _lasting(query))}", problem=_UNCLEAR)
    problem = _UNCLEAR if is_malformed else None
    if scheme in _OBJECT_STORES:
        return _Address(scheme, host, _without_secrets(tail), problem=problem)
    path = re.split(r"[?#]", tail, maxsplit=1)[0]
    query = tail[len(path) :].removeprefix("?")
    host = host if scheme == "hf" else host.lower()
    if _SHORTENED.fullmatch(query):
        return _Address(scheme, host, path, query, problem or _WITHOUT_QUERY)
    lasting = _lasting(query)
    return _Address(scheme, host, _without_secrets(path), f"...{_digest(lasting)}" if lasting else "", problem)


def _is_unclear(scheme: str, authority: str, tail: str, *, is_malformed: bool) -> bool:
    """Tell whether some of a password might pass for the host, the path or the query."""
    _, at, host = authority.rpartition("@")
    # Some letters look like these and become them on the way.
    authority, tail = (unicodedata.normalize("NFKC", text) for text in (authority, tail))
    if _HOST.fullmatch(host) is None or (is_malformed and re.search("[@:]", authority + tail)):
        return True
    is_a_host = scheme in _OBJECT_STORES or "." in host or host == "localhost"
    return "@" in tail and bool(at or ":" in authority or not is_a_host)


def _lasting(query: str) -> str:
    """Return what of a query and fragment stays the same when the address is signed again."""
    fields = [field for field in re.split(r"[&;]|(?=#)", query) if field not in {"", "#"}]
    names = [unquote_plus(field.lstrip("#").partition("=")[0]).strip().lower() for field in fields]
    secret = [_SECRET.fullmatch(name) is not None for name in names]
    is_signed = any(secret)
    kept = [
        field
        for field, name, hides in zip(fields, names, secret, strict=True)
        if not hides and not (is_signed and _OF_A_SIGNATURE.fullmatch(name))
    ]
    return "&".join(kept)


def _without_secrets(path: str) -> str:
    """Return a path; from the value of what looks like a secret parameter on, digits stand for it."""
    found = _SAID.search(path)
    return path if found is None else f"{path[: found.end('name')]}...{_digest(path)}"


def _digest(text: str) -> str:
    return hashlib.blake2b(text.encode(errors="surrogatepass"), digest_size=6, person=b"tnet place").hexdigest()
