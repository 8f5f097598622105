"""Dependencies run downwards, in no circle, and the engine names no model, no task and no corpus."""

from __future__ import annotations

import ast
import functools
import graphlib
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import REPOSITORY

from benchmark import registry

FLOORS = (
    ("benchmark",),  # interfaces, registry, config …: the ground floor is whatever is named nowhere else
    ("benchmark.data", "benchmark.statistics"),
    ("benchmark.engine",),
    ("benchmark.study",),
    ("benchmark.report",),
    ("benchmark.commands",),
    ("benchmark.cli",),
    ("benchmark.__main__", "wavbench"),
)
"""Bottom to top. A package imports itself and what is on the floors below it."""

BESIDE = {"upstream": "benchmark.data", "downstream": "benchmark.data"}
"""Package that registers things -> the highest floor of the engine that it may use."""

ALONE = ("recipes", "run_downstream", "hubconf")
"""They use everything and nothing uses them."""


@functools.cache
def modules() -> dict[str, Path]:
    """Name -> file of every module of the library."""
    found = {}
    for package in ("benchmark", "wavbench", *BESIDE):
        for path in (REPOSITORY / package).rglob("*.py"):
            parts = path.relative_to(REPOSITORY).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


@functools.cache
def tree(module: str) -> ast.Module:
    return ast.parse(modules()[module].read_text(encoding="utf-8"))


def of_types_only(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)


def imports(module: str, *, types: bool) -> set[str]:
    """The project's modules that a module imports, at its top or in functions; with ``types``, for annotations too."""
    found: set[str] = set()

    def walk(node: ast.AST) -> None:
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module} imports by a relative path"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            found.update(name if name in modules() else str(node.module) for name in names)
        for child in ast.iter_child_nodes(node):
            if types or not of_types_only(child):
                walk(child)

    walk(tree(module))
    return {name for name in found if name.split(".")[0] in {"benchmark", "wavbench", *BESIDE, *ALONE, "tests"}}


def within(module: str, package: str) -> bool:
    return module == package or module.startswith(f"{package}.")


def floor(module: str) -> tuple[int, str]:
    """The floor that a module of ``benchmark`` or ``wavbench`` is on, and its package there."""
    rooms = [(number, room) for number, rooms in enumerate(FLOORS) for room in rooms if within(module, room)]
    return max(rooms)


def may_import(importer: str, imported: str) -> bool:
    for package, highest in BESIDE.items():
        if within(importer, package):
            engine = within(imported, "benchmark") and floor(imported)[0] <= floor(highest)[0]
            return engine or within(imported, package)
    top = imported.split(".")[0]
    if top in BESIDE or top in ALONE or top == "tests":
        return False
    (own_number, own_room), (number, room) = floor(importer), floor(imported)
    return number < own_number or room == own_room


def test_dependencies_run_downwards() -> None:
    assert len(modules()) > 50
    wrong = [
        f"{module} imports {name}"
        for module in sorted(modules())
        for name in sorted(imports(module, types=True))
        if not may_import(module, name)
    ]
    assert not wrong, "\n".join(wrong)


def test_no_module_depends_on_itself() -> None:
    """By way of others, wherever the imports are."""
    graph = {module: imports(module, types=False) & modules().keys() - {module} for module in modules()}
    try:
        list(graphlib.TopologicalSorter(graph).static_order())
    except graphlib.CycleError as error:
        pytest.fail(" <- ".join(error.args[1]))


def test_long_files_say_why() -> None:
    """The first docstring of a file of over 500 lines has a sentence that begins with "Over 500 lines:"."""
    for module, path in modules().items():
        lines = len(path.read_text(encoding="utf-8").splitlines())
        if lines > 500:
            assert "Over 500 lines:" in (ast.get_docstring(tree(module)) or ""), f"{path} has {lines} lines"


# -- names ---------------------------------------------------------------------------------------------------------

HELP = ("help", "description", "epilog")
"""Arguments of argparse. Help texts may give real names: these, what parsers and groups are called, EXAMPLES."""


def registered() -> set[str]:
    """What the names of the project's own upstreams, tasks and corpora begin with (``voxceleb``, ``sv``, ``xlsr``), but
    for everyday words of any program about speech and ``hf``, which importers of data read too."""
    tables = (registry.upstreams, registry.tasks, registry.corpora)
    entries = [entry for table in tables for entry in table if entry.origin == "built in"]
    names = {name for entry in entries for name in (entry.name, *entry.aliases)}
    return {name.split("_")[0].rstrip("0123456789") for name in names} - {"slots", "speech", "hf"}


def spoken(module: str) -> Iterator[str]:
    """Identifiers and strings of a module, but for docstrings and, in commands, help texts."""

    def walk(node: ast.AST) -> Iterator[str]:
        if (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)) or is_help(node):
            return
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value
        for field in ("id", "attr", "name", "arg", "module"):
            if isinstance(getattr(node, field, None), str):
                yield re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", getattr(node, field))
        for child in ast.iter_child_nodes(node):
            yield from walk(child)

    def is_help(node: ast.AST) -> bool:
        if not within(module, "benchmark.commands"):
            return False
        if isinstance(node, ast.Call):
            return ast.unparse(node.func).rpartition(".")[2] in ("Parser", "ArgumentParser", "add_argument_group")
        if isinstance(node, ast.Assign):
            return ast.unparse(node.targets[0]).endswith("EXAMPLES")
        return isinstance(node, ast.keyword) and node.arg in HELP

    return walk(tree(module))


def names(text: str, word: str) -> bool:
    """Whether a text has the word: at the start of one, or by itself where it is so short that others begin with it."""
    end = "(?![a-z])" if len(word) <= 4 else ""
    return re.search(rf"(?<![a-z]){word}{end}", text.lower()) is not None


def test_the_engine_names_no_model_no_task_and_no_corpus() -> None:
    words = registered()
    assert {"voxceleb", "wav2vec", "librispeech", "asr", "sv"} <= words
    wrong = [
        f"{module}: '{word}' in {text[:200]!r}"
        for module in modules()
        if within(module, "benchmark")
        for text in spoken(module)
        for word in words
        if names(text, word)
    ]
    assert not wrong, "\n".join(wrong)


# -- weight --------------------------------------------------------------------------------------------------------

HEAVY = {"torch", "torchaudio", "numpy", "scipy", "sklearn", "soundfile", "omegaconf", "matplotlib", "accelerate"}


@pytest.mark.parametrize(
    ("code", "heavy"),
    [
        ("from benchmark.cli import run_downstream; run_downstream(['--help'])", HEAVY),
        ("from benchmark.cli import run_downstream; run_downstream(['--list'])", HEAVY),
        ("from benchmark.cli import main; main(['--help'])", HEAVY),
        ("import wavbench; dir(wavbench)", HEAVY | {"yaml"}),
    ],
    ids=["help", "list", "commands", "wavbench"],
)
def test_what_must_be_quick_imports_nothing_heavy(code: str, heavy: set[str]) -> None:
    report = "import atexit, sys; atexit.register(lambda: print('IMPORTED', *sorted(sys.modules)))\n"
    done = subprocess.run([sys.executable, "-c", report + code], cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert not heavy & set(done.stdout.partition("IMPORTED")[2].split())
