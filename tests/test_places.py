"""Places are shown, written and compared without what lets others in, and opened whole."""

import copy
import json
import logging
import pickle
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tnet_cli.errors import SlideError, TnetError
from tnet_cli.places import Place, is_url, redacted, scrubbed

SIGNED = "X-Amz-Algorithm=A&X-Amz-Date={0}&X-Amz-Expires=60&X-Amz-Signature={0}"


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("https://host/a/b.svs", "https://host/a/b.svs"),
        ("https://host:8080/a.svs?X-Amz-Signature=topsecret", "https://host:8080/a.svs"),
        ("https://user:topsecret@host/a.svs#access_token=topsecret", "https://host/a.svs"),
        ("https://user:top@secret@host/a.svs", "https://host/a.svs"),
        ("https://example.org/a@b.svs", "https://example.org/a@b.svs"),
        ("  https://user:topsecret@host/a b.svs", "https://host/a b.svs"),
        ("http://[::1]:80/a.svs?sig=topsecret", "http://[::1]:80/a.svs"),
        ("https://host/a.svs?sv=2024&se=2026-01-01&sig=topsecret", "https://host/a.svs"),
        ("https://host/a.svs?Expires=1&Key-Pair-Id=topsecret&Signature=topsecret", "https://host/a.svs"),
        ("https://host/a.svs?X%2DAmz%2DSignature=topsecret;access_token=topsecret", "https://host/a.svs"),
        ("s3://KEY:topsecret@bucket/a.svs?versionId=3", "s3://bucket/a.svs?versionId=3"),
        ("s3://bucket/what?#1.svs", "s3://bucket/what?#1.svs"),
        ("tls://user:topsecret@host:8786", "tls://host:8786"),
        ("HTTPS://HOST/A", "https://host/A"),
        ("cache::https://user:topsecret@host/a.svs?token=topsecret", "cache::https://host/a.svs"),
        ("slides/what?.svs", "slides/what?.svs"),
        ("a:b@c?d#e", "a:b@c?d#e"),
    ],
)
def test_what_lets_others_in_is_not_shown(given, shown):
    assert redacted(given) == shown
    assert str(SlideError(given, "is gone")) == f"{shown}: is gone"
    assert SlideError(given, "is gone").path == shown


MALFORMED = [
    "https://user:12/topsecret@host/a.svs",
    "https://user:top?secret@host/a.svs",
    "https://user:top#secret@host/a.svs",
    "https://user:1?topsecret@host/a.svs",
    "https://user:to@p/topsecret@host/a.svs",
    "https://topsecret/topsecret@host/a.svs",
    "https:/user:topsecret@host/a.svs",
    "https:///user:topsecret@host/a.svs",
    "https:user:topsecret@host/a.svs",
    "https:\\\\user:topsecret@host\\a.svs",
    "https://user:topsecret\\x@host/a.svs",
    "https://user:topsecret%40host/a.svs",
    "https://user：topsecret＠host/a.svs",
    "HTTPS://user:topsecret:x/a.svs",
    "s3:/KEY:topsecret@bucket/a.svs",
    "//user:topsecret@host/a.svs",
    "htps:/user:topsecret@host/a.svs",
    "dav+https:/user:topsecret@host/a.svs",
    "htps:\\\\user:topsecret@host\\a.svs",
    "s3://KEY:top/topsecret@bucket/a.svs",
]


@pytest.mark.parametrize("given", MALFORMED)
def test_an_address_whose_parts_are_not_clear_is_hidden_whole_and_not_opened(given):
    place = Place(given)
    assert "secret" not in str(place)
    assert "user" not in str(place)
    assert place.problem is not None
    assert "secret" not in place.problem
    assert "secret" not in scrubbed(f"Invalid value: '{given}' is wrong")


@pytest.mark.parametrize(
    "given",
    [
        *MALFORMED,
        "https://host/a.svs?id=7&token=topsecret",
        "https://host/a.svs;jsessionid=topsecret",
        "https://host/a%3Ftoken%3Dtopsecret",
        "s3://bucket/a.svs?X-Amz-Signature=topsecret",
        "s3://bucket/?",
        "https://",
    ],
)
def test_what_is_shown_is_shown_the_same_again(given):
    shown = str(Place(given))
    assert str(Place(shown)) == shown
    assert scrubbed(f"{shown}: is gone, {shown}.") == f"{shown}: is gone, {shown}."
    assert "secret" not in shown


def test_no_way_to_the_text_of_a_place_shows_the_secret(caplog):
    place = Place("https://user:topsecret@host/a.svs?token=topsecret")
    with caplog.at_level(logging.INFO):
        logging.getLogger("x").info("%s %r", place, place)
    texts = [str(place), repr(place), f"{place:>50}", f"{[place]}", repr(copy.deepcopy(place)), caplog.text]
    texts += [str(place.parts), place.query, str(SlideError(place, "x")), str(TnetError(place.opened_whole()))]
    assert "secret" not in "".join(texts)
    with pytest.raises(TypeError):
        json.dumps(place)
    with pytest.raises(ValueError, match=r"^https://host/a\.svs: is an address"):
        Path(place)
    assert place.opened_whole() == pickle.loads(pickle.dumps(place)).opened_whole()  # noqa: S301  our own
    assert place.opened_whole() == "https://user:topsecret@host/a.svs?token=topsecret"


