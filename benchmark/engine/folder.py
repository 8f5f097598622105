"""The experiment folder: who may write into it, its lock, its log."""

from __future__ import annotations

import contextlib
import logging
import logging.handlers
import shutil
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

from filelock import Timeout

from benchmark import config
from benchmark.config import RunConfig
from benchmark.engine import checkpoint
from benchmark.errors import BenchmarkError
from benchmark.files import locked, remove_partial

log = logging.getLogger("wavbench")

_LOGGERS = (log, logging.getLogger("py.warnings"))
"""Ours, and that of Python's warnings."""

ARTEFACTS = (
    "result.json", "evaluation.json", "*.png", "predictions*.jsonl", "scores*.txt", "*.trn", "*.csv", "budget.txt",
    "config.yaml", "trackers.json",
)  # fmt: skip
"""What a run leaves in its folder, beside ``log.txt``, ``checkpoints/``, ``probe/``, ``evaluations/`` and what
trackers write."""


def check_available(folder: Path, run: RunConfig, *, resume: bool, may_differ: Sequence[str] = ()) -> None:
    """Make sure that a run may write into ``folder``.

    Args:
        folder: the experiment folder, which need not exist.
        run: the configuration of the run.
        resume: whether the run that the folder holds is to be resumed.
        may_differ: beginnings of options that may differ from the saved configuration.

    Raises:
        BenchmarkError: the folder holds a run and ``resume`` is false, or it holds a run of another configuration.
    """
    saved = folder / "config.yaml"
    if not saved.exists() and not (folder / "checkpoints" / "last.pt").exists():
        return
    if not resume:
        raise BenchmarkError(
            f"{folder} already holds a run. Add -a to resume it, --overwrite to start it again, or -p / -n for another "
            "folder"
        )
    changed = config.differences(config.read_yaml(saved), run, but=may_differ)
    if changed:
        raise BenchmarkError(
            f"{folder} holds a run with another configuration (saved -> now):\n  "
            + "\n  ".join(changed)
            + f"\nResume it with its saved configuration by -e {folder}, or choose another folder with -p"
        )


def clear(folder: Path) -> None:
    """Remove the run that a folder holds, its configuration last, and nothing else."""
    for name in ("checkpoints", checkpoint.PROBE, "tensorboard", "wandb", "evaluations"):
        shutil.rmtree(folder / name, ignore_errors=True)
    clear_artefacts(folder)


def clear_artefacts(folder: Path) -> None:
    """Remove what a run leaves beside its checkpoints and logs."""
    for pattern in ARTEFACTS:
        for path in folder.glob(pattern):
            path.unlink()


@contextlib.contextmanager
def exclusive(folder: Path, *, clean: bool = True) -> Iterator[None]:
    """Lock ``folder`` for this process; :class:`BenchmarkError` while another run holds it. ``clean``: remove what was
    left half-written below it."""
    with contextlib.ExitStack() as stack:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            stack.enter_context(locked(folder / ".lock", timeout=0))
        except Timeout as error:
            raise BenchmarkError(f"another process is running in {folder}; wait for it or choose another -p") from error
        except OSError as error:
            raise BenchmarkError(
                f"cannot write into {folder}: {error.strerror}. Choose another folder with -p"
            ) from error
        if clean:
            remove_partial(folder)
        yield


class RunLog:
    """Collects what is logged from the start of a run, and writes it to ``log.txt`` once the folder is the run's.

    Can be entered again and again, until the folder is open.
    """

    _lock = threading.Lock()
    _open = 0
    """Runs of this process that are logged at the moment."""
    _level = logging.NOTSET
    """Of the logger without any."""

    def __init__(self) -> None:
        self._buffer = logging.handlers.MemoryHandler(capacity=10**6, flushLevel=logging.CRITICAL + 1)
        self._buffer.addFilter(self._count)
        self._thread = threading.get_ident()
        self._file: logging.FileHandler | None = None
        self.warnings: list[str] = []
        """What was logged as a warning, each once."""

    @property
    def records(self) -> list[logging.LogRecord]:
        """What was collected, as long as no folder is open."""
        return list(self._buffer.buffer)

    def _is_ours(self, record: logging.LogRecord) -> bool:
        """Runs in other threads have logs of their own."""
        return record.thread == self._thread

    def _count(self, record: logging.LogRecord) -> bool:
        """Note a warning of ours; those of other libraries are in the log only."""
        ours = self._is_ours(record)
        if ours and record.levelno >= logging.WARNING and record.name == log.name:
            message = record.getMessage()
            if message not in self.warnings:
                self.warnings.append(message)
        return ours

    def __enter__(self) -> RunLog:
        with RunLog._lock:
            if not RunLog._open:
                RunLog._level = log.level
                logging.captureWarnings(True)
            RunLog._open += 1
            if log.getEffectiveLevel() > logging.INFO:
                log.setLevel(logging.INFO)
        for logger in _LOGGERS:
            logger.addHandler(self._buffer)
        return self

    def open(self, folder: Path) -> None:
        """Write to ``folder/log.txt`` from here on, beginning with what was collected."""
        self._file = logging.FileHandler(folder / "log.txt", encoding="utf-8")
        self._file.addFilter(self._count)
        self._file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        for logger in _LOGGERS:
            logger.removeHandler(self._buffer)
            logger.addHandler(self._file)
        self._buffer.setTarget(self._file)
        self._buffer.flush()

    def failed(self, error: Exception) -> None:
        """Write why the run ended; whoever catches the error shows it on the terminal."""
        if self._file is not None:
            record = log.makeRecord(log.name, logging.ERROR, "", 0, "error: %s", (error,), None)
            record.thread = self._thread  # also where another one noticed
            self._file.handle(record)

    def __exit__(self, *_: object) -> None:
        for logger in _LOGGERS:
            logger.removeHandler(self._buffer)
            if self._file is not None:
                logger.removeHandler(self._file)
        self._buffer.close()
        if self._file is not None:
            self._file.close()
        with RunLog._lock:
            RunLog._open -= 1
            if not RunLog._open:
                log.setLevel(RunLog._level)
                logging.captureWarnings(False)
