"""What a frozen study costs, in passes of the upstream over its audio, as the audio grows.

    python recipes/benchmarks/cost.py [-o FOLDER] [--hours 0.05,0.1,0.2,0.4] [--whole] [--small]

A study of every state and the weighted sum x 5 budgets x 3 seeds x 3 rates on language and speaker identification, with
an upstream of wav2vec 2.0 Base's shape (random weights, tones in noise: no accuracy means anything). For each size:
the pass (a study of one cell of one update, from nothing), the study on what that has kept, the same solved exactly,
its cells one by one (``--one-by-one``), and each of its runs by a command of its own. Of the last two a few are run; of
the study two of five budgets and one of three seeds, unless ``--whole``. From these all are extrapolated, the start of
the command counted once.

Seconds are of processor time, of all processes on one core, so that they can be compared on a machine that has other
work. Writes ``cost.csv`` and ``cost.png``. About 12 minutes of processor time.
"""

from __future__ import annotations

import argparse
import copy
import csv
import json
import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import yaml
from common import BASE, RATE, TINY, commit, made
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter, NullLocator

from benchmark import plots
from benchmark.study.recipe import cells, parse
from upstream.wav2vec2.export import save_checkpoint

SPEAKERS, LANGUAGES, SECONDS = 6, 3, 4.0
SHARES = {"train": 0.7, "dev": 0.15, "test": 0.15}
BUDGETS = ["1utt/speaker", "2utt/speaker", "3utt/speaker", "4utt/speaker", "all"]
RATES = [1e-2, 3e-3, 1e-3]
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
    rates = {"optim.lr": RATES}
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


def timed(root: Path, arguments: Sequence[str]) -> float:
    """Processor seconds of ``wavbench`` on one core, in a process of its own, with all that it starts."""
    environment = {"BENCHMARK_CACHE": str(root / "cache"), "SLURM_CPUS_ON_NODE": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "benchmark", *arguments]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **environment})
    if done.returncode:
        raise SystemExit(f"wavbench {' '.join(arguments)} failed:\n{done.stdout[-2000:]}{done.stderr[-4000:]}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime


def some(study: dict[str, Any], budgets: list[str], layers: Any, **config: Any) -> dict[str, Any]:
    """One seed of a study, with some of its budgets and layers."""
    smaller = copy.deepcopy(study)
    smaller["seeds"] = [0]
    for task in smaller["tasks"].values():
        task["budgets"] = budgets
    smaller["regimes"]["layers"]["layers"] = layers
    for section, values in config.items():
        smaller["config"].setdefault(section, {}).update(values)
    return smaller


def measure(hours: float, overrides: dict[str, Any], steps: int, *, whole: bool) -> dict[str, Any]:
    """One row."""
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        save_checkpoint(made(overrides), root / "base.pt")
        (root / "corpus").mkdir()
        study = recipe(root / "base.pt", write_corpus(root / "corpus", hours), steps)

        def of(name: str, study: dict[str, Any], *options: str) -> tuple[float, int]:
            """Seconds, and how many cells there are."""
            path = root / f"{name}.yaml"
            path.write_text(yaml.safe_dump(study))
            seconds = timed(root, ["recipe", str(path), "-o", str(root / name), *options])
            return seconds, len(cells(parse(study, path)))

        one = some(study, BUDGETS[-1:], [0], trainer={"max_steps": 1, "eval_every": 1})
        del one["regimes"]["weighted_sum"], one["regimes"]["layers"]["search"], one["tasks"]["sid"]
        cold, _ = of("cold", one)
        start, _ = of("start", one)
        sample = study if whole else some(study, BUDGETS[:: len(BUDGETS) - 1], "all")
        exact = copy.deepcopy(sample)
        exact["config"]["probe"] = {"solver": "exact"}
        for regime in exact["regimes"].values():
            del regime["search"]
        alone = some(study, BUDGETS[-1:], list(range(ALONE)))
        del alone["regimes"]["weighted_sum"]
        count = len(cells(parse(study, root / "study.yaml")))
        row: dict[str, Any] = {"hours": hours, "cells": count, "updates": steps, "start": start, "pass": cold - start}
        for name, part, *options in (("study", sample), ("exact", exact), ("one_by_one", alone, "--one-by-one")):
            seconds, ran = of(name, part, *options)
            row[name] = start + max(0.0, seconds - start) * count / ran
            row[f"{name}_ran"] = ran
        folder = next((root / "one_by_one").rglob("config.yaml")).parent
        seconds = timed(root, ["run", "-c", str(folder / "config.yaml"), "-p", str(root / "command")])
        row["commands"] = seconds * count * len(RATES)
        row["passes"] = (cold + row["study"] - start) / row["pass"]
        row["fewer_than_one_by_one"] = row["one_by_one"] / row["study"]
        row["fewer_than_commands"] = row["commands"] / row["study"]
        row["store_mb"] = sum(path.stat().st_size for path in (root / "cache").rglob("*") if path.is_file()) / 1e6
        return row


def chart(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Processor seconds over hours of audio."""
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.add_subplot()
    hours = [row["hours"] for row in rows]
    for name, label in (
        ("commands", "each run a command (extrapolated)"), ("one_by_one", "the study one by one (extrapolated)"),
        ("study", "the study, states kept"), ("exact", "the study, solved exactly"),
        ("pass", "one pass of the upstream"),
    ):  # fmt: skip
        axes.plot(hours, [row[name] for row in rows], marker="o", label=label)
    axes.set(xscale="log", yscale="log", xlabel="hours of audio", ylabel="seconds of processor time")
    axes.set_xticks(hours, [f"{value:g}" for value in hours])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.yaxis.set_minor_formatter(NullFormatter())
    figure.legend(loc="outside right upper", fontsize="small")
    path.write_bytes(plots.png(figure))


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path, default=Path("results/cost"))
    parser.add_argument("--hours", default="0.05,0.1,0.2,0.4", help="of audio (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=200, help="updates of a probe (default: %(default)s)")
    parser.add_argument("--whole", action="store_true", help="run all cells of the study")
    parser.add_argument("--small", action="store_true", help="a tiny model: a test of the script")
    options = parser.parse_args(arguments)
    options.output.mkdir(parents=True, exist_ok=True)
    rows = []
    for hours in map(float, options.hours.split(",")):
        row = measure(hours, TINY if options.small else BASE, options.steps, whole=options.whole) | {"commit": commit()}
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