def test_an_address_is_the_same_when_it_is_signed_again_and_another_for_another_object():
    first = Place("https://u:p@host/a.svs?id=1&" + SIGNED.format("old"))
    assert first == Place("https://host/a.svs?id=1&" + SIGNED.format("new"))
    assert hash(first) == hash(Place("https://host/a.svs?id=1&" + SIGNED.format("new")))
    others = ["id=2", "id=1&part=2", "?id=1", "key=slides/a.svs", ""]
    places = {first, *(Place(f"https://host/a.svs?{query}") for query in others), Place("https://host/a.svs#1")}
    assert len(places) == len({str(place) for place in places}) == len(others) + 2
    assert first != str(first)


def test_how_long_something_holds_renews_only_with_a_signature():
    assert Place("https://host/a?expires=1") != Place("https://host/a?expires=2")
    assert Place("https://host/a?expires=1&sig=1") == Place("https://host/a?expires=2&sig=2")


def test_an_address_that_was_written_down_is_not_opened_as_another():
    written = Place(str(Place("https://host/a.svs?id=1&token=topsecret")))
    assert written == Place("https://host/a.svs?id=1&token=other")
    assert written.problem is not None
    assert "give the whole address" in written.problem
    assert Place("https://host/a.svs?id=1&token=topsecret").problem is None


def test_of_s3_and_gs_question_marks_belong_to_the_key():
    assert Place("s3://bucket/a?id=1") != Place("s3://bucket/a?id=2")
    assert Place("gs://bucket/a/b?.svs").parts == ("bucket", "a", "b?.svs")
    assert Place("s3://bucket/a?token=1") != Place("s3://bucket/a?token=2")
    assert Place("s3://bucket/a.tif?versionId=3").suffix == ".tif"
    assert Place("https://host/a.CSV?token=1").suffix == ".csv"


@pytest.mark.parametrize(
    ("sentence", "scrubs"),
    [
        ("oh (https://user:topsecret@host/x), then", "oh (https://host/x), then"),
        ("Max retries exceeded with url: /a/b?X-Amz-Signature=topsecret (x)", "?X-Amz-Signature="),
        ("cannot reach //user:topsecret@host/x", "//host/x"),
        ("/data/token=5/slide.svs: is gone", "/data/token=5/slide.svs: is gone"),
        ("a = b: no such option", "a = b: no such option"),
    ],
)
def test_a_sentence_of_a_library_is_scrubbed(sentence, scrubs):
    assert scrubs in scrubbed(sentence)
    assert "topsecret" not in scrubbed(sentence)


def test_paths_are_no_urls():
    assert redacted(Path("a/b.svs")) == "a/b.svs"
    texts = ("s3://b/k", "c:/slides/a.svs", "/a//b", "http:/a", "://a", "run:/a", "httpd:/a")
    assert [text for text in texts if is_url(text)] == ["s3://b/k", "http:/a"]
    assert Path(Place("a/what?.svs")) == Path("a/what?.svs")


PIECE = st.sampled_from([*"/?#@:\\ =&;'\"[]|.", "//", "%2F", "%40", "%3A", "é", "＠", "\t", "1"])
PUT_TOGETHER = [
    "{scheme}us3r:{secret}@{host}/a.svs",
    "{scheme}us3r:{secret}@{host}/a.svs?token={secret}",
    "{scheme}{host}/a.svs?X-Amz-Signature={secret}",
    "{scheme}{host}/a.svs?id=1&access_token={secret}#{secret}",
]


@given(
    st.sampled_from(PUT_TOGETHER),
    st.sampled_from(
        ["https://", "HTTPS://", "https:/", "https:", "https:\\\\", "http:///", "s3://", "gs://", "hf://", "x-y://"]
    ),
    st.sampled_from(["host", "h.org", "127.0.0.1:80", "[::1]", "localhost"]),
    st.tuples(PIECE, PIECE),
)
@settings(max_examples=500)
def test_no_secret_gets_out_whatever_its_letters(form, scheme, host, pieces):
    secret = "s3c".join(["s3c", *pieces, "s3c"])
    place = Place(form.format(scheme=scheme, host=host, secret=secret))
    shown = str(place)
    assert "s3c" not in shown
    assert str(Place(shown)) == shown
    assert "s3c" not in scrubbed(f"Invalid value for '--budget': {place.opened_whole()!r} is no number", place)
    assert "s3c" not in scrubbed(f"Got {place.opened_whole()} there", place)


@pytest.mark.parametrize("mark", ["?", "&", ";", "#", "%23"])
def test_a_secret_in_the_key_of_a_store_is_not_shown(mark):
    place = Place(f"s3://bucket/a?x=1{mark}X-Amz-Signature=topsecret")
    assert "topsecret" not in str(place)
    assert "topsecret" not in scrubbed(f"cannot open {place.opened_whole()}: gone")
    assert place != Place(f"s3://bucket/a?x=1{mark}X-Amz-Signature=other")
