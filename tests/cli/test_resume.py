"""``tnet classify`` again in the same folder: what is done is skipped, what is not is made, nothing is mixed."""

import csv
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.fixture(scope="module")
def small(drawn_slide):
    return drawn_slide()


@pytest.fixture
def three(small: Path, tmp_path: Path) -> list[str]:
    (tmp_path / "in").mkdir()
    names = ["in/a.tif", "in/b.tif", "in/c.tif"]
    for name in names:
        shutil.copy(small, tmp_path / name)
    return names


def table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def rows_without_times(out: Path) -> list[dict[str, str]]:
    return [{key: value for key, value in row.items() if key != "seconds"} for row in table(out / "predictions.csv")]


def changed_times(out: Path) -> dict[str, int]:
    return {path.parent.name: path.stat().st_mtime_ns for path in out.glob("slides/*/result.json")}


def test_what_is_done_is_skipped_and_the_rows_are_the_same(tnet, three, untrained_model, tmp_path):
    command = ["classify", *three, "-m", untrained_model, "--no-overlay"]
    assert tnet(*command).code == 0
    before = (tmp_path / "tnet-out" / "predictions.csv").read_bytes()
    times = changed_times(tmp_path / "tnet-out")
    again = tnet(*command, "-b", "3", "-j", "1", "--slide-timeout", "60")
    assert again.code == 0
    assert "3 of 3 slides were done before and have not changed; they were skipped" in again.err
    assert again.out.count("\n") == 3
    assert (tmp_path / "tnet-out" / "predictions.csv").read_bytes() == before
    assert changed_times(tmp_path / "tnet-out") == times


def test_a_slide_that_changed_or_lost_its_results_is_done_again(tnet, three, untrained_model, tmp_path):
    command = ["classify", *three, "-m", untrained_model, "--no-overlay"]
    assert tnet(*command).code == 0
    rows, times = rows_without_times(tmp_path / "tnet-out"), changed_times(tmp_path / "tnet-out")
    os.utime(tmp_path / three[0])
    shutil.rmtree(tmp_path / "tnet-out" / "slides" / "c")
    again = tnet(*command)
    assert "1 of 3 slides were done before" in again.err
    after = changed_times(tmp_path / "tnet-out")
    assert sorted(name for name in times if after[name] != times[name]) == ["a", "c"]
    assert rows_without_times(tmp_path / "tnet-out") == rows


def test_more_slides_join_in_their_order_and_overlays_are_made_up_for(tnet, three, untrained_model, tmp_path):
    assert tnet("classify", three[1], "-m", untrained_model, "--no-overlay").code == 0
    more = tnet("classify", *three, "-m", untrained_model, "--no-overlay")
    assert "1 of 3 slides were done before" in more.err
    assert [row["slide"] for row in rows_without_times(tmp_path / "tnet-out")] == ["a", "b", "c"]
    drawn = tnet("classify", *three, "-m", untrained_model)
    assert "done before" not in drawn.err
    assert (tmp_path / "tnet-out" / "slides" / "b" / "overlay.png").is_file()
    assert "3 of 3 slides were done before" in tnet("classify", *three, "-m", untrained_model, "--no-overlay").err
    assert (tmp_path / "tnet-out" / "slides" / "b" / "overlay.png").is_file()


def test_other_options_are_refused_unless_all_is_to_be_done_again(tnet, three, untrained_model, tmp_path):
    command = ["classify", *three, "-m", untrained_model, "--no-overlay"]
    assert tnet(*command).code == 0
    before = (tmp_path / "tnet-out" / "predictions.csv").read_bytes()
    refused = tnet(*command, "--locations", "1,1,1")
    assert refused.code == 2
    assert "holds results made with --locations 2,3,4 instead of 1,1,1" in refused.err
    assert "--overwrite" in refused.err
    other_model = tnet("classify", *three, "--no-overlay")
    assert (other_model.code, "another model" in other_model.err) == (2, True)
    assert (tmp_path / "tnet-out" / "predictions.csv").read_bytes() == before
    redone = tnet(*command, "--locations", "1,1,1", "--overwrite")
    assert redone.code == 0
    assert "skipped" not in redone.err
    assert {row["locations"] for row in rows_without_times(tmp_path / "tnet-out")} == {"3"}


def test_failures_are_tried_again_and_their_table_is_a_manifest(tnet, three, untrained_model, tmp_path):
    command = ["classify", *three, "-m", untrained_model, "--no-overlay"]
    good = (tmp_path / three[1]).read_bytes()
    (tmp_path / three[1]).write_bytes(b"II*\0 nothing more")
    (tmp_path / three[2]).unlink()
    first = tnet(*command)
    assert first.code == 6
    out = tmp_path / "tnet-out"
    failures = table(out / "failures.csv")
    assert [row["slide"] for row in failures] == [str(tmp_path / three[1]), str(tmp_path / three[2])]
    assert all(row["error"].startswith(f"in/{row['slide'][-5:]}: ") for row in failures)
    assert "no such file" in failures[1]["error"]

    (tmp_path / three[1]).write_bytes(good)
    as_manifest = tnet("classify", out / "failures.csv", "-m", untrained_model, "--no-overlay", "-o", "again")
    assert as_manifest.code == 6
    assert [row["status"] for row in rows_without_times(tmp_path / "again")] == ["ok", "failed"]

    second = tnet(*command)
    assert "1 of 3 slides were done before" in second.err
    assert [row["status"] for row in rows_without_times(out)] == ["ok", "ok", "failed"]
    (tmp_path / three[2]).write_bytes(good)
    assert tnet(*command).code == 0
    assert table(out / "failures.csv") == []


def test_failures_alone_do_not_bind_a_folder_to_their_options(tnet, untrained_model, tmp_path):
    (tmp_path / "a.tif").write_bytes(b"II*\0 nothing more")
    assert tnet("classify", "a.tif", "-m", untrained_model).code == 3
    assert tnet("classify", "a.tif", "-m", untrained_model, "--mpp", "0.5").code == 3
    assert tnet("classify", "gone.tif", "-m", untrained_model, "--mpp", "0.5").code == 3
    assert [row["slide"] for row in rows_without_times(tmp_path / "tnet-out")] == ["gone"]


HOLD_LOCK = """
import sys
from pathlib import Path
from tnet_cli.results.layout import RunDirectory
from tnet_cli.results.lock import locked
with locked(RunDirectory(Path(sys.argv[1]))):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_two_runs_in_one_folder_are_refused_and_a_killed_one_holds_nothing(tnet, three, untrained_model, tmp_path):
    command = ["classify", *three, "-m", untrained_model, "--no-overlay"]
    (tmp_path / "tnet-out" / ".tnet").mkdir(parents=True)
    holder_file = tmp_path / "tnet-out" / ".tnet" / "holder.json"
    with subprocess.Popen(
        [sys.executable, "-c", HOLD_LOCK, "tnet-out"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        refused = tnet(*command)
        assert refused.code == 2
        held = json.loads(holder_file.read_text())
        assert held["process"] == holder.pid
        assert f"another run is writing there (process {holder.pid} on {held['host']}" in refused.err
        assert not (tmp_path / "tnet-out" / "predictions.csv").exists()
        holder.kill()
    assert tnet(*command).code == 0


def test_an_output_folder_that_cannot_be_made_is_wrong_usage(tnet, three, untrained_model, tmp_path):
    (tmp_path / "file").touch()
    ran = tnet("classify", *three, "-m", untrained_model, "-o", "file/out")
    assert ran.code == 2
    assert "file/out: cannot be written" in ran.err
