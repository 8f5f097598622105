"""Constants and types that tests share; fixtures are in conftest.py."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import soundfile

REPOSITORY = Path(__file__).resolve().parent.parent

SMALL = [
    "task.head.size=16",
    "task.head.pooled=32",
    "task.dev_speakers=2",
    "data.crop_seconds=1.0",
    "data.min_seconds=0.5",
    "trainer.batch_size=4",
    "trainer.accumulate=1",
]
"""Overrides that bring voxceleb1_sv down to the size of a test."""

Cli = Callable[..., "subprocess.CompletedProcess[str]"]


def add_wavs(folder: Path, *names: str) -> None:
    """Write 10 ms of silence to each file."""
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, np.zeros(160, dtype=np.float32), 16000)
