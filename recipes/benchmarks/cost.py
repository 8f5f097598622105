"""What a frozen study costs, in passes of the upstream over its audio, as the audio grows.

    python recipes/benchmarks/cost.py [-o FOLDER] [--hours 0.25,0.5,1,2] [--small]

A study of every state and the weighted sum x 5 budgets x 3 seeds x 3 rates on language and speaker identification, with
an upstream of wav2vec 2.0 Base's shape (random weights, tones in noise: no accuracy means anything). For each size:
the pass (a study of one cell of one update, from nothing), the study on what that has kept, the same solved exactly,
and a few of its cells one by one, from which all are extrapolated. Writes ``cost.csv`` and ``cost.png``.
"""

from __future__ import annotations

import argparse
import copy
import csv
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import yaml
from common import BASE, RATE, TINY, commit, made
from matplotlib.figure import Figure

from benchmark import plots
from benchmark.study.recipe import cells, parse
from upstream.wav2vec2.export import save_checkpoint

SPEAKERS, LANGUAGES, SECONDS = 12, 4, 6.0
SHARES = {"train": 0.7, "dev": 0.15, "test": 0.15}
BUDGETS = ["1utt/speaker", "2utt/speaker", "4utt/speaker", "6utt/speaker", "all"]
ALONE = 2
"""Cells of each task that are run one by one."""


def write_corpus(folder: Path, hours: float) -> dict[str, str]:
    """Tones in noise; returns the manifests of train, dev and test."""
    random, paths = np.random.default_rng(0), {}
    clock = np.arange(int(RATE * SECONDS)) / RATE
    for split, share in SHARES.items():
        lines = []
        for number in range(int(hours * 3600 * share / SECONDS)):
            speaker = number % SPEAKERS
            language = speaker % LANGUAGES
            wav = np.sin(2 * np.pi * (90 + 7 * speaker) * clock) + np.sin(2 * np.pi * (500 + 200 * language) * clock)
            wav = 0.1 * wav + 0.05 * random.standard_normal(len(wav))
            name = f"{split}{number:05}"
            soundfile.write(folder / f"{name}.wav", wav.astype(np.float32), RATE)
            lines.append({"id": name, "path": f"{name}.wav", "duration": SECONDS, "speaker": f"s{speaker:02}",
                          "session": name, "language": f"l{language}"})  # fmt: skip
        paths[split] = str(folder / f"{split}.jsonl")
        Path(paths[split]).write_text("".join(json.dumps(line) + "\n" for line in lines))
    return paths


def recipe(checkpoint: Path, data: dict[str, str], steps: int) -> dict[str, Any]:
    """The study."""
    rates = {"optim.lr": [1e-2, 3e-3, 1e-3]}
    return {
        "name": "cost",
        "synthetic": True,
        "seeds": [0, 1, 2],
        "upstreams": {"base": {"name": "wav2vec2_local", "checkpoint": str(checkpoint)}},
        "tasks": {
            "lid": {"budgets": BUDGETS, "config": {"task": {"shared_speakers": True}}},
            "sid": {"budgets": BUDGETS},
        },
        "regimes": {
            "weighted_sum": {"regime": "frozen", "search": rates},
            "layers": {"regime": "single_layer", "layers": "all", "search": rates},
        },
        "config": {
            "device": "cpu",
            "data": {**data, "crop_seconds": None, "min_seconds": 0.0},
            "featurizer": {"normalize": True},
            "features": {"keep": True},
            "trainer": {"batch_size": 32, "accumulate": 1, "max_steps": steps, "eval_every": steps // 4,
                        "trackers": []},
        },
    }  # fmt: skip


def timed(study: dict[str, Any], root: Path, name: str, *options: str) -> float:
    """Seconds of ``wavbench recipe`` in a process of its own, its start included."""
    path = root / f"{name}.yaml"
    path.write_text(yaml.safe_dump(study))
    command = [sys.executable, "-m", "benchmark", "recipe", str(path), "-o", str(root / name), *options]
    begun = time.perf_counter()
    done = subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, "BENCHMARK_CACHE": str(root / "cache")}
    )
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stdout[-2000:]}{done.stderr[-4000:]}")
    return time.perf_counter() - begun


def measure(hours: float, overrides: dict[str, Any], steps: int) -> dict[str, Any]:
    """One row."""
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        save_checkpoint(made(overrides), root / "base.pt")
        (root / "corpus").mkdir()
        whole = recipe(root / "base.pt", write_corpus(root / "corpus", hours), steps)
        count = len(cells(parse(whole, root / "whole.yaml")))

        def part(**config: Any) -> dict[str, Any]:
            smaller = copy.deepcopy(whole)
            smaller["config"]["trainer"] |= config
            return smaller

        first = part(max_steps=1, eval_every=1)
        del first["regimes"]["weighted_sum"], first["tasks"]["sid"], first["regimes"]["layers"]["search"]
        first["regimes"]["layers"]["layers"], first["seeds"] = [0], [0]
        first["tasks"]["lid"]["budgets"] = ["all"]
        alone = part()
        del alone["regimes"]["weighted_sum"]
        alone["regimes"]["layers"]["layers"], alone["seeds"] = list(range(ALONE)), [0]
        for task in alone["tasks"].values():
            task["budgets"] = BUDGETS[-1:]
        exact = part()
        exact["config"]["probe"] = {"solver": "exact"}
        for regime in exact["regimes"].values():
            del regime["search"]
        row: dict[str, Any] = {"hours": hours, "cells": count, "updates": steps}
        row["pass"] = timed(first, root, "pass")
        row["study"] = timed(whole, root, "study")
        row["exact"] = timed(exact, root, "exact")
        row["alone"] = timed(alone, root, "alone", "--one-by-one", "--jobs", "1")
        row["one_by_one"] = row["alone"] * count / (2 * ALONE) / (os.cpu_count() or 1)  # as many at a time as cores
        row["passes"] = (row["pass"] + row["study"]) / row["pass"]
        row["store_mb"] = sum(path.stat().st_size for path in (root / "cache").rglob("*") if path.is_file()) / 1e6
        return row


def chart(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Seconds over hours of audio."""
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.add_subplot()
    hours = [row["hours"] for row in rows]
    for name, label in (
        ("pass", "one pass of the upstream"), ("study", "the study, states kept"),
        ("exact", "the study, solved exactly"), ("one_by_one", "the study one by one (extrapolated)"),
    ):  # fmt: skip
        axes.plot(hours, [row[name] for row in rows], marker="o", label=label)
    axes.set(xscale="log", yscale="log", xlabel="hours of audio", ylabel="seconds")
    axes.legend()
    path.write_bytes(plots.png(figure))


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path, default=Path("results/cost"))
    parser.add_argument("--hours", default="0.25,0.5,1,2", help="of audio (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=2000, help="updates of a probe (default: %(default)s)")
    parser.add_argument("--small", action="store_true", help="a tiny model: a test of the script")
    options = parser.parse_args(arguments)
    options.output.mkdir(parents=True, exist_ok=True)
    rows = []
    for hours in map(float, options.hours.split(",")):
        row = measure(hours, TINY if options.small else BASE, options.steps) | {"commit": commit()}
        rows.append(row)
        print({key: round(value, 2) if isinstance(value, float) else value for key, value in row.items()}, flush=True)
        with (options.output / "cost.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, rows[0])
            writer.writeheader()
            writer.writerows(rows)
        chart(rows, options.output / "cost.png")
    return 0


if __name__ == "__main__":
    sys.exit(main())
