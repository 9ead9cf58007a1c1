"""The page of a run: everything is there, everything is escaped, and nothing is asked of a network."""

import base64
import hashlib
import re
from html.parser import HTMLParser
from importlib.resources import files

import pytest

from tnet_cli.report.page import (
    BINS,
    PLOT_HEIGHT,
    SERVED_MARK,
    PageCard,
    PageRow,
    RunPage,
    histograms,
    render_page,
)
from tnet_cli.report.templates import asset_text, visible

HOSTILE = """</script><script>alert(1)</script><img src=x onerror=alert(2)>"'`&{{ 7*7 }}\u202egnp"""


class Reader(HTMLParser):
    """What a browser would find in the page: elements with their attributes, and the text of the table's cells."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.rows: list[list[str]] = []
        self._is_cell = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
            self._is_cell = True

    def handle_endtag(self, tag: str) -> None:
        if tag in ("td", "th"):
            self._is_cell = False

    def handle_data(self, data: str) -> None:
        if self._is_cell:
            self.rows[-1][-1] += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


def ok(name: str, prediction: str | None = "lesion", probability: float = 0.9, **more: object) -> PageRow:
    values: dict[str, object] = {
        "slide": name,
        "path": f"in/{name}.svs",
        "status": "ok",
        "prediction": prediction,
        "probability": probability,
        "probabilities": ((prediction or "lesion", probability),),
        "fraction_read": 0.0123,
        "locations": 36,
        "mpp": 0.25,
        "mpp_source": "aperio.MPP",
        "reader": "tifffile",
        "seconds": 2.345,
    }
    return PageRow(**(values | more))  # type: ignore[arg-type]


def failed(name: str) -> PageRow:
    return PageRow(
        slide=name, path=f"in/{name}.svs", status="failed", error=f"in/{name}.svs: is empty; expected a slide"
    )


def test_failures_come_first_then_slides_without_tissue_then_the_others_in_their_order():
    rows = [ok("a"), failed("b"), ok("c"), PageRow(slide="d", path="d", status="no_tissue"), failed("e")]
    page = Reader(render_page(RunPage(title="out", rows=rows, class_names=("benign", "lesion"))))
    head, *body = page.rows
    assert head == [
        *("Slide", "Status", "Label", "Probability", "Read", "Locations", "µm/px", "Reader", "Seconds"),
        "Error, or why there is no answer",
    ]
    assert [attributes["data-n"] for attributes in page.all("tr")[1:]] == ["2", "5", "4", "1", "3"]
    assert [row[1] for row in body] == ["failed", "failed", "no tissue", "ok", "ok"]
    assert body[3][1:] == ["ok", "lesion", "0.900", "1.2 %", "36", "0.25", "tifffile", "2.3", ""]
    # The path stands in the row already.
    assert body[0][-1] == "is empty; expected a slide"
    (sorted_by,) = [head["class"] for head in page.all("th") if "aria-sort" in head]
    assert sorted_by == "c-status"


def test_the_filter_of_labels_counts_the_rows_that_show_one_and_the_head_the_answers_that_count():
    rows = [ok("a"), ok("b", status="abstained"), ok("c", prediction=None, status="abstained")]
    text = render_page(RunPage(title="out", rows=rows, class_names=("benign", "lesion")))
    assert re.findall(r">(benign|lesion) \((\d)\)</option>", text) == [("benign", "0"), ("lesion", "2")]
    assert "called <bdi>benign</bdi> 0, <bdi>lesion</bdi> 1</p>" in text


def test_nothing_hostile_becomes_markup():
    card = PageCard(name=HOSTILE, summary=HOSTILE, intended_use=HOSTILE, limits=(HOSTILE,), facts=((HOSTILE, HOSTILE),))
    rows = [
        ok(HOSTILE, prediction=HOSTILE, path=HOSTILE, overlay=f"slides/{HOSTILE}/overlay.png", reasons=(HOSTILE,)),
        PageRow(slide=HOSTILE, path=HOSTILE, status=HOSTILE, error=HOSTILE, reader=HOSTILE, mpp_source=HOSTILE, mpp=1),
    ]
    text = render_page(
        RunPage(
            title=HOSTILE, rows=rows, class_names=(HOSTILE,), card=card, facts=((HOSTILE, HOSTILE),), notices=(HOSTILE,)
        )
    )
    harmless = Reader(render_page(RunPage(title="t", rows=[])))
    page = Reader(text)
    assert len(page.all("script")) == len(harmless.all("script")) == 1
    assert page.all("img") == harmless.all("img")
    assert [name for _, attributes in page.elements for name in attributes if name.startswith("on")] == []
    assert "alert(1)" in page.rows[1][0]
    assert "49" not in page.rows[1][0]
    assert "\u202e" not in text
    (link,) = [a for a in page.all("a") if a.get("class", "").startswith("overlay")]  # type: ignore[union-attr]
    assert re.fullmatch(r"slides/[A-Za-z0-9%/._~-]+/overlay\.png", link["href"] or "")


def test_the_policy_admits_the_page_s_own_script_and_style_and_nothing_from_a_network():
    text = render_page(RunPage(title="out", rows=[ok("a")]))
    page = Reader(text)
    (policy,) = [m["content"] for m in page.all("meta") if m.get("http-equiv") == "Content-Security-Policy"]
    assert policy is not None
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    for kind in ("script", "style"):
        (inside,) = re.findall(rf"<{kind}>(.*?)</{kind}>", text, flags=re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(inside.encode()).digest()).decode()
        assert rules[f"{kind}-src"] == f"'sha256-{digest}'"
    assert rules["default-src"] == "'none'"
    assert rules["img-src"] == "data: 'self' file:"
    addresses = [value for _, a in page.elements for name, value in a.items() if name in ("src", "href", "action")]
    assert [address for address in addresses if re.match(r"(?:[a-z]+:)?//|https?:", address or "")] == []
    assert "url(" not in asset_text("report.css")
    assert "@import" not in asset_text("report.css")
    # An inline style would be refused by the policy, and leave the page undressed.
    assert [name for _, attributes in page.elements for name in attributes if name == "style"] == []


def test_the_page_says_where_a_viewer_may_put_its_address():
    assert render_page(RunPage(title="out", rows=[])).count(SERVED_MARK) == 1


def test_thumbnails_are_small_pictures_in_the_page_that_link_to_the_overlay():
    row = ok("a", overlay="slides/a b/overlay.png", thumbnail=b"RIFF+/\xff", thumbnail_size=(120, 80))
    page = Reader(render_page(RunPage(title="out", rows=[row])))
    (picture,) = [image for image in page.all("img") if image.get("width")]
    assert picture["src"] == "data:image/webp;base64," + base64.b64encode(b"RIFF+/\xff").decode()
    # Not loaded lazily: a page that is printed must have the pictures nobody has scrolled to.
    assert (picture["width"], picture["height"], picture["decoding"]) == ("120", "80", "async")
    assert "loading" not in picture
    assert "slides/a%20b/overlay.png" in [link.get("href") for link in page.all("a")]


def test_the_card_is_told_whole():
    card = PageCard(
        name="m",
        summary="Tells a from b.",
        intended_use="For research.",
        limits=("Not for c.",),
        facts=(("licence", "Apache-2.0"), ("SHA-256", "0" * 64)),
        training_data=("Pool (CC0).",),
        metrics={"accuracy": {"value": 0.98765, "Wilson": [0.9, 0.99]}},
    )
    text = render_page(RunPage(title="out", rows=[], card=card))
    expected = (
        *("Tells a from b.", "Not for c.", "Apache-2.0", "0" * 64, "Pool (CC0).", "value: 0.9877"),
        "Wilson: 0.9, 0.99",
    )
    for part in expected:
        assert part in text
    assert text.count("For research.") == 2


def test_a_page_without_rows_or_card_is_a_page():
    page = Reader(render_page(RunPage(title="", rows=[])))
    assert len(page.rows) == 1
    assert page.all("svg") == []


def test_histograms_count_the_called_class_s_probability():
    calls = [("b", 0.5), ("b", 0.52), ("b", 1.0), ("a", 0.999), ("other", 0.0)]
    by_class = {plot.class_name: plot for plot in histograms(calls, ("a", "b"))}
    assert list(by_class) == ["a", "b", "other"]
    assert [bar.text for bar in by_class["b"].bars] == ["0.50 to 0.55: 2 slides", "0.95 to 1.00: 1 slide"]
    # All classes share one scale, so that bars of two classes can be compared.
    assert {plot.highest for plot in by_class.values()} == {2}
    assert [bar.height for bar in by_class["b"].bars] == [PLOT_HEIGHT, PLOT_HEIGHT / 2]
    assert by_class["a"].bars[0].x == pytest.approx(300 * (BINS - 1) / BINS + 0.5)


def test_names_are_shown_without_what_would_hide_or_reorder_them():
    assert visible("cat\u202egnp.svs") == "cat�gnp.svs"
    assert visible("a\nb\x00c\ud800") == "a b�c�"
    assert visible("naïve–Ünïcode 中文") == "naïve–Ünïcode 中文"


def test_openseadragon_is_the_pinned_one_and_brings_its_licence():
    folder = files("tnet_cli.report") / "assets" / "openseadragon"
    digest = hashlib.sha256(folder.joinpath("openseadragon.min.js").read_bytes()).hexdigest()
    assert digest in folder.joinpath("PINNED.txt").read_text()
    assert "Redistribution and use in source and binary forms" in folder.joinpath("LICENSE.txt").read_text()
