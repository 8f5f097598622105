"""The files below ``checkpoints/``: ``last.pt``, from which a run is resumed, and ``best.pt``, the best on dev."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from benchmark.errors import BenchmarkError
from benchmark.files import write_atomically

FORMAT = 2
PROBE = "probe"
"""The folder of the training on the frozen upstream that ``tune.probe`` puts before fine-tuning."""
BULKY = ("pairing", "optimizer", "scheduler", "scaler")
"""What of ``last.pt`` only further training needs."""


def path(folder: Path, name: str) -> Path:
    """Of ``last`` or ``best`` in an experiment folder."""
    return folder / "checkpoints" / f"{name}.pt"


def best(folder: Path) -> Path:
    """The checkpoint of a run that was best on dev.

    Raises:
        BenchmarkError: there is none.
    """
    found = path(folder, "best")
    if not found.exists():
        raise BenchmarkError(
            f"{folder} has no checkpoints/best.pt: the run has not reached its first evaluation on dev (resume it with "
            f"-e {folder}), or its weights were not kept (trainer.keep)"
        )
    return found


def read(path: Path, use: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    """Read a checkpoint of a run and hand it to ``use``.

    Raises:
        BenchmarkError: it cannot be read, is of another format, or ``use`` cannot use it.
    """
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        if state["format"] != FORMAT:
            raise BenchmarkError(f"{path} has checkpoint format {state['format']}, expected {FORMAT}")
        use(state)
    except BenchmarkError:
        raise
    except Exception as error:  # torch.load raises whatever the broken bytes lead to
        reason = " ".join(str(error).split())[:300]
        raise BenchmarkError(
            f"{path} cannot be read as a checkpoint of this run ({type(error).__name__}: {reason}); restore the file, "
            "or start a new run with -p"
        ) from error
    return state


def write(path: Path, state: dict[str, Any]) -> None:
    """Write a checkpoint, atomically."""
    write_atomically(path, lambda file: torch.save(state, file))


def weights(folder: Path, result: Mapping[str, Any]) -> str | None:
    """Digest of the upstream's weights as a run's ``result.json`` or, where they were no file's, ``last.pt`` has it;
    ``None``: not known."""
    digest: str | None = result["upstream"]["sha256"]
    if digest is None and path(folder, "last").exists():
        with contextlib.suppress(BenchmarkError):  # it cannot be read
            digest = read(path(folder, "last"), lambda state: None)["fingerprint"].get("upstream")
    return digest


def prune(folder: Path, keep: str, *, chosen: bool = True) -> None:
    """After training: remove what ``trainer.keep`` does not ask for.

    Args:
        folder: the experiment folder.
        keep: ``all``; ``best``: no optimizer state, and only the weights that were best on dev; ``none``: no weights.
        chosen: whether a study's cell chose the run; of others, ``best`` keeps no weights either.
    """
    last = path(folder, "last")
    if keep == "all" or not last.exists():
        return
    shutil.rmtree(folder / PROBE, ignore_errors=True)

    def shrink(state: dict[str, Any]) -> None:
        if state["pairing"] is not None:
            write(last, state | dict.fromkeys(BULKY))

    read(last, shrink)
    if keep == "none" or not chosen:
        path(folder, "best").unlink(missing_ok=True)
