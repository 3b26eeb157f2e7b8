"""The house rules that a program can check: rooms, imports, writing, and what the wheel holds."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
ROOMS = ("filters", "pipelines", "shards", "tokenize")
MODULES = sorted(p for room in ROOMS for p in (ROOT / room).rglob("*.py"))
SOURCES = MODULES + sorted((ROOT / "tests").glob("*.py")) + sorted((ROOT / "benchmarks").rglob("*.py"))
MOST_LINES = 700
VAGUE = {"utils", "util", "common", "helpers", "helper", "base", "manager", "misc"}
WRITERS = {"commit", "file", "mkdtemp", "TemporaryDirectory"}
"""Calls that give a path to write at: shards/storage.py's commit, and a task's Outputs.file, which goes through it."""


HANDED = {("shards/exchange.py", "path"), ("pipelines/agreement.py", "CACHE_DIR / 'rehearsed'")}
"""`write_run` is handed its path; that pipelines/ hands it one of `Outputs.file` is seen there. The other is a node's
note beside its kernels, no part of a run."""


def named(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


each_module = pytest.mark.parametrize("path", MODULES, ids=named)


def imports(tree: ast.AST) -> set[str]:
    """The dotted names that a module imports, anywhere in it."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"a relative import in line {node.lineno}"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def test_there_are_modules_to_look_at():
    assert {p.relative_to(ROOT).parts[0] for p in MODULES} == set(ROOMS)
    assert len(MODULES) > 20


def test_no_folder_named_tokenize_is_a_package():
    """With an __init__.py, a process started beside it imports it in place of the standard library's tokenize."""
    skipped = {".venv", ".git", "node_modules"}
    for folder, names, files in os.walk(ROOT):
        names[:] = [n for n in names if n not in skipped]
        assert not (Path(folder).name == "tokenize" and "__init__.py" in files), folder
    assert not list((ROOT / "tests").rglob("__init__.py"))


