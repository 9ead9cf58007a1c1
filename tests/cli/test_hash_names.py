"""``tnet classify --hash-names`` and ``tnet names``: nothing written tells whose slides they are, and the key does."""

import csv
import io
import json
import shutil

from tests.drawn_regions import drawn, write_regions
from tnet_cli.geometry import Region

NAMES = (b"Jane", b"Doe", b"Smith", b"P-17")


def test_nothing_that_is_written_has_a_name_and_the_key_brings_them_back(tnet, drawn_slide, untrained_model, tmp_path):
    folder = tmp_path / "slides of Smith"
    folder.mkdir()
    shutil.copy(drawn_slide(), folder / "Jane Doe.tif")
    (folder / "broken Doe.svs").write_bytes(b"nothing")
    write_regions(
        folder / "Jane Doe.geojson",
        drawn(Region(300, 300, 600, 600), name="of Jane"),
        drawn(Region(99_000, 0, 9, 9), name="of Doe"),
    )
    manifest = folder / "Smith.csv"
    manifest.write_text("slide,patient,roi\nJane Doe.tif,P-17,Jane Doe.geojson\nbroken Doe.svs,P-17,\n")
    (tmp_path / "key").write_text("0123456789abcdef0123456789abcdef\n")
    command = ("classify", manifest, "-m", untrained_model, "--per-roi", "--hash-names", "key", "-o", "out")
    ran = tnet(*command)
    assert ran.code == 6
    written = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert {path.name for path in written} >= {
        "overlay.png",
        "result.json",
        "ledger.jsonl",
        "report.html",
        "patients.csv",
    }
    for path in written:
        assert not [
            name for name in NAMES if name in path.read_bytes() or name in str(path.relative_to(tmp_path)).encode()
        ]
    assert not [name for name in NAMES if name.decode() in ran.out + ran.err]
    with (tmp_path / "out/predictions.csv").open(newline="") as file:
        hashed = list(csv.DictReader(file))
    assert [row["slide"].partition("#")[2] for row in hashed] == ["1", "2", ""]
    assert json.loads((tmp_path / "out/run.json").read_text())["options"]["hash_names"] is True
    # What is done is known again.
    assert "1 of 3 slides were done before" in tnet(*command).err

    back = tnet("names", "out", manifest, "--hash-names", "key")
    assert back.code == 0
    rows = list(csv.DictReader(io.StringIO(back.out)))
    assert [row["slide"] for row in rows] == ["Jane Doe#1", "Jane Doe#2", "broken Doe"]
    assert {row["path"] for row in rows[:2]} == {str(folder / "Jane Doe.tif")}
    assert rows[2]["error"].startswith(f"{folder / 'broken Doe.svs'}: ")
    assert rows[0]["prob_yes"] == hashed[0]["prob_yes"]

    (tmp_path / "other").write_text("another key of enough bytes")
    lost = tnet("names", "out", manifest, "--hash-names", "other")
    assert "3 of 3 rows are of slides that are not among these inputs, or of another key" in lost.err


def test_without_a_key_nothing_is_done(tnet, drawn_slide, untrained_model, tmp_path):
    ran = tnet("classify", drawn_slide(), "-m", untrained_model, "--hash-names", "gone")
    assert ran.code == 2
    assert "--hash-names gone: cannot be read: No such file or directory; make a key with" in ran.err
    assert not (tmp_path / "gone").exists()
    assert not (tmp_path / "tnet-out").exists()
    assert tnet("names", "out", "a.svs").code == 2
