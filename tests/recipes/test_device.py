"""``recipes/benchmarks/device.py`` in its small form, on whatever device there is."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from support import REPOSITORY

sys.path.insert(0, str(REPOSITORY / "recipes" / "benchmarks"))

import device


@pytest.mark.slow
def test_the_small_form_measures_everything(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BENCHMARK_CACHE", str(tmp_path / "cache"))
    assert device.main(["--small", "-o", str(tmp_path / "device.json")]) == 0
    found = json.loads((tmp_path / "device.json").read_text())
    assert found["failures"] == []
    checked = [row for row in found["rows"] if row["ok"] is not None]
    assert {row["part"] for row in checked} == {"states", "families", "regimes"}
    assert all(row["ok"] for row in checked)
    assert {row["part"] for row in found["rows"]} == set(device.PARTS)
    assert any("transformers" in row["what"] for row in found["rows"])


def test_what_is_wrong_is_a_failure(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "STATES_TOLERANCE", -1.0)
    assert device.main(["--small", "--parts", "states"]) == 1
    assert "FAILS" in capsys.readouterr().out
