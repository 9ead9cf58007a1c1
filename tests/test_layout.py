"""Rules of the house that no linter knows."""

import ast
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "tnet_cli"
MODULES = {str(path.relative_to(PACKAGE)): path for path in sorted(PACKAGE.rglob("*.py"))}
TREES = {name: ast.parse(path.read_text()) for name, path in MODULES.items()}


def test_modules_and_rooms_stay_small():
    lengths = {name: len(path.read_text().splitlines()) for name, path in MODULES.items()}
    assert {name: lines for name, lines in lengths.items() if lines > 400} == {}
    rooms: Counter[str] = Counter()
    for name, lines in lengths.items():
        rooms[name.partition("/")[0]] += lines
    assert {room: lines for room, lines in rooms.items() if lines > 4000} == {}


def test_rooms_begin_with_a_docstring_and_no_code():
    # The package's own begins with the names that scripts use.
    for name in MODULES.keys() - {"__init__.py"}:
        if name.endswith("__init__.py"):
            assert re.fullmatch(r'""".+?"""\n', MODULES[name].read_text(), flags=re.DOTALL), name


def test_no_module_has_a_name_that_says_nothing():
    says_nothing = {"utils", "util", "helpers", "common", "misc", "manager"}
    assert [name for name, path in MODULES.items() if path.stem in says_nothing] == []


LEVELS_THAT_SAY_WHICH = {
    ("model/traversal.py", "levels"): "a traversal's records of processing levels, as their type says",
}


def bare_levels(tree: ast.Module) -> Iterator[str]:
    """Find parameters, fields, variables, functions and classes called a level without saying of what."""
    for node in ast.walk(tree):
        match node:
            case ast.arg(arg=name) | ast.FunctionDef(name=name) | ast.ClassDef(name=name):
                found = name
            case ast.Name(id=name, ctx=ast.Store()) | ast.Attribute(attr=name, ctx=ast.Store()):
                found = name
            case _:
                continue
        if found.strip("_").lower() in {"level", "levels"}:
            yield found


def test_a_level_is_always_a_processing_or_a_pyramid_level():
    found = {(name, bare) for name, tree in TREES.items() for bare in bare_levels(tree)}
    assert found == set(LEVELS_THAT_SAY_WHICH)


@pytest.mark.parametrize(
    "text",
    ["def f(level): ...", "class A:\n    level: int", "for levels in x: ...", "self._level = 1", "level: int = 2"],
)
def test_bare_levels_are_found(text):
    assert list(bare_levels(ast.parse(text)))


DRAFTS = {"written_whole", "scratch_file"}
"""What ``files`` gives to whoever writes by another library's means."""

WRITING_METHODS = {
    "write_text", "write_bytes", "touch", "rename", "symlink_to", "hardlink_to",
    "save", "savefig", "savetxt", "savez", "savez_compressed", "save_file", "tofile", "to_csv", "imwrite", "imsave",
    "TiffWriter", "SummaryWriter", "FileHandler", "FileLock",
    "mkstemp", "mkdtemp", "NamedTemporaryFile", "TemporaryFile", "TemporaryDirectory", "SpooledTemporaryFile",
    "copy", "copy2", "copyfile", "copytree", "move", "link", "symlink", "mknod", "mkfifo", "truncate",
}  # fmt: skip
OF_MODULES = {"copy": "shutil", "move": "shutil", "link": "os", "symlink": "os", "truncate": "os"}
"""Words that others use too: of these modules they write."""

OPENING = {"open", "fdopen", "memmap", "open_memmap", "ZipFile"}

WRITERS = {
    ("results/lock.py", "FileLock"): "an empty file; that it is open is what it is for",
    ("cli/terminal.py", "open"): "the null device, in the place of a standard stream that is closed",
    ("training/metrics_log.py", "SummaryWriter"): "TensorBoard's own files, which it appends to and reads",
    ("synth/pyramid.py", "TiffWriter"): "given a draft by synthesis.py, since a slide is written as it is drawn",
}
"""Who writes by a library outside a block that ``files`` made, and why."""


