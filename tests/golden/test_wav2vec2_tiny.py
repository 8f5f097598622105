"""The bundled model gives the states that it gave when it was bundled: no change of the code alters a result unseen."""

from __future__ import annotations

import json

import pytest
from make_wav2vec2_tiny import GOLDEN, describe


def test_states_are_as_they_were() -> None:
    expected, found = json.loads(GOLDEN.read_text(encoding="utf-8")), describe()
    assert found["sha256"] == expected["sha256"], (
        "the bundled checkpoint was replaced: if that was meant, run python tests/golden/make_wav2vec2_tiny.py"
    )
    assert len(found["states"]) == len(expected["states"])
    for state, golden in zip(found["states"], expected["states"], strict=True):
        near = 1e-4 * golden["largest"]  # what another CPU may differ by
        assert state["shape"] == golden["shape"]
        for name in ("mean", "std", "largest"):
            assert state[name] == pytest.approx(golden[name], abs=near), name
        for values, golden_values in zip(state["values"], golden["values"], strict=True):
            assert values == pytest.approx(golden_values, abs=near)
