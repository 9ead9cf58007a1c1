"""README's commands are the real ones."""

import re
import shutil
from pathlib import Path

from tnet_cli.api import classify

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


def files_in_the_table() -> set[str]:
    """Return the files that README's table of a run's folder names, of the slide NAME."""
    rows = re.findall(r"^\| (`.+?`) \|", README.split("In the folder given with `-o`")[1].split("\n\n")[1], flags=re.M)
    named: set[str] = set()
    for cell in rows:
        first, *beside = re.findall(r"`(.+?)`", cell)
        named |= {first, *(str(Path(first).with_name(name)) for name in beside)}
    return named


def test_the_files_of_the_results_are_those_that_are_written(drawn_slide, untrained_model, tmp_path):
    shutil.copy(drawn_slide(), tmp_path / "NAME.tif")
    (tmp_path / "slides.csv").write_text("slide,patient\nNAME.tif,P1\n")
    classify(tmp_path / "slides.csv", model=untrained_model, out=tmp_path / "out", device="cpu", save_mask=True)
    written = [path.relative_to(tmp_path / "out") for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert files_in_the_table() == {str(path) for path in written if path.parts[0] != ".tnet"}