def test_the_standard_librarys_tokenize_is_found_beside_ours():
    found = subprocess.run(
        [sys.executable, "-c", "import tokenize; print(tokenize.__file__)"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert Path(found.stdout.strip()).name == "tokenize.py"
    assert ROOT not in Path(found.stdout.strip()).parents or ".venv" in found.stdout


@each_module
def test_imports_point_one_way(path):
    room = path.relative_to(ROOT).parts[0]
    allowed = set(ROOMS) if room == "pipelines" else {room}
    for name in imports(ast.parse(path.read_text(encoding="utf-8"))):
        if name.startswith("winnow."):
            assert name.split(".")[1] in allowed, f"{named(path)} imports {name}"
        assert name.split(".")[0] not in ROOMS or name.split(".")[0] == "tokenize", (
            f"{named(path)} imports {name}"
        )


@each_module
def test_a_module_says_what_it_is_for(path):
    docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
    assert docstring
    assert docstring.splitlines()[0].rstrip().endswith((".", "?", ":")) or "\n" in docstring


@each_module
def test_names_and_sizes(path):
    assert path.stem not in VAGUE
    assert len(path.read_text(encoding="utf-8").splitlines()) <= MOST_LINES


@pytest.mark.parametrize("path", SOURCES, ids=named)
def test_nothing_names_somebodys_directory(path):
    text = path.read_text(encoding="utf-8")
    assert not re.search(r"[\"'\s(](/" r"home/|/" r"Users/|/" r"root/|/" r"work/)\w", text)


def bound_by_writers(tree: ast.AST) -> set[str]:
    """Names that a `with` gives to the path of an unfinished file."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.With):
            for item in node.items:
                call = item.context_expr
                if isinstance(call, ast.Call) and isinstance(item.optional_vars, ast.Name):
                    function = call.func
                    name = (
                        function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
                    )
                    if name in WRITERS:
                        found.add(item.optional_vars.id)
    return found


def opened_for_writing(tree: ast.AST) -> list[tuple[int, str]]:
    """(line, path as written) of every `open` with a mode that writes, and of every write_text and write_bytes."""
    found = []
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        if isinstance(node.func, ast.Attribute) and node.func.attr in ("write_text", "write_bytes"):
            found.append((node.lineno, ast.unparse(node.func.value)))
        name = getattr(node.func, "id", getattr(node.func, "attr", ""))
        modes = [*node.args[1:2], *(k.value for k in node.keywords if k.arg == "mode")]
        if name == "open" and any(
            isinstance(m, ast.Constant) and re.search("[wax+]", str(m.value)) for m in modes
        ):
            found.append((node.lineno, ast.unparse(node.args[0])))
    return found


@pytest.mark.parametrize(
    "path", [p for p in MODULES if named(p).startswith(("shards/", "pipelines/"))], ids=named
)
def test_files_are_written_where_commit_says(path):
    if named(path) == "shards/storage.py":
        return
    tree = ast.parse(path.read_text(encoding="utf-8"))
    given = bound_by_writers(tree)
    for line, place in opened_for_writing(tree):
        assert place in given or (named(path), place) in HANDED, f"{named(path)}:{line} writes {place}"


@each_module
def test_arrays_are_written_by_what_sees_a_full_disk(path):
    """shards/arrays.py says why."""
    called = {
        (ast.unparse(node.func.value), node.func.attr)
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
    }
    assert not [name for name in called if name[1] == "tofile" or name == ("np", "save")]


def test_the_check_of_writing_finds_what_it_looks_for():
    tree = ast.parse(
        'with commit(x) as path, open(path, "wb") as f: pass\nopen(other, mode="a")\np.write_text("")'
    )
    assert bound_by_writers(tree) == {"path"}
    assert sorted(opened_for_writing(tree)) == [(1, "path"), (2, "other"), (3, "p")]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """The wheel, unpacked; built from a copy, so that nothing is left in the checkout."""
    pytest.importorskip("setuptools", minversion="77", reason="setuptools 77 or newer builds the wheel")
    copy = tmp_path_factory.mktemp("checkout")
    for room in ROOMS:
        shutil.copytree(ROOT / room, copy / room, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md"):
        shutil.copy(ROOT / name, copy)
    for licence in ROOT.glob("LICENSE*"):
        shutil.copy(licence, copy)
    out = tmp_path_factory.mktemp("dist")
    build = "import sys; from setuptools import build_meta; build_meta.build_wheel(sys.argv[1])"
    done = subprocess.run([sys.executable, "-c", build, str(out)], cwd=copy, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    (built,) = out.glob("winnow-*.whl")
    unpacked = tmp_path_factory.mktemp("installed")
    with zipfile.ZipFile(built) as archive:
        archive.extractall(unpacked)
    return unpacked


def test_the_wheel_holds_the_rooms_and_the_recipes(wheel):
    there = {p.relative_to(wheel).as_posix() for p in wheel.rglob("*") if p.is_file()}
    wanted = {f"winnow/{named(p)}" for p in MODULES}
    wanted |= {f"winnow/{named(p)}" for p in (ROOT / "pipelines").glob("*.yaml")}
    assert wanted <= there
    assert any(p.endswith(".yaml") for p in wanted)
    assert {p for p in there if ".dist-info/" not in p} == wanted, "something else got into the wheel"


def test_the_wheel_runs_away_from_the_checkout(wheel, tmp_path):
    program = (
        "import sys; from winnow.pipelines import command, recipe; import winnow.tokenize.source as room; "
        "print(command.__file__, room.__file__); command.main(['validate', 'quickstart'])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True,
        env=os.environ | {"PYTHONPATH": str(wheel)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    places, said = done.stdout.splitlines()
    assert all(p.startswith(str(wheel)) for p in places.split()), places
    assert said == "quickstart: 2 sources, no errors"
