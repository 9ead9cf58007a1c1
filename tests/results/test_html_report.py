"""``report.html`` from what lies on disk: finished runs, cut-off runs, damaged files, names that lead astray."""

import csv
import hashlib
import json
import os
import re
import sys
from collections.abc import Callable
from dataclasses import replace
from datetime import date
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import save_file

from tests.full_disk import files_end_at
from tests.results.runs_made_by_hand import RECORD, done, failed_result
from tnet_cli.errors import TnetError, UsageError
from tnet_cli.geometry import Region, Size
from tnet_cli.inputs.names import OVERLAY
from tnet_cli.model.config import TNetConfig
from tnet_cli.modelfile.card import CARD_KEY, ModelCard
from tnet_cli.report.attended import AttendedRegion
from tnet_cli.report.overlay import PANEL_KEY, OverlaySubject, draw_overlay
from tnet_cli.report.thumbnail import THUMBNAIL_KEY, THUMBNAIL_PX, overlay_file, thumbnail_in
from tnet_cli.results import html_report
from tnet_cli.results.html_report import report_text, write_report
from tnet_cli.results.layout import RunDirectory
from tnet_cli.results.reader import read_run
from tnet_cli.results.result import prediction_columns


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., RunDirectory]:
    """Write a run of three slides: done with an overlay, failed, done without one."""

    def write(*, record: dict[str, Any] | None = RECORD) -> RunDirectory:
        directory = RunDirectory(tmp_path / "out")
        results = [done("a"), failed_result("b"), done("c")]
        directory.write_slide(results[0], {OVERLAY: overlay_file(overlay())})
        directory.write_slide(results[1], {})
        directory.write_slide(results[2], {})
        directory.write_predictions([result.row() for result in results], ("benign", "lesion"))
        if record is not None:
            directory.write_run(record)
        return directory

    return write


@pytest.fixture
def small_model_file(tmp_path: Path) -> tuple[Path, str, ModelCard]:
    """Write a file with a model's card and one number; return its path, digest and card."""
    card = ModelCard(
        name="small",
        summary="One number.",
        intended_use="For tests.",
        limits=("It knows nothing of slides.",),
        licence="CC0-1.0",
        created=date(2026, 1, 1),
        package_version="0",
        network=TNetConfig.slide(("benign", "lesion")),
    )
    path = tmp_path / "small.safetensors"
    save_file({"x": np.zeros(1, np.float32)}, path, metadata={CARD_KEY: card.model_dump_json()})
    return path, hashlib.sha256(path.read_bytes()).hexdigest(), card


def overlay() -> Image.Image:
    """Draw an overlay whose slide is blue."""
    subject = OverlaySubject(
        slide_name="a",
        slide_size=Size(4000, 3000),
        mpp=0.5,
        class_names=("benign", "lesion"),
        probabilities=(0.1, 0.9),
        prediction="lesion",
        model_name="m",
        intended_use="For tests.",
        location_count=1,
        fraction_read=0.01,
        seconds=1.0,
    )
    thumbnail = np.full((300, 400, 3), (20, 40, 220), np.uint8)
    root = AttendedRegion(Region(0, 0, 4000, 3000), 0, 8.0, 1.0, 1.0, 1.0, (0.1, 0.9), is_location=False)
    return draw_overlay(thumbnail, subject, [root], [])


def test_the_page_tells_of_every_slide_and_embeds_the_overlays_slide(run):
    directory = run()
    target = write_report(directory.path)
    text = target.read_text(encoding="utf-8")
    assert target == directory.path / "report.html"
    assert re.findall(r'<bdi class="name">(.*?)</bdi>', text) == ["b", "a", "c"]
    assert 'href="slides/a/overlay.png"' in text
    assert text.count("data:image/webp;base64,") == 1
    assert "no such file" in text
    assert "skipped processing level 1" not in text  # a remark that doubts nothing
    assert "has not ended" not in text
    assert ("options: batch size", "16") in re.findall(r"<dt>(.*?)</dt><dd>(.*?)</dd>", text)


def test_the_thumbnail_is_the_slide_on_the_overlay_and_is_not_decoded_from_it(run):
    path = run().path / "slides" / "a" / "overlay.png"
    with Image.open(path) as page:
        data, size = thumbnail_in(page, THUMBNAIL_PX)
        assert page.info[THUMBNAIL_KEY]
        with Image.open(BytesIO(data)) as thumbnail:
            assert thumbnail.format == "WEBP"
            assert thumbnail.size == size == (144, 108)
            middle = np.asarray(thumbnail.convert("RGB"))[20:-20, 20:-20].reshape(-1, 3).mean(axis=0)
    assert middle[2] > 150
    assert middle[:2].max() < 90
    # A file cut off in its pixels still shows its thumbnail, since that stands before them.
    path.write_bytes(path.read_bytes()[:9000])
    assert report_text(read_run(path.parents[2])).count("data:image/webp") == 1


