"""``tnet info``: one description for each slide, and the exit codes."""

import json

import tifffile


def test_a_slide_is_described(tnet, made_slide):
    ran = tnet("info", made_slide)
    assert ran.code == 0
    lines = dict(line.split(": ", 1) for line in ran.out.splitlines())
    assert lines["reader"] == "tifffile"
    assert (lines["width"], lines["height"]) == ("6000", "6000")
    assert lines["mpp_source"] == "tiff resolution"
    assert lines["pyramid"] == "6000 x 6000, 1500 x 1500, 375 x 375"
    assert lines["associated_images"] == "none"


def test_json_gives_one_document_for_several_slides(tnet, made_slide, tmp_path):
    (tmp_path / "text.svs").write_text("this is no slide, only a line of text")
    ran = tnet("info", made_slide, "text.svs", "--json")
    assert ran.code == 6
    first, second = json.loads(ran.out)["slides"]
    assert (first["width"], first["mpp"], first["reader"]) == (6000, 0.5, "tifffile")
    assert list(second) == ["path", "error"]
    assert "1 of 2 slides failed: text.svs: " in ran.err


def test_every_slide_that_cannot_be_opened_is_named(tnet, tmp_path):
    for number in range(7):
        (tmp_path / f"{number}.svs").write_text("this is no slide, only a line of text")
    ran = tnet("info", *(f"{number}.svs" for number in range(7)))
    assert ran.code == 6
    assert "7 of 7 slides failed: " in ran.err
    assert all(f"{number}.svs: " in ran.err for number in range(7))


def test_a_slide_that_is_not_there(tnet):
    ran = tnet("info", "gone.svs")
    assert (ran.code, ran.err) == (3, "tnet: gone.svs: no such file\n")


def test_a_reader_can_be_forced(tnet, made_slide):
    assert "reader: openslide" in tnet("info", made_slide, "--reader", "openslide").out
    refused = tnet("info", made_slide, "--reader", "crystal-ball")
    assert (refused.code, "expected one of openslide, tifffile, pillow" in refused.err) == (2, True)


def test_damage_is_told_in_one_line(tnet, made_slide, untrained_model, tmp_path):
    whole = made_slide.read_bytes()
    (tmp_path / "cut.tif").write_bytes(whole[:400_000])
    spoilt = bytearray(whole)
    with tifffile.TiffFile(made_slide) as file:
        for page in file.pages:
            for start, length in zip(page.dataoffsets, page.databytecounts, strict=True):
                spoilt[start : start + length] = bytes(length)
    (tmp_path / "spoilt.tif").write_bytes(spoilt)
    for name, problem in (("cut", "is cut off"), ("spoilt", "the tile at ")):
        ran = tnet("classify", f"{name}.tif", "-m", untrained_model, "-o", name)
        assert ran.code == 3
        said = ran.err.splitlines()
        assert said[-1].startswith(f"tnet: {name}.tif: {problem}"), said[-1]
        assert not any("TiffPage" in line or "Traceback" in line for line in said)
