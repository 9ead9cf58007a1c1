"""README's commands are the real ones."""

import re
from pathlib import Path

from tnet_cli.results.result import SlideResult

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()


def test_the_two_commands_do_all_the_setting_up():
    commands = [line for line in README.splitlines() if line.startswith("python3 -m venv")]
    assert len(commands) == 2
    assert commands[0].endswith(".venv/bin/tnet demo")
    assert commands[1].endswith("-m pytest -n auto --dist loadfile")
    assert all("&& .venv/bin/pip install " in command for command in commands)


def test_every_file_it_names_exists():
    for name in set(re.findall(r"`((?:tnet_cli|benchmarks|examples)/[\w./-]+)`", README)):
        assert (ROOT / name).exists(), name


def test_the_files_of_the_results_are_those_that_are_written():
    for name in ("predictions.csv", "run.json", "overlay.png", "regions.geojson", "regions.csv", "result.json"):
        assert f"`{name}`" in README or f"/{name}`" in README
    assert SlideResult.__name__ in README
