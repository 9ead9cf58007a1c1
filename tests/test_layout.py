"""Rules of the house that no linter knows."""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
MODULES = sorted((ROOT / "tnet_cli").rglob("*.py"))


def test_modules_stay_small():
    lengths = {path.relative_to(ROOT): len(path.read_text().splitlines()) for path in MODULES}
    assert {path: lines for path, lines in lengths.items() if lines > 400} == {}


def test_packages_hold_a_docstring_and_no_code():
    for path in MODULES:
        if path.name == "__init__.py":
            assert re.fullmatch(r'""".+?"""\n', path.read_text(), flags=re.DOTALL), path


def test_no_module_has_a_name_that_says_nothing():
    assert [path for path in MODULES if path.stem in {"utils", "util", "helpers", "common", "misc", "manager"}] == []


def test_a_level_is_always_a_processing_or_a_pyramid_level():
    bare = re.compile(r"\bdef \w+\([^)]*\blevel\b\s*:")
    assert [path for path in MODULES if bare.search(path.read_text())] == []
