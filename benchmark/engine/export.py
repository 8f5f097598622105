"""The upstream of a trained run, as a checkpoint of its own that other libraries load."""

from __future__ import annotations

from pathlib import Path

from benchmark.config import find_regime
from benchmark.engine.predict import TrainedRun
from benchmark.errors import BenchmarkError
from benchmark.interfaces import Upstream
from benchmark.registry import suggest


def trained_upstream(folder: str | Path) -> Upstream:
    """The upstream of a run as its best checkpoint on dev has it, on the CPU, in evaluation mode, adapters merged.

    Raises:
        BenchmarkError: there is no trained run, or its regime leaves the upstream unchanged.
    """
    run = TrainedRun(folder, device="cpu")
    regime = find_regime(run.config.regime)
    if not regime.trains_upstream:
        raise BenchmarkError(
            f"{folder} is a run of regime '{run.config.regime}', which leaves upstream '{run.config.upstream.name}' "
            f"unchanged: there is nothing new to export. Its checkpoint is {run.upstream.info.get('checkpoint')}"
        )
    regime.merge(run.upstream)
    return run.upstream


def export(folder: str | Path, path: str | Path, format: str | None = None) -> str:
    """Write the upstream of a trained run.

    Args:
        folder: the experiment folder.
        path: a file or folder, as the format has it, that does not exist yet.
        format: a key of :attr:`Upstream.exports`; ``None``: the first.

    Returns:
        How the result is loaded.

    Raises:
        BenchmarkError: no such format, an upstream or architecture that cannot be exported, or ``path`` exists.
    """
    path = Path(path).expanduser()
    if path.exists():
        raise BenchmarkError(f"{path} already exists and is not overwritten; choose another -o, or remove it first")
    upstream = trained_upstream(folder)
    formats = upstream.exports
    if not formats:
        raise BenchmarkError(f"upstream '{upstream.info.get('name')}' has no export format")
    if format is not None and format not in formats:
        raise BenchmarkError(f"unknown format '{format}' (--format). " + suggest(format, list(formats), noun="formats"))
    return formats[format or next(iter(formats))](upstream, path)
