"""Dependencies run one way, and the engine names no model, no task and no corpus."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
ALLOWED = {
    "benchmark": {"benchmark"},
    "upstream": {"benchmark", "upstream"},
    "downstream": {"benchmark", "downstream"},
}


def imported(path: Path) -> set[str]:
    """The project's packages that a file imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            found.add(node.module.split(".")[0])
    return found & {*ALLOWED, "recipes", "tests"}


@pytest.mark.parametrize("package", ALLOWED)
def test_imports_run_one_way(package: str) -> None:
    files = sorted((REPOSITORY / package).rglob("*.py"))
    assert files
    for path in files:
        assert imported(path) <= ALLOWED[package], path


def test_the_engine_names_no_model_and_no_corpus() -> None:
    for path in sorted((REPOSITORY / "benchmark").rglob("*.py")):
        code = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
        names = {node.id.lower() for node in code if isinstance(node, ast.Name)}
        names |= {node.name.lower() for node in code if isinstance(node, ast.FunctionDef | ast.ClassDef)}
        for word in ("wav2vec", "voxceleb", "librispeech", "voxlingua", "xvector"):
            assert not any(word in name for name in names), f"{path} knows {word}"


@pytest.mark.parametrize("arguments", [["--help"], ["--list"]])
def test_help_and_list_import_no_torch_and_are_quick(arguments: list[str]) -> None:
    code = (
        "import sys, time; begun = time.perf_counter(); from benchmark.cli import run_downstream\n"
        "try: run_downstream(sys.argv[1:])\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'torchaudio', 'omegaconf', 'matplotlib', 'numpy'} & set(sys.modules)\n"
        "print('HEAVY', sorted(heavy)); print('SECONDS', time.perf_counter() - begun)"
    )
    best = 1e9
    for _ in range(3):
        done = subprocess.run(
            [sys.executable, "-c", code, *arguments], cwd=REPOSITORY, capture_output=True, text=True, check=True
        )
        assert "HEAVY []" in done.stdout
        best = min(best, float(done.stdout.split("SECONDS")[1]))
    assert best < 0.4
