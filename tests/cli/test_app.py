"""The command as a whole: help, version, start-up."""

import subprocess
import sys

import pytest

HEAVY = (
    "torch",
    "torchvision",
    "numpy",
    "skimage",
    "scipy",
    "sklearn",
    "matplotlib",
    "openslide",
    "tifffile",
    "PIL",
    "pydantic",
)


def test_the_command_line_imports_nothing_heavy():
    script = "import sys, tnet_cli.cli.app; print(sorted(set(sys.modules) & set(sys.argv[1:])))"
    ran = subprocess.run([sys.executable, "-c", script, *HEAVY], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"


def test_help_names_every_command(tnet):
    ran = tnet("--help")
    assert ran.code == 0
    for command in ("bench", "classify", "evaluate", "info", "demo", "synth", "train"):
        assert command in ran.out


@pytest.mark.parametrize("command", ["bench", "classify", "evaluate", "info", "demo", "synth", "train"])
def test_every_command_and_option_has_help(tnet, command):
    ran = tnet(command, "--help")
    assert ran.code == 0
    assert "Options" in ran.out


def test_bare_tnet_prints_help_and_exits_2(tnet):
    ran = tnet()
    assert ran.code == 2
    assert "classify" in ran.out + ran.err


def test_version(tnet):
    ran = tnet("--version")
    assert ran.code == 0
    assert ran.out.startswith("tnet ")


def test_the_module_runs_like_the_command():
    ran = subprocess.run([sys.executable, "-m", "tnet_cli", "--version"], capture_output=True, text=True, check=True)
    assert ran.stdout.startswith("tnet ")


def test_imports_are_not_searched_for_garbage_and_what_comes_after_them_is():
    script = """
import gc, sys
from tnet_cli.cli.loading import load

searched = []

class Spy:
    def find_spec(name, path=None, target=None):
        if name == "torch":
            searched.append(gc.isenabled())

sys.meta_path.insert(0, Spy)
load("inference.classify")
frozen = gc.get_freeze_count()
load("training.run")
print(searched == [False], gc.isenabled(), frozen > 100_000, gc.get_freeze_count() <= frozen)
"""
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert ran.stdout.split() == ["True"] * 4
