"""Nobody is told to install the package index's ``tnet``, which is another project."""

import re
import tomllib
from importlib.metadata import version
from pathlib import Path

from tnet_cli.errors import DISTRIBUTION, install_hint

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
SOURCES = sorted((ROOT / "tnet_cli").rglob("*.py"))
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "benchmarks/README.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
    *sorted(path for path in (ROOT / "examples").iterdir() if path.is_file()),
    *sorted(path for path in (ROOT / "tnet_cli/report/assets").iterdir() if path.is_file()),
]
TARGETS = {".", DISTRIBUTION, "gcsfs", "{DISTRIBUTION}"}
"""A clone, tnet, the one package that no extra brings, and tnet as ``errors.install_hint`` writes it."""


def test_it_is_installed_under_the_name_that_messages_give():
    assert PROJECT["name"] == DISTRIBUTION
    assert version(DISTRIBUTION) == PROJECT["version"]
    assert install_hint("remote") == "pip install 'tnet-cli[remote]'"


def test_whatever_says_what_to_install_names_this_project_and_an_extra_it_has():
    for path in [*SOURCES, *PAGES]:
        text = path.read_text()
        assert not re.search(r"(?<![\w-])tnet\[[a-z]", text), path
        asked = re.findall(r"""pip install (?:-\S+ )*['"]?([^\s'"`\[]+)(?:\[([^\]]*)\])?""", text)
        assert {target for target, _ in asked} <= TARGETS, path
        extras = [extra for _, names in asked for extra in names.split(",") if extra and extra != "{extra}"]
        extras += re.findall(r"""install_hint\(['"](\w+)['"]\)""", text)
        assert set(extras) <= PROJECT["optional-dependencies"].keys(), path


def test_messages_and_pages_name_every_extra_that_a_user_may_need():
    said = "".join(path.read_text() for path in [*SOURCES, *PAGES])
    for extra in PROJECT["optional-dependencies"].keys() - {"test"}:
        assert re.search(rf"install_hint\(['\"]{extra}['\"]\)", said), extra
