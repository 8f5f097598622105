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

from benchmark import registry, shapes
from benchmark.calibration import SUFFIX
from benchmark.errors import BenchmarkError
from benchmark.files import write_text
from benchmark.tables import Table, Value

SCHEMA = 1

FIELDS = {
    "schema": "version of this format",
    "upstream": "name, checkpoint (file), sha256 of the file, and what its card says",
    "downstream": "name, protocol_version, task, corpus; evaluated: the data behind 'test' in metrics and data, 'test' "
    "or the target of -m evaluate; confounds: what else could explain results, as the card says it",
    "regime": "frozen, single_layer, partial, finetune, bitfit, houlsby, prefix, lora or the name of a plug-in's",
    "state": "the layer that the head sees (hidden states are numbered from 0), or null for the weighted sum",
    "budget": "name: amount of labelled training data, as --budget takes it; seed: of the order in which it is drawn, "
    "null for 'all'; the ids are in budget.txt, their number, hours and digest in data.train",
    "seed": "of the head's initial values, the order of the data and the crops; of an upstream's random weights",
    "selected": "step: the update whose checkpoint was evaluated; metric and value, on dev: what the task selects by",
    "metrics": "evaluation set -> metric -> value; rates in percent, costs without unit (Cllr in bits); see "
    "benchmark/metrics.py; train_speaker_out, train_session_out: of training data, by leaving out (probe.solver=exact)",
    "calibration": "from scores to log-likelihood ratios, fitted on dev: scale (a number) and offsets (one; of classes "
    "one each, in the order of the head's outputs); metrics named *_calibrated are of scores that it was applied to; "
    "null: task or dev give none; see benchmark/calibration.py",
    "layer_weights": "softmax weights of the layers in the selected checkpoint; null for a single layer and for hconv",
    "layer_key_weights": "of the keys that the head attends by (mhfa); layer_weights is of its values then; else null",
    "layer_norms": "mean L2 norm of a frame of each layer, on dev",
    "layer_shares": "each layer's share of the summed feature's squared norm, on dev; sums to 1",
    "cost": "updates; probe_updates before them, with tune.probe; audio_seconds_seen in both; upstream_audio_seconds, "
    "evaluation included; wall_seconds; peak_memory_bytes (of the process on CPU, of the device on CUDA); "
    "trainable_parameters",
    "data": "split -> utterances, seconds, speakers, languages, digest; train also: dropped (why -> utterances)",
    "warnings": "what was logged as a warning, each once, in all processes of the run",
    "provenance": "commit, dirty, versions, device, started (UTC) and command of the process that started the run",
}
"""Every field of ``result.json``, top level."""


_UPSTREAM = {"name": str, "checkpoint?": (str, None), "random_weights?": (bool, None)}
_DOWNSTREAM = {"name": str, "corpus?": str, "evaluated?": str}
_SHAPE: dict[Any, Any] = {
    "upstream": _UPSTREAM | {"sha256": (str, None)},
    "downstream": _DOWNSTREAM | {"protocol_version": (int, None), "task": str},
    "regime": str, "state": (int, None), "seed": int,
    "budget": {"name": str, "seed?": (int, None)},
    "selected": {"step": int, "metric": str, "value": float},
    "metrics": {"dev": {...: float}, "test": {...: float}, ...: {...: float}},
    "layer_weights?": ([float], None), "layer_key_weights?": ([float], None),
    "layer_norms?": ([float], None), "layer_shares?": ([float], None),
    "cost": {"updates": int, "probe_updates?": int, "audio_seconds_seen": float, "upstream_audio_seconds?": float,
             "wall_seconds": float, "peak_memory_bytes": float, "trainable_parameters": float},
    "data": {name: {"utterances": int, "seconds": float, "speakers": int, "languages": int, "digest": str}
             for name in ("train", "dev", "test")},
    "warnings": [str],
    "provenance": {"commit": (str, None), "dirty?": (bool, None), "versions?": {...: (str, None)}, "device": str,
                   "started?": str, "command?": str},
}  # fmt: skip
"""What :func:`check` asks of a result, which others may have made (:mod:`benchmark.shapes`)."""
_PARTLY = {name: (shape, None) for name, shape in _SHAPE.items()} | {
    "upstream": (_UPSTREAM | {"sha256?": (str, None)}, None),
    "downstream": (_DOWNSTREAM | {"protocol_version?": (int, None), "task?": str}, None),
    "data": ({...: {...: (float, str, {...: float}, None)}}, None),
}
"""What :func:`read` asks: fields may be null, and splits say less."""


def write(path: Path, result: dict[str, Any]) -> None:
    """Write a result; raises ``ValueError`` where its fields are not exactly the documented ones."""
    if result.keys() != FIELDS.keys():
        raise ValueError(f"result fields {sorted(result)} are not the documented {sorted(FIELDS)}")
    write_text(path, json.dumps(result, indent=2, allow_nan=False) + "\n")


def read(path: Path) -> dict[str, Any]:
    """Read a result. Results of 0.1 have no warnings and no calibration, and their regimes get their current names.

    Raises:
        BenchmarkError: the file is not a result of this schema.
    """
    if not path.exists():
        raise BenchmarkError(f"{path.parent} holds no result (no {path.name})")
    try:
        result: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise BenchmarkError(f"{path} is not a readable result: {error}") from error
    schema = result.get("schema") if isinstance(result, dict) else None
    if schema != SCHEMA:
        raise BenchmarkError(f"{path} has result schema {schema}; this version of wavbench reads schema {SCHEMA}")
    result.setdefault("warnings", [])
    result.setdefault("calibration", None)
    result.setdefault("layer_key_weights", None)
    check(path, result, _PARTLY)
    if result["regime"] in registry.regimes:
        result["regime"] = registry.regimes.get(result["regime"]).name
    return result


