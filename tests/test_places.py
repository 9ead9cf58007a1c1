"""URLs are shown without what lets others in."""

from pathlib import Path

import pytest

from tnet_cli.errors import SlideError
from tnet_cli.places import is_url, redacted


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("https://host/a/b.svs", "https://host/a/b.svs"),
        ("https://host:8080/a.svs?X-Amz-Signature=topsecret&x=1", "https://host:8080/a.svs"),
        ("https://user:topsecret@host/a.svs#topsecret", "https://host/a.svs"),
        ("https://user:top@secret@host/a@b.svs", "https://host/a@b.svs"),
        ("https://user:top/secret@host/a.svs", "https://..."),
        ("https://user:top?secret@host/a.svs", "https://..."),
        ("http://[::1]:80/a.svs?topsecret", "http://[::1]:80/a.svs"),
        ("s3://KEY:topsecret@bucket/a.svs?versionId=3", "s3://bucket/a.svs"),
        ("HTTPS://host", "HTTPS://host"),
        ("slides/what?.svs", "slides/what?.svs"),
        ("a:b@c?d#e", "a:b@c?d#e"),
    ],
)
def test_what_lets_others_in_is_not_shown(given, shown):
    assert redacted(given) == shown
    assert str(SlideError(given, "is gone")) == f"{shown}: is gone"
    assert SlideError(given, "is gone").path == shown


def test_paths_are_no_urls():
    assert redacted(Path("a/b.svs")) == "a/b.svs"
    assert [text for text in ("s3://b/k", "c:/slides/a.svs", "/a//b", "http:/a", "://a") if is_url(text)] == [
        "s3://b/k"
    ]
