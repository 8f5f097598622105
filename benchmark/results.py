"""``result.json``: one run's outcome with everything needed to trust and repeat it."""

from __future__ import annotations

import json
import platform
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from benchmark.errors import BenchmarkError
from benchmark.files import write_text

SCHEMA = 1

FIELDS = {
    "schema": "version of this format",
    "upstream": "name, checkpoint (file), sha256 of the file, and what its card says",
    "downstream": "name, protocol_version, task, corpus; evaluated: what stands for test in metrics and data, 'test' "
    "or what -m evaluate was pointed at",
    "regime": "frozen, probe, partial, finetune or lora",
    "state": "the probed state, or null for the weighted sum",
    "budget": "name: how many training labels were used, as --budget takes it; seed: of their order, null for 'all'; "
    "the ids are in budget.txt, their number, hours and digest in data.train",
    "seed": "of the head's initial values, the order of the data and the crops; of an upstream's random weights",
    "selected": "update (step) whose checkpoint was evaluated, chosen on dev, and the metric that chose it",
    "metrics": "evaluation set -> metric -> value; eer, wer, cer, accuracy, macro_f1 in percent, "
    "min_dcf_p01, min_dcf_p05, cavg, min_cavg in [0, 1]",
    "layer_weights": "softmax weights over the states of the selected checkpoint; null for one state",
    "layer_norms": "mean L2 norm of a frame of each state, on dev",
    "layer_shares": "each state's share of the summed feature's squared norm, on dev; sums to 1",
    "cost": "updates; audio_seconds_seen in training; upstream_audio_seconds, evaluation included; wall_seconds; "
    "peak_memory_bytes (of the process on CPU, of the device on CUDA); trainable_parameters",
    "data": "split -> utterances, seconds, speakers, languages, digest; train also: dropped (why -> utterances)",
    "provenance": "commit, dirty, versions, device, started (UTC), command: of the process that started the run",
}
"""Every field of ``result.json``, top level."""


def write(path: Path, result: dict[str, Any]) -> None:
    """Write a result; refuses one whose fields are not exactly the documented ones."""
    if result.keys() != FIELDS.keys():
        raise ValueError(f"result fields {sorted(result)} are not the documented {sorted(FIELDS)}")
    write_text(path, json.dumps(result, indent=2, allow_nan=False) + "\n")


def read(path: Path) -> dict[str, Any]:
    """Read a result; :class:`BenchmarkError` where it is not one of this schema."""
    try:
        result: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BenchmarkError(f"{path} is not a readable result: {error}") from error
    schema = result.get("schema") if isinstance(result, dict) else None
    if schema != SCHEMA:
        raise BenchmarkError(f"{path} has result schema {schema}; this version of wavbench reads schema {SCHEMA}")
    return result


def provenance(device: str) -> dict[str, Any]:
    """Commit, versions, device, time and command of this process."""
    names = ("torch", "torchaudio", "numpy", "scikit-learn", "soundfile", "accelerate", "omegaconf")
    root = Path(__file__).resolve().parent.parent

    def git(*arguments: str) -> str | None:
        try:
            done = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True, timeout=10)
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    status = git("status", "--porcelain", "--untracked-files=no")
    return {
        "commit": git("rev-parse", "HEAD"),
        "dirty": None if status is None else bool(status),
        "versions": {"python": platform.python_version(), **{name: _version(name) for name in names}},
        "device": device,
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": shlex.join(sys.argv),
    }


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def table(result: dict[str, Any]) -> str:
    """A result as the lines printed at the end of a run."""
    downstream, cost = result["downstream"], result["cost"]
    how = result["regime"] if result["state"] is None else f"{result['regime']} of state {result['state']}"
    lines = [f"{upstream_name(result)} x {downstream['name']}, {how}, seed {result['seed']}"]
    metrics = sorted({name for values in result["metrics"].values() for name in values})
    width = max(len(name) for name in result["metrics"])
    lines.append("  " + " " * width + "".join(f"  {name:>10}" for name in metrics))
    for name, values in result["metrics"].items():
        cells = [(_number(values[metric]) if metric in values else "", max(10, len(metric))) for metric in metrics]
        lines.append(f"  {name:<{width}}" + "".join(f"  {cell:>{columns}}" for cell, columns in cells))
    lines.append(
        f"  {cost['updates']} updates, {cost['audio_seconds_seen'] / 3600:.2f} h of audio seen, "
        f"{cost['trainable_parameters'] / 1e6:.2f} M trained parameters, {cost['wall_seconds']:.0f} s, "
        f"peak memory {cost['peak_memory_bytes'] / 2**30:.2f} GiB; checkpoint of update {result['selected']['step']}"
    )
    return "\n".join(lines)


def upstream_name(result: Mapping[str, Any]) -> str:
    """What a result's upstream is called where results are shown."""
    upstream = result["upstream"]
    return f"{upstream['name']}, random weights" if upstream.get("random_weights") else str(upstream["name"])


def _number(value: float) -> str:
    return str(value) if isinstance(value, int) else f"{value:.4f}"


def collect(folders: Sequence[Path]) -> list[dict[str, Any]]:
    """The results of the runs at and below some folders, in the order of their paths; what ``-m evaluate`` scored
    elsewhere is not among them. :class:`BenchmarkError` where none is."""
    found = [path for folder in folders for path in sorted(folder.rglob("result.json"))]
    paths = [path for path in found if path.parent.parent.name != "evaluations"]
    if not paths:
        raise BenchmarkError(f"no result.json at or below {', '.join(map(str, folders))}")
    return [read(path) for path in paths]


def markdown(found: Sequence[dict[str, Any]]) -> str:
    """Results as a Markdown table: a line each, its metrics by evaluation set."""
    columns = ("downstream", "upstream", "regime", "budget", "seed", "dev", "test", "updates", "seconds")
    lines = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    for result in found:
        state = "" if result["state"] is None else f" of state {result['state']}"
        others = [
            f"{name}: {_brief(values)}" for name, values in result["metrics"].items() if name not in ("dev", "test")
        ]
        cells = [
            result["downstream"]["name"],
            upstream_name(result),
            result["regime"] + state,
            result["budget"]["name"],
            str(result["seed"]),
            _brief(result["metrics"]["dev"]),
            "<br>".join([_brief(result["metrics"]["test"]), *others]),
            str(result["cost"]["updates"]),
            f"{result['cost']['wall_seconds']:.0f}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


BRIEF = ("eer", "min_dcf_p01", "wer", "cer", "accuracy", "macro_accuracy", "macro_f1", "min_cavg", "error")
"""Metrics that a line of the Markdown table has room for."""


def _brief(metrics: Mapping[str, float]) -> str:
    shown = {name: metrics[name] for name in BRIEF if name in metrics} or metrics
    return ", ".join(
        f"{name} {value:.3f}" if 0 < value <= 1 else f"{name} {value:.1f}" for name, value in shown.items()
    )
