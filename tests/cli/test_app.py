"""The command as a whole: help, version, start-up."""

import os
import subprocess
import sys
from importlib.metadata import version

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


@pytest.mark.parametrize("given", [None, "ACTIVE"])
def test_threads_of_torch_wait_without_spinning_unless_the_user_wants_it(tnet, monkeypatch, given):
    monkeypatch.setenv("OMP_WAIT_POLICY", given or "")
    if given is None:
        monkeypatch.delenv("OMP_WAIT_POLICY")
    assert tnet("--version").code == 0
    assert os.environ["OMP_WAIT_POLICY"] == (given or "PASSIVE")


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


@pytest.mark.parametrize(
    ("command", "code"), [("--version > /dev/full", 6), ("--help > /dev/full", 6), ("--help | true", 0)]
)
def test_an_answer_that_cannot_be_written_is_told_and_one_that_nobody_reads_is_not(command, code):
    shell = f"set -o pipefail; exec 3>&1; {sys.executable} -m tnet_cli {command}"
    ran = subprocess.run(["bash", "-c", shell], capture_output=True, text=True, check=False)
    complaint = "tnet: the answer cannot be written to standard output: No space left on device\n"
    assert (ran.returncode, ran.stderr) == (code, complaint if code else "")


@pytest.mark.parametrize("closed", ["1>&-", "2>&-", "2>/dev/full"])
def test_streams_that_are_closed_or_full_end_nothing(closed):
    shell = f"{sys.executable} -m tnet_cli models show nothing-of-this-name {closed}"
    ran = subprocess.run(["bash", "-c", shell], capture_output=True, text=True, check=False)
    assert ran.returncode == 4
    assert "Traceback" not in ran.stderr


def test_lines_are_written_as_they_come_into_a_pipe_too():
    script = """
import sys
from tnet_cli.cli.terminal import answer, lenient_streams
with lenient_streams():
    answer("a row")
    sys.stdin.read()
"""
    with subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "a row\n"
        process.communicate("")


def test_a_process_of_torchrun_ends_before_python_is_taken_down():
    driver = "import atexit; atexit.register(print, 'taken down'); from tnet_cli.cli.app import main; main()"
    for environment, last in (({}, "taken down"), ({"TORCHELASTIC_RUN_ID": "one"}, f"tnet {version('tnet-cli')}")):
        done = subprocess.run(
            [sys.executable, "-c", driver, "--version"],
            capture_output=True,
            text=True,
            env={**os.environ, **environment},
            check=True,
        )
        assert done.stdout.splitlines()[-1] == last
