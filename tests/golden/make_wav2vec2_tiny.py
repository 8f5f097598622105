"""Write ``wav2vec2_tiny.json``: the states of the bundled model on a fixed waveform, as they are now.

Run it after the bundled checkpoint was replaced, and only then: ``python tests/golden/make_wav2vec2_tiny.py``.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from upstream import load_upstream

GOLDEN = Path(__file__).parent / "wav2vec2_tiny.json"
SAMPLES = 17_283  # 1.08 s
FRAMES, FEATURES = (0, 1, 26, 52), (0, 7, 100)


def waveform() -> Tensor:
    """A chirp with vibrato over a hum: the same everywhere, no random numbers. (1, sample)."""
    t = [i / 16000 for i in range(SAMPLES)]
    return torch.tensor([[
        0.3 * math.sin(2 * math.pi * (150 * s + 900 * s * s + 3 * math.sin(40 * s))) * math.exp(-1.5 * s)
        + 0.1 * math.sin(2 * math.pi * 97 * s) for s in t
    ]])  # fmt: skip


def describe() -> dict[str, Any]:
    """Per state: mean, standard deviation, largest value, and the values at ``FRAMES`` x ``FEATURES``."""
    model = load_upstream("wav2vec2_tiny")
    with torch.no_grad():
        states = model(waveform(), torch.tensor([SAMPLES])).states
    return {
        "sha256": model.info["sha256"],
        "states": [
            {
                "shape": list(state.shape),
                "mean": state.mean().item(),
                "std": state.std().item(),
                "largest": state.abs().max().item(),
                "values": [[state[0, frame, feature].item() for feature in FEATURES] for frame in FRAMES],
            }
            for state in states
        ],
    }


if __name__ == "__main__":
    GOLDEN.write_text(json.dumps(describe(), indent=1) + "\n", encoding="utf-8")
    print(f"wrote {GOLDEN}")