def check(path: Path, result: Mapping[str, Any], shape: Any = _SHAPE) -> None:
    """Raise :class:`BenchmarkError` unless all that reports use of a result is there, and of the right type."""
    if found := shapes.problem(result, shape):
        raise BenchmarkError(f"{path} is not a readable result: {found}")


def provenance(device: str) -> dict[str, Any]:
    """Commit, versions, device, time and command of this process."""
    names = ("torch", "torchaudio", "numpy", "scikit-learn", "soundfile", "omegaconf")
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


def upstream_name(result: Mapping[str, Any]) -> str:
    """What a result's upstream is called where results are shown."""
    upstream = result["upstream"]
    return f"{upstream['name']}, random weights" if upstream.get("random_weights") else str(upstream["name"])


def _how(result: Mapping[str, Any]) -> str:
    return str(result["regime"]) + ("" if result["state"] is None else f", layer {result['state']}")


def table(result: dict[str, Any]) -> str:
    """A result as the lines printed at the end of a run."""
    cost = result["cost"]
    before = f" after {cost['probe_updates']} on the frozen upstream" if "probe_updates" in cost else ""
    sets = result["metrics"]
    rows = [
        [name, *(_decimals(values[name]) if name in values else "" for values in sets.values())]
        for name in sorted({name for values in sets.values() for name in values})
    ]
    lines = [
        f"{upstream_name(result)} x {result['downstream']['name']}, {_how(result)}, seed {result['seed']}",
        *Table(["", *sets], rows).text().splitlines(),
        f"{cost['updates']} updates{before}, {cost['audio_seconds_seen'] / 3600:.2f} h of audio seen in training, "
        f"{cost['trainable_parameters'] / 1e6:.2f} M trained parameters, {cost['wall_seconds']:.0f} s, "
        f"peak memory {cost['peak_memory_bytes'] / 2**30:.2f} GiB; checkpoint of update {result['selected']['step']}",
    ]
    return "\n  ".join(lines)


def _decimals(value: float) -> str:
    return str(value) if isinstance(value, int) else f"{value:.4f}"


def paths(folders: Sequence[Path]) -> list[Path]:
    """The ``result.json`` of the runs at and below some folders; see :func:`collect`."""
    every = [path for folder in folders for path in sorted(folder.rglob("result.json"))]
    found = [path for path in every if path.parent.parent.name != "evaluations"]
    if not found:
        raise BenchmarkError(f"no result.json at or below {', '.join(map(str, folders))}")
    return found


def collect(folders: Sequence[Path]) -> list[dict[str, Any]]:
    """The results of the runs at and below some folders, in the order of their paths.

    Results of ``-m evaluate`` on other data are left out.

    Raises:
        BenchmarkError: there is no result, or one cannot be read.
    """
    return [read(path) for path in paths(folders)]


def rows(folders: Sequence[Path]) -> list[dict[str, Any]]:
    """The results of :func:`collect` as flat rows, ready for a ``DataFrame``.

    Returns:
        One row per run: folder, upstream, downstream, regime, layer, budget, seed and step; metrics as ``test/eer``;
        the run's costs by their own names; train_utterances, train_hours, commit and device. A metric that a run does
        not have is missing from its row.
    """
    return [_row(path.parent, read(path)) for path in paths(folders)]


def _row(folder: Path, result: Mapping[str, Any]) -> dict[str, Any]:
    train, provenance = result["data"]["train"], result["provenance"]
    return {
        "folder": str(folder),
        "upstream": upstream_name(result),
        "downstream": result["downstream"]["name"],
        "regime": result["regime"],
        "layer": result["state"],
        "budget": result["budget"]["name"],
        "seed": result["seed"],
        "step": result["selected"]["step"],
        **{f"{name}/{metric}": value for name, of in result["metrics"].items() for metric, value in of.items()},
        **result["cost"],
        "train_utterances": train["utterances"],
        "train_hours": train["seconds"] / 3600,
        "commit": provenance["commit"],
        "device": provenance["device"],
    }


def markdown(results: Sequence[Mapping[str, Any]], names: Sequence[str] = ()) -> str:
    """Results as a Markdown table: one line each, with the metrics of its evaluation sets, and a name where given."""
    columns: tuple[str, ...] = (
        "downstream", "upstream", "regime", "budget", "seed", "dev", "test", "updates", "seconds",
    )  # fmt: skip
    lines: list[list[Value]] = []
    for result in results:
        others = [
            f"{name}: {_brief(values)}" for name, values in result["metrics"].items() if name not in ("dev", "test")
        ]
        lines.append(
            [
                result["downstream"]["name"],
                upstream_name(result),
                _how(result),
                result["budget"]["name"],
                str(result["seed"]),
                _brief(result["metrics"]["dev"]),
                "<br>".join([_brief(result["metrics"]["test"]), *others]),
                str(result["cost"]["updates"]),
                f"{result['cost']['wall_seconds']:.0f}",
            ]
        )
    if names:
        columns = ("folder", *columns)
        lines = [[name, *line] for name, line in zip(names, lines, strict=True)]
    return Table(columns, lines).markdown()


OMITTED = (
    "min_dcf_p05", "act_dcf_p01", "act_dcf_p05", "cllr", "min_cllr", "cavg", "top5_accuracy", "substitutions",
    "deletions", "insertions", "blank_share", "languages", "utterances",
)  # fmt: skip
"""Metrics that a line of the Markdown table has no room for."""


def _brief(metrics: Mapping[str, float]) -> str:
    return ", ".join(
        f"{name} {value:.3f}" if 0 < value <= 1 else f"{name} {value:.1f}"
        for name, value in metrics.items()
        if name not in OMITTED and not name.endswith(SUFFIX)
    )
