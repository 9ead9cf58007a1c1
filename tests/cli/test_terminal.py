"""What reaches a terminal: text, and nothing that it would obey."""

import csv
import io
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.model_files import save_random
from tnet_cli.cli.terminal import slide_progress
from tnet_cli.errors import holds_controls, printable
from tnet_cli.files import table_text
from tnet_cli.inputs.names import safe_name
from tnet_cli.model.config import TNetConfig
from tnet_cli.modelfile.card import ModelCard, TrainingData

HOSTILE = "a\x1b]0;owned\x07\x1b[2J\x9b31m\u202egnp\u2028\x7f[red]:smile:.svs"
CONTROLS = [chr(code) for code in (*range(0x20), *range(0x7F, 0xA0), *range(0x202A, 0x202F), *range(0x2066, 0x206A))]


def test_every_control_character_is_written_out():
    for control in [*CONTROLS, "\u2028", "\u2029", "\u200e", "\ud800"]:
        assert holds_controls(f"a{control}")
        assert printable(f"a{control}b") == f"a\\u{ord(control):04x}b"
    assert printable("größe µm 组织 ا [red] \\") == "größe µm 组织 ا [red] \\"
    assert printable("a\nb\r", keep="\n") == "a\nb\\u000d"


@pytest.mark.parametrize(
    "arguments",
    [
        ("info", HOSTILE),
        ("info", HOSTILE, "--json"),
        ("classify", HOSTILE, "-m", f"{HOSTILE}.safetensors"),
        ("train", f"{HOSTILE}.csv", "-o", HOSTILE),
        ("classify", "a.svs", f"--{HOSTILE}"),
        ("synth", HOSTILE, HOSTILE, "--count", "1"),
        (HOSTILE,),
        ("models", "show", HOSTILE),
        ("classify", "a.svs", "-o", "x", "--locations", HOSTILE),
        ("view", HOSTILE),
    ],
    ids=lambda arguments: " ".join("HOSTILE" if HOSTILE in each else each for each in arguments),
)
def test_nothing_of_what_was_given_is_obeyed(arguments, tnet):
    ran = tnet(*arguments)
    assert ran.code != 0
    assert not holds_controls(ran.out + ran.err, allowed="\n")


def test_a_slide_of_a_hostile_name_is_classified_and_named_as_it_is(noise_slide, untrained_model, tmp_path, tnet):
    name = f"{HOSTILE}.tif"
    shutil.copy(noise_slide, tmp_path / name)
    ran = tnet("classify", tmp_path / name, "-m", untrained_model, "--mpp", "1", "--no-overlay", "--json")
    assert not holds_controls(ran.out + ran.err, allowed="\n")
    assert json.loads(ran.out)["slides"][0]["path"] == str(tmp_path / name)
    with (tmp_path / "tnet-out" / "predictions.csv").open(newline="") as file:
        assert next(csv.DictReader(file))["path"] == str(tmp_path / name)


def test_notes_above_a_bar_are_text(capsys):
    with slide_progress() as progress:
        progress.start(1, HOSTILE)
        progress.note(HOSTILE)
    said = capsys.readouterr().err
    assert said.count(printable(HOSTILE)) == 2


def card(**said: object) -> ModelCard:
    network = TNetConfig.slide(("no", "yes"))
    texts = {"name": "a", "summary": "s", "intended_use": "u", "licence": "MIT", "created": "2026-01-01"}
    return ModelCard.model_validate(texts | {"package_version": "1", "network": network.model_dump()} | said)


@pytest.mark.parametrize("control", ["\x1b", "\x07", "\x9b", "\r", "\t", "\u202e", "\u2066", "\u2029", "\0"])
def test_a_card_holds_no_control_characters(control):
    text = f"see{control}this"
    data = {"name": "d", "licence": "l", "description": "e"}
    wrong: tuple[dict[str, Any], ...] = (
        *({field: text} for field in ("name", "summary", "intended_use", "licence", "package_version")),
        {"limits": ["fine", text]},
        *({"training_data": [data | {key: text}]} for key in data),
        {"metrics": {"a": {text: 1}}},
        {"metrics": {"a": [text]}},
        {"network": TNetConfig.slide(("no", "yes")).model_dump() | {"class_names": ("no", text)}},
        {"network": TNetConfig.slide(("no", "yes")).model_dump() | {"backbone": text}},
    )
    for said in wrong:
        with pytest.raises(ValueError, match=r"control character|should match pattern"):
            card(**said)


def test_long_texts_of_a_card_may_have_lines():
    said = card(limits=["one\ntwo"], intended_use="a\nb", training_data=[TrainingData(name="d", licence="l")])
    assert said.limits == ("one\ntwo",)
    with pytest.raises(ValueError, match="control character"):
        card(licence="one\ntwo")


def test_a_model_of_several_lines_is_shown_line_by_line(tmp_path, tnet):
    model = save_random(tmp_path, TNetConfig.slide(("no", "yes")), seed=1, name="m")
    assert tnet("models", "show", model).out.startswith("# m\n\n")


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t", "\r", "\n", "＝"])
def test_no_cell_is_run_by_a_spreadsheet(start):
    text = f"{start}cmd|' /C calc'!A0"
    table = table_text(["slide", "path", "patient", "error", "x"], [dict.fromkeys(["patient", "error"], text)
        | {"slide": safe_name([text]), "path": text, "x": -0.5}])  # fmt: skip
    (row,) = csv.DictReader(io.StringIO(table, newline=""))
    assert row["patient"] == row["error"] == f"'{text}"
    assert Path(row["path"]) == Path(text)
    assert row["path"].startswith("./")
    assert row["slide"].startswith("_")
    assert row["x"] == "-0.5"


@pytest.mark.parametrize("number", ["-1", "+2", "-0.5", "-1.5e-07", "-inf", "+1E+3"])
def test_numbers_stay_numbers(number):
    assert table_text(["a"], [{"a": number}]) == f"a\n{number}\n"