def test_an_overlay_says_exactly_where_its_slide_is():
    page = overlay()
    left, top, right, bottom = page.info[PANEL_KEY]
    inside = np.asarray(page)[top:bottom, left:right]
    assert (inside[..., 2] > 100).mean() > 0.98
    assert (right - left) / (bottom - top) == pytest.approx(4 / 3, rel=0.01)


def test_an_overlay_of_another_version_shows_its_top(tmp_path):
    plain = Image.new("RGB", (1600, 3000), (10, 200, 10))
    plain.paste((200, 10, 10), (0, 1600, 1600, 3000))
    plain.save(tmp_path / "overlay.png")
    with Image.open(tmp_path / "overlay.png") as page:
        data, size = thumbnail_in(page, 64)
    assert size == (64, 64)
    with Image.open(BytesIO(data)) as thumbnail:
        assert np.asarray(thumbnail.convert("RGB"))[..., 1].min() > 150


def test_a_run_cut_off_before_its_end_shows_what_was_finished(run):
    directory = run(record=None)
    (directory.path / "predictions.csv").unlink()
    text = report_text(read_run(directory.path))
    assert "has not ended" in text
    assert sorted(re.findall(r'<bdi class="name">(.*?)</bdi>', text)) == ["a", "b", "c"]
    assert '<h2 id="sure">' in text


def test_slides_without_a_row_come_after_those_with_one(run):
    directory = run()
    directory.write_slide(done("deep/er/d"), {})
    slides = read_run(directory.path).slides
    assert [slide.slide for slide in slides] == ["a", "b", "c", "deep/er/d"]
    assert slides[-1].number("probability") == 0.9


@pytest.mark.parametrize("name", ["run.json", "slides/a/result.json", "slides/a/overlay.png", "predictions.csv"])
@pytest.mark.parametrize("damage", [b"", b"{", b"\xff\x00\x89PNG", b"[1, 2]", b'"' * 10])
def test_damaged_files_cost_no_more_than_what_they_said(run, name, damage):
    directory = run()
    (directory.path / name).write_bytes(damage)
    text = report_text(read_run(directory.path))
    assert {"b", "c"} <= set(re.findall(r'<bdi class="name">(.*?)</bdi>', text))


