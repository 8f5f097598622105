"""The examples in docstrings run, but for those that need a checkpoint or a corpus."""

from __future__ import annotations

import doctest
import importlib

import pytest
from support import REPOSITORY

from benchmark import metrics

ELSEWHERE = {"wavbench": "test_api.py", "wavbench.api": "test_api.py"}
"""Module -> the test that covers what its examples show, with what this machine has."""


def modules() -> list[str]:
    paths = [
        path
        for package in ("benchmark", "upstream", "downstream", "wavbench")
        for path in (REPOSITORY / package).rglob("*.py")
    ]
    names = [
        path.relative_to(REPOSITORY).with_suffix("").as_posix().removesuffix("/__init__").replace("/", ".")
        for path in paths
        if ">>>" in path.read_text(encoding="utf-8")
    ]
    return sorted(name for name in names if name not in ELSEWHERE)


@pytest.mark.parametrize("name", modules())
def test_examples_in_docstrings(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "METRICS", dict(metrics.METRICS))  # an example declares one
    outcome = doctest.testmod(importlib.import_module(name))
    assert outcome.attempted
    assert not outcome.failed
