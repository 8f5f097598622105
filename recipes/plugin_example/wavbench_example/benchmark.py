"""A benchmark: SUPERB's speaker verification, with a smaller head and fewer updates."""

from __future__ import annotations

from typing import Any


def card() -> dict[str, Any]:
    """What differs from the card that it extends."""
    return {
        "name": "example_sv",
        "extends": "voxceleb1_sv",
        "config": {
            "task": {"dev_speakers": 2, "head": {"size": 64, "pooled": 128}},
            "data": {"crop_seconds": 1.0, "min_seconds": 0.0},
            "trainer": {"max_steps": 200, "batch_size": 8, "accumulate": 1},
            "optim": {"lr": 1e-3},
        },
    }