def writes(call: ast.Call) -> str | None:
    """Return the name of a call that writes a file, or None for any other."""
    name = called(call)
    if name == "replace" and isinstance(call.func, ast.Attribute):
        # Path.replace has one argument; str.replace has two, datetime.replace has names.
        of_a_path = len(call.args) == 1 and not call.keywords
        return name if of_a_path or ast.unparse(call.func.value) == "os" else None
    if name == "save":  # of a picture or a graph; the function of that name gives bytes
        return name if isinstance(call.func, ast.Attribute) else None
    if name in OF_MODULES:
        return name if ast.unparse(call.func) == f"{OF_MODULES[name]}.{name}" else None
    if name in OPENING:
        given = [*call.args, *(keyword.value for keyword in call.keywords)]
        modes = [each.value for each in given if isinstance(each, ast.Constant) and isinstance(each.value, str)]
        to_write = any(re.fullmatch(r"[rwaxbt+]{1,3}", mode) and set(mode) & set("wax+") for mode in modes)
        flags = "".join(ast.unparse(each) for each in given)
        return name if to_write or re.search(r"O_(WRONLY|RDWR|CREAT|APPEND|TRUNC)", flags) else None
    return name if name in WRITING_METHODS else None


def called(call: ast.Call) -> str:
    """Return the last part of the name of what is called."""
    match call.func:
        case ast.Name(id=name) | ast.Attribute(attr=name):
            return name
    return ""


def names_in(node: ast.AST) -> set[str]:
    """Return the names that are used in some code."""
    return {each.id for each in ast.walk(node) if isinstance(each, ast.Name)}


def harmless_names(tree: ast.Module) -> dict[ast.Call, set[str]]:
    """For each call, the names in its function that stand for drafts of ``files`` or for memory."""
    harmless: dict[ast.Call, set[str]] = {}
    for scope in (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)):
        memory = {
            name
            for node in ast.walk(scope)
            if isinstance(node, ast.Assign) and ast.unparse(node.value) in {"io.BytesIO()", "BytesIO()"}
            for target in node.targets
            for name in names_in(target)
        }
        for call in (node for node in ast.walk(scope) if isinstance(node, ast.Call)):
            harmless.setdefault(call, set()).update(memory)
        for block in (node for node in ast.walk(scope) if isinstance(node, ast.With)):
            drafts = {
                name
                for item in block.items
                if isinstance(item.context_expr, ast.Call)
                and called(item.context_expr) in DRAFTS
                and item.optional_vars
                for name in names_in(item.optional_vars)
            }
            for call in (node for node in ast.walk(block) if isinstance(node, ast.Call)):
                harmless.setdefault(call, set()).update(drafts)
    return harmless


def writers(tree: ast.Module) -> Iterator[str]:
    """Find calls that write files, but for those whose draft ``files`` gave, and those that write into memory."""
    harmless = harmless_names(tree)
    for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
        name = writes(call)
        if name and not names_in(call) & harmless.get(call, set()):
            yield name


def test_nobody_but_files_opens_a_file_for_writing():
    found = {(name, writer) for name, tree in TREES.items() if name != "files.py" for writer in writers(tree)}
    assert found == set(WRITERS)


@pytest.mark.parametrize(
    "text",
    [
        "open(path, 'w')",
        "path.open('ab')",
        "path.open(mode='r+')",
        "os.open(path, os.O_RDWR | os.O_CREAT)",
        "np.memmap(path, np.uint8, 'w+')",
        "path.write_text('')",
        "(path / 'a').write_bytes(b'')",
        "draft.replace(path)",
        "os.replace(draft, path)",
        "path.rename(other)",
        "shutil.copy(a, b)",
        "picture.save(path)",
        "figure.savefig(path)",
        "np.savez(path, a=1)",
        "tifffile.imwrite(path, pixels)",
        "tempfile.TemporaryDirectory()",
        "def f():\n    with written_whole(path) as draft:\n        other.write_text('')",
        "def f():\n    data = BytesIO()\n    picture.save(path)",
    ],
)
def test_what_writes_a_file_is_found(text):
    assert list(writers(ast.parse(text)))


@pytest.mark.parametrize(
    "text",
    [
        "open(path)",
        "path.open('rb')",
        "os.open(path, os.O_RDONLY)",
        "archive.open(name)",
        "text.replace('a', 'b')",
        "replace(row, a=1)",
        "array.copy()",
        "save(tensors)",
        "ZipFile(path)",
        "def f():\n    with written_whole(path) as draft:\n        picture.save(draft)",
        "def f():\n    data = BytesIO()\n    picture.save(data, format='PNG')",
    ],
)
def test_what_writes_no_file_is_not_found(text):
    assert not list(writers(ast.parse(text)))
