"""Constants, types and helpers that tests share; fixtures are in conftest.py."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import subprocess
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import soundfile
from filelock import FileLock

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


def shared_folder(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], object]) -> Path:
    """A folder that ``make`` fills once, for all workers of pytest-xdist together. Read it; change a copy."""
    base = factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        base = base.parent
    folder, done = base / "shared" / name, base / "shared" / f"{name}.done"
    folder.parent.mkdir(exist_ok=True)
    with FileLock(folder.with_name(f"{name}.lock")):
        if not done.exists():
            folder.mkdir(exist_ok=True)
            make(folder)
            done.touch()
    return folder


def called(function: Callable[[Sequence[str]], int], arguments: Sequence[object]) -> subprocess.CompletedProcess[str]:
    """Call a command's function as a process of its own would: what it prints, and its exit status."""
    words = [str(argument) for argument in arguments]
    stdout, stderr = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(stdout), contextlib.redirect_stderr(stderr), _fresh_logging():
        try:
            code = function(words)
        except SystemExit as stopped:  # argparse's way out
            code = stopped.code if isinstance(stopped.code, int) else 1
    print(stdout.getvalue(), stderr.getvalue(), sep="\n")  # for pytest to show where a test fails
    return subprocess.CompletedProcess(words, code, stdout.getvalue(), stderr.getvalue())


@contextlib.contextmanager
def _fresh_logging() -> Iterator[None]:
    """No handlers on the loggers that commands set up: pytest's own are kept from them, theirs from later tests."""
    loggers = [logging.getLogger(), logging.getLogger("wavbench")]
    before = [(logger, list(logger.handlers), logger.level) for logger in loggers]
    for logger in loggers:
        logger.handlers.clear()
    try:
        yield
    finally:
        for logger, handlers, level in before:
            logger.handlers[:] = handlers
            logger.setLevel(level)
        logging.raiseExceptions = True


def add_wavs(folder: Path, *names: str) -> None:
    """Write 10 ms of silence to each file."""
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, np.zeros(160, dtype=np.float32), 16000)