def test_numbers_that_are_none_are_left_out(run):
    directory = run()
    rows = [dict.fromkeys(prediction_columns(("x",)), value) for value in ("nan", "inf", "-", "1e999", "")]
    with (directory.path / "predictions.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, prediction_columns(("x",)))
        writer.writeheader()
        writer.writerows(rows)
    slides = read_run(directory.path).slides[:5]
    assert [slide.number("probability") for slide in slides] == [None] * 5
    assert report_text(read_run(directory.path)).count('<td role="cell" class="c-probability" data-v=""') >= 5


@pytest.mark.parametrize("name", ["../../secret", "/etc", "a/../../..", ".."])
def test_a_slide_s_name_does_not_lead_out_of_the_run(run, tmp_path, name):
    directory = run()
    (tmp_path / "secret").mkdir()
    overlay().save(tmp_path / "secret" / "overlay.png")
    with (directory.path / "predictions.csv").open("a", newline="") as file:
        csv.writer(file).writerow([name, "in/x.svs", "ok"])
    (record,) = [slide for slide in read_run(directory.path).slides if slide.slide == name]
    assert record.folder is None
    assert record.overlay is None


def test_a_link_out_of_the_run_is_not_followed(run, tmp_path):
    directory = run()
    (tmp_path / "secret").mkdir()
    overlay().save(tmp_path / "secret" / "overlay.png")
    (directory.path / "slides" / "out").symlink_to(tmp_path / "secret")
    with (directory.path / "predictions.csv").open("a", newline="") as file:
        csv.writer(file).writerow(["out", "in/x.svs", "ok"])
    assert next(slide for slide in read_run(directory.path).slides if slide.slide == "out").overlay is None


def test_the_card_comes_from_the_model_file_while_it_is_the_same(run, tmp_path, small_model_file):
    path, digest, card = small_model_file
    model = {"name": card.name, "path": str(path), "sha256": digest}
    directory = run(record=RECORD | {"model": model})
    text = report_text(read_run(directory.path))
    assert card.limits[0] in text
    assert card.licence in text
    assert digest in text

    changed = run(record=RECORD | {"model": model | {"sha256": "0" * 64}})
    assert "another model file by now" in report_text(read_run(changed.path))
    path.unlink()
    gone = report_text(read_run(directory.path))
    assert "not there any more" in gone
    assert "For tests." in gone


def test_the_card_in_the_record_is_preferred(run, small_model_file):
    _, _, card = small_model_file
    model = {"name": "m", "path": "/gone", "sha256": "0" * 64, "card": card.model_dump(mode="json")}
    text = report_text(read_run(run(record=RECORD | {"model": model}).path))
    assert card.limits[0] in text
    assert "not there any more" not in text


def test_the_page_of_thousands_stays_small(run, monkeypatch):
    directory = run()
    a = directory.path / "slides" / "a"
    rows = [done(f"s{number}") for number in range(40)]
    for row in rows:
        folder = directory.slide_folder(row.slide)
        folder.mkdir()
        os.link(a / "overlay.png", folder / "overlay.png")
    directory.write_predictions([row.row() for row in rows], ("benign", "lesion"))
    monkeypatch.setattr(html_report, "MANY", 39)
    small = report_text(read_run(directory.path))
    assert small.count("data:image/webp") == 41
    assert 'width="64"' in small
    monkeypatch.setattr(html_report, "THUMBNAILS_BYTES", 2000)
    text = report_text(read_run(directory.path))
    assert 0 < text.count("data:image/webp") < 41
    assert text.count('class="overlay') == 41


def test_the_page_is_written_whole_or_not_at_all(run):
    directory = run()
    before = write_report(directory.path).read_bytes()
    names = sorted(entry.name for entry in directory.path.iterdir())
    with (
        files_end_at(len(before) // 2),
        pytest.raises(TnetError, match=r"report\.html: cannot be written: File too large"),
    ):
        write_report(directory.path)
    assert (directory.path / "report.html").read_bytes() == before
    assert sorted(entry.name for entry in directory.path.iterdir()) == names


def test_the_page_takes_work_in_proportion_to_its_rows(tmp_path):
    def calls(rows: int) -> int:
        directory = RunDirectory(tmp_path / str(rows))
        picture = overlay_file(overlay())
        results = [replace(done(f"folder/s{number}"), status="abstained") for number in range(rows)]
        for result in results:
            folder = directory.slide_folder(result.slide)
            folder.mkdir(parents=True)
            (folder / "result.json").write_text('{"checks": [{"failed": true, "sentence": "a reason"}]}')
            (folder / "overlay.png").write_bytes(picture)
        directory.write_predictions([result.row() for result in results], ("benign", "lesion"))
        directory.write_run(RECORD)
        made = 0

        def count(_frame: object, _event: str, _argument: object) -> None:
            nonlocal made
            made += 1

        sys.setprofile(count)
        try:
            text = report_text(read_run(directory.path))
        finally:
            sys.setprofile(None)
        assert text.count("A reason.") == rows
        return made

    calls(10)
    assert calls(1200) < 4.4 * calls(300)


def test_a_folder_without_a_run_is_refused(tmp_path):
    with pytest.raises(UsageError, match="holds no run"):
        read_run(tmp_path)
    with pytest.raises(UsageError, match="is not a folder"):
        read_run(tmp_path / "none")


def test_a_name_that_is_no_valid_text_does_not_lose_the_page(run):
    directory = run()
    record = json.loads((directory.path / "slides" / "c" / "result.json").read_text())
    (directory.path / "slides" / "e").mkdir()
    (directory.path / "slides" / "e" / "result.json").write_text(json.dumps(record | {"path": "in/\udce9.svs"}))
    assert "in/�.svs" in write_report(directory.path).read_text(encoding="utf-8")


@pytest.mark.timeout(60)
@pytest.mark.parametrize("name", ["slides/a/result.json", "slides/a/overlay.png", "predictions.csv", "run.json"])
def test_a_pipe_in_place_of_a_file_is_left_out(run: Callable[..., RunDirectory], name: str):
    directory = run()
    (directory.path / name).unlink()
    os.mkfifo(directory.path / name)
    page = report_text(read_run(directory.path))
    assert "<html" in page
    assert {slide.slide for slide in read_run(directory.path).slides} >= {"b", "c"}
