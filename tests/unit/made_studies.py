"""Made-up studies on disk, as ``wavbench recipe`` would have left them."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import NormalDist
from typing import Any

import numpy as np
import yaml

from benchmark import evaluation, metrics, results

LAYERS = 4
HOURS = {"10min": 1 / 6, "1h": 1.0, "all": 5.2}
LEVELS = {"frozen": (18.0, 12.0, 9.0), "finetuned": (22.0, 9.0, 4.0)}
"""About the errors in percent at the three budgets: the curves cross, and fine-tuning is better from 1 h on."""


def study_yaml(**changes: Any) -> dict[str, Any]:
    return {
        "name": "toy",
        "question": "What does fine-tuning <buy>?",
        "upstreams": {"tiny": {"name": "some_upstream"}},
        "tasks": {
            "verify": {"budgets": list(HOURS), "targets": {"frozen, EER": 6.02, "source": "somebody (2021)"}},
            "languages": {"budgets": list(HOURS)},
            "words": {"budgets": list(HOURS)},
        },
        "regimes": {
            "frozen": {"regime": "frozen", "search": {"optim.lr": [0.1, 0.2]}},
            "finetuned": {"regime": "finetune", "search": {"optim.upstream_lr": [0.1, 0.2]}},
            "layers": {
                "regime": "single_layer", "layers": "all", "budgets": ["all"], "seeds": [0],
                "search": {"optim.lr": [0.1, 0.2]},
            },
        },
        "seeds": [0, 1],
        **changes,
    }  # fmt: skip


def trial_files(error: float, random: np.random.RandomState) -> tuple[dict[str, float], dict[str, str]]:
    """Trials of 24 speakers, a list that is always the same, and scores with about that EER."""
    order = np.random.RandomState(5)
    lines, labels, scores = [], [], []
    distance = 2 * abs(NormalDist().inv_cdf(error / 100))
    offset = order.normal(size=24) * 0.4
    for speaker in range(24):
        for trial in range(40):
            label = trial % 2
            other = speaker if label else int((speaker + 1 + order.randint(23)) % 24)
            ids = [f"id1{who:04d}/video{order.randint(5)}/{trial:05d}.wav" for who in (speaker, other)]
            score = random.normal() + distance * label + offset[speaker] * label
            lines.append(f"{label} {ids[0]} {ids[1]} {score:.9g}\n")
            labels.append(label)
            scores.append(float(f"{score:.9g}"))
    sides = [[line.split()[side] for line in lines] for side in (1, 2)]
    ids, index = np.unique([*sides[0], *sides[1]], return_inverse=True)
    enrolment, test = np.split(index, 2)
    names = ids.tolist()
    items = evaluation.Trials(
        names, [name.split("/")[0] for name in names], "speaker", np.array(labels), enrolment, test, np.array(scores)
    )
    values = {"eer": metrics.eer(labels, scores)}
    return values, {"scores.txt": "".join(lines), evaluation.FILE: evaluation.describe(items, list(values))}


def language_files(error: float, random: np.random.RandomState) -> tuple[dict[str, float], dict[str, str]]:
    names = ["aa", "bb", "cc", "dd"]
    references = np.arange(160) % 4
    wrong = random.uniform(size=160) < error / 100
    best = np.where(wrong, (references + 1 + random.randint(3, size=160)) % 4, references)
    logits = random.normal(size=(160, 4)) * 0.3 + 3.0 * np.eye(4)[best]
    logs = np.round(logits - np.log(np.exp(logits).sum(1, keepdims=True)), 5)
    lines = [
        {"id": f"{names[r]}/test/s{k % 16}/{k}.wav", "reference": names[r], "prediction": names[b],
         "log_posteriors": row.tolist()}
        for k, (r, b, row) in enumerate(zip(references, best, logs, strict=True))
    ]  # fmt: skip
    ids = [str(line["id"]) for line in lines]
    items = evaluation.Classes(ids, [name.rpartition("/")[0] for name in ids], "speaker", names, references, best, logs)
    values = {"macro_accuracy": metrics.macro_accuracy(references, best)}
    return values, {"predictions.jsonl": jsonl(lines), evaluation.FILE: evaluation.describe(items, list(values))}


def word_files(error: float, random: np.random.RandomState) -> tuple[dict[str, float], dict[str, str]]:
    lines = []
    for k in range(80):
        wrong = int(random.binomial(10, min(1.0, error / 100)))
        reference = " ".join(f"w{j}" for j in range(10))
        hypothesis = " ".join(["x"] * wrong + [f"w{j}" for j in range(wrong, 10)])
        lines.append({"id": f"{k % 9}-1-{k:04d}", "reference": reference, "prediction": hypothesis,
                      "substitutions": wrong, "deletions": 0, "insertions": 0})  # fmt: skip
    values = {"wer": 100 * sum(line["substitutions"] for line in lines) / 800}
    ids, references, hypotheses = ([str(line[key]) for line in lines] for key in ("id", "reference", "prediction"))
    items = evaluation.Edits(ids, [name.split("-")[0] for name in ids], "speaker", references, hypotheses)
    return values, {"predictions.jsonl": jsonl(lines), evaluation.FILE: evaluation.describe(items, list(values))}


def jsonl(lines: Sequence[dict[str, Any]]) -> str:
    return "".join(json.dumps(line) + "\n" for line in lines)


FILES: dict[str, Callable[..., tuple[dict[str, float], dict[str, str]]]] = {
    "verify": trial_files, "languages": language_files, "words": word_files
}  # fmt: skip


def write_cell(root: Path, task: str, regime: str, budget: str, seed: int, *, layer: int | None = None,
               error: float | None = None, config: dict[str, Any] | None = None) -> Path:  # fmt: skip
    """A finished cell; returns the folder of its chosen run."""
    random = np.random.RandomState([seed, layer or 0, list(HOURS).index(budget), len(regime), len(task)])
    level = LEVELS.get(regime, (30.0,) * 3)[list(HOURS).index(budget)] - 4 * (layer or 0)
    values, files = FILES[task](level if error is None else error, random)
    name = regime if layer is None else f"{regime}-{layer}"
    cell = root / "tiny" / task / name / budget / f"seed{seed}"
    folder = cell / "lr=0.1"
    folder.mkdir(parents=True)
    ((metric, value),) = values.items()
    key = "optim.upstream_lr" if regime == "finetuned" else "optim.lr"
    tried = [{"name": f"lr={lr}", "candidate": {key: lr}, "dev": value + lr, "step": 100} for lr in (0.1, 0.2)]
    outcome = {"study": "toy", "regime": regime, "chosen": "lr=0.1", "metric": metric, "tried": tried}
    (cell / "cell.json").write_text(json.dumps(outcome))
    kind = {"frozen": "frozen", "finetuned": "finetune", "layers": "single_layer"}[regime]
    weights = np.exp(random.normal(size=LAYERS) + (regime == "finetuned") * np.arange(LAYERS))
    weights = (weights / weights.sum()).tolist() if layer is None else None
    seconds = 3600 * HOURS[budget]
    result = {
        "schema": results.SCHEMA,
        "upstream": {"name": "some_upstream", "checkpoint": "tiny.pt", "sha256": "ab12"},
        "downstream": {"name": task, "protocol_version": 1, "task": task, "corpus": "c", "evaluated": "test"},
        "regime": kind,
        "state": layer,
        "budget": {"name": budget, "seed": None if budget == "all" else seed},
        "seed": seed,
        "selected": {"step": 100, "metric": metric, "value": value + 0.1},
        "metrics": {"dev": {metric: value + 0.1}, "test": values},
        "calibration": None,
        "layer_weights": weights,
        "layer_key_weights": None,
        "layer_norms": None if weights is None else [1.0] * LAYERS,
        "layer_shares": weights,
        "cost": {
            "updates": 100, "audio_seconds_seen": seconds * 3, "upstream_audio_seconds": seconds * 4,
            "wall_seconds": 60.0 * (3 if regime == "finetuned" else 1), "peak_memory_bytes": 10**9,
            "trainable_parameters": 10**6 if regime == "finetuned" else 10**4,
        },
        "data": {
            split: {"utterances": 100, "seconds": seconds, "speakers": 9, "languages": 0,
                    "digest": f"{split}{budget if split == 'train' else ''}"}
            for split in ("train", "dev", "test")
        },
        "warnings": [],
        "provenance": {
            "commit": "0123456789abcdef", "dirty": False, "versions": {"python": "3.11"}, "device": "cpu, 1 threads",
            "started": "2026-11-22T10:00:00+00:00", "command": "wavbench recipe toy.yaml",
        },
    }  # fmt: skip
    results.write(folder / "result.json", result)
    run = {
        "regime": kind, "seed": seed, "budget": budget, "featurizer": {"layer": layer, "normalize": True},
        "optim": {"lr": 0.1, "upstream_lr": 0.1}, "data": {"root": "/nowhere", "crop_seconds": 2.0}, "device": "cpu",
        **(config or {}),
    }  # fmt: skip
    (folder / "config.yaml").write_text(yaml.safe_dump(run))
    for file, content in files.items():
        (folder / file).write_text(content)
    return folder


def write_study(root: Path, *, tasks: Sequence[str] = tuple(FILES), seeds: Sequence[int] = (0, 1), layers: bool = True,
                **changes: Any) -> Path:  # fmt: skip
    root.mkdir(parents=True)
    recipe = study_yaml(**changes)
    recipe["tasks"] = {task: recipe["tasks"][task] for task in tasks}
    (root / "study.yaml").write_text(yaml.safe_dump(recipe, sort_keys=False))
    for task in tasks:
        for budget in HOURS:
            for seed in seeds:
                for regime in LEVELS:
                    write_cell(root, task, regime, budget, seed)
        for layer in range(LAYERS) if layers else ():
            write_cell(root, task, "layers", "all", 0, layer=layer)
    return root


def change(path: Path, *keys: str, to: Any) -> None:
    """Set a value of a JSON file."""
    result = json.loads(path.read_text())
    inner = result
    for key in keys[:-1]:
        inner = inner[key]
    inner[keys[-1]] = to
    path.write_text(json.dumps(result))
