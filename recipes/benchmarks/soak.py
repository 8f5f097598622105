"""A study of tiny cells under random kills, beside one left alone.

    python recipes/benchmarks/soak.py FOLDER [--seeds 50] [--minutes 30] [--every 15] [--seed 0]

Four cells of each seed, half of which train together: 200 with the default. One study is left alone. Others run as
commands that share a folder (``--join``), whose processes are stopped and killed at random, now a worker, now a
command, now everything as when a node dies, until the time is up; a study that ends before is followed by another. Each
must end with the results of the first one, no cell that was done may be written again, and nothing half-written may be
left.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import yaml

from benchmark import results
from benchmark.study.status import PLAN

CLASSES = 4
PLUGIN = """
import torch
from benchmark import registry
from benchmark.interfaces import HiddenStates, Upstream


class Spectrum(Upstream):
    sample_rate, hidden_size, num_states, frame_shift = 16000, 32, 1, 320

    def __init__(self):
        super().__init__()
        self.info = {"name": "spectrum"}

    def output_lengths(self, wav_lens):
        return wav_lens // 320

    @torch.no_grad()
    def forward(self, wavs, wav_lens, *, keep=None):
        frames = wavs[:, : wavs.size(1) // 320 * 320].unflatten(1, (-1, 320))
        lengths = self.output_lengths(wav_lens)
        valid = torch.arange(frames.size(1)) < lengths[:, None]
        return HiddenStates([torch.fft.rfft(frames).abs()[..., 1:33].log1p() * valid[..., None]], lengths)


registry.upstreams.register("spectrum", Spectrum)
"""
"""An upstream that costs nothing: what is soaked is the rest."""
TOLERANCE = 1e-4
"""Relative: stacks of other cells are summed in another order."""


def write_study(folder: Path, seeds: int) -> Path:
    """Short tones, their manifests and a recipe."""
    generator = np.random.default_rng(0)
    folder.mkdir(parents=True, exist_ok=True)
    for split, count in (("train", 10), ("dev", 4), ("test", 4)):
        lines = []
        for i in range(count * CLASSES):
            seconds = np.arange(generator.integers(3200, 6400)) / 16000
            wav = 0.1 * np.sin(2 * np.pi * (300 + 50 * (i % CLASSES)) * seconds)
            path = folder / f"{split}{i}.wav"
            soundfile.write(path, (wav + 0.3 * generator.standard_normal(len(wav))).clip(-1, 1), 16000)
            lines.append(json.dumps({"id": path.stem, "path": str(path), "tone": f"t{i % CLASSES}"}))
        (folder / f"{split}.jsonl").write_text("\n".join(lines) + "\n")
    data = {split: f"{split}.jsonl" for split in ("train", "dev", "test")}
    config = {
        "device": "cpu",
        "data": {**data, "crop_seconds": None, "min_seconds": 0.1},
        "optim": {"lr": 0.02},
        "trainer": {
            "max_steps": 20,
            "eval_every": 10,
            "batch_size": 8,
            "save_every": 5,
            "accumulate": 1,
            "trackers": [],
        },
        "task": {"label": "tone", "head": {"name": "mean"}},
    }
    recipe = {
        "name": "soak",
        "synthetic": True,
        "seeds": list(range(seeds)),
        "plugins": ["plugin.py"],
        "upstreams": {"spectrum": {"name": "spectrum"}},
        "tasks": {"classify": {"config": config, "budgets": ["20utt", "all"]}},
        "regimes": {
            "together": {"regime": "frozen", "config": {"features": {"keep": True}}},
            "alone": {"regime": "frozen", "config": {"features": {"keep": False}}},
        },
    }
    (folder / "plugin.py").write_text(PLUGIN)
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe))
    return path


class Command:
    """A command that runs the study on one core, in a session of its own."""

    def __init__(self, recipe: Path, output: Path, cache: Path, core: int) -> None:
        command = [sys.executable, "-m", "benchmark", "recipe", str(recipe), "-o", str(output), "--join", "--jobs", "1"]
        environment = os.environ | {"BENCHMARK_CACHE": str(cache), "OMP_NUM_THREADS": "1"}
        self.log = open(output.with_suffix(".log"), "a", encoding="utf-8")  # noqa: SIM115
        self.process = subprocess.Popen(
            command, env=environment, stdout=self.log, stderr=self.log, start_new_session=True
        )
        os.sched_setaffinity(self.process.pid, {core})

    def workers(self) -> list[int]:
        """Its child processes."""
        found = []
        for entry in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError, ValueError):
                if int((entry / "stat").read_text().rpartition(")")[2].split()[1]) == self.process.pid:
                    found.append(int(entry.name))
        return found

    def hit(self, how: str, draw: random.Random) -> None:
        """Stop it or a part of it."""
        with contextlib.suppress(ProcessLookupError):
            if how == "worker killed":
                children = self.workers()
                os.kill(draw.choice(children) if children else self.process.pid, signal.SIGKILL)
            elif how == "command killed":
                self.process.kill()
            elif how == "command stopped":
                self.process.terminate()
            else:
                os.killpg(self.process.pid, signal.SIGKILL)


HITS = ("worker killed", "command killed", "command stopped", "all killed")


def run(
    recipe: Path, output: Path, cache: Path, until: float, every: float, draw: random.Random
) -> tuple[Counter[str], list[str]]:
    """Run the study to its end, with kills as long as the time is not up; returns the kills, and what was wrong."""
    hits: Counter[str] = Counter()
    wrong: list[str] = []
    done: dict[Path, tuple[int, int]] = {}
    cores = sorted(os.sched_getaffinity(0))
    commands = [Command(recipe, output, cache, cores[i % len(cores)]) for i in range(2)]
    next_hit = time.monotonic() + every * draw.uniform(0.3, 1.7)
    while True:
        time.sleep(0.5)
        for path in output.rglob("cell.json"):
            status = path.stat()
            mark = status.st_mtime_ns, status.st_ino
            if done.setdefault(path, mark) != mark:
                wrong.append(f"{path} was written twice")
                done[path] = mark
        if time.monotonic() > next_hit and time.monotonic() < until:
            how = draw.choice(HITS)
            draw.choice(commands).hit(how, draw)
            hits[how] += 1
            next_hit = time.monotonic() + every * draw.uniform(0.3, 1.7)
        for i, command in enumerate(commands):
            if command.process.poll() is not None:
                if (output / PLAN).exists() and len(done) == len((output / PLAN).read_text().splitlines()):
                    for other in commands:
                        other.process.wait()
                    return hits, wrong
                commands[i] = Command(recipe, output, cache, cores[i % len(cores)])


def outcomes(output: Path) -> dict[str, Any]:
    """What the cells found: metrics, the weights of the states, and the posteriors of each test utterance."""
    found = {}
    for path in sorted(output.rglob("cell.json")):
        run = path.parent / json.loads(path.read_text())["chosen"]
        result = results.read(run / "result.json")
        lines = (run / "predictions.jsonl").read_text().splitlines()
        predictions = {line["id"]: line["log_posteriors"] for line in map(json.loads, lines)}
        found[str(path.parent.relative_to(output))] = result["metrics"], result["layer_weights"], predictions
    return found


def same(ours: Any, theirs: Any) -> bool:
    """Whether two contents are equal but for rounding."""
    if isinstance(ours, dict):
        return ours.keys() == theirs.keys() and all(same(ours[key], theirs[key]) for key in ours)
    if isinstance(ours, list | tuple):
        return len(ours) == len(theirs) and all(map(same, ours, theirs))
    if isinstance(ours, float):
        return bool(abs(ours - theirs) <= TOLERANCE * max(1.0, abs(theirs)))
    return bool(ours == theirs)


def main() -> int:
    """Print a line for each study, and the sums."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seeds", type=int, default=50)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--every", type=float, default=15.0, help="seconds between kills, in the mean")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    folder = options.folder.resolve()
    recipe = write_study(folder / "data", options.seeds)
    begun = time.monotonic()
    run(recipe, folder / "alone", folder / "cache-alone", begun, options.every, random.Random())
    expected = outcomes(folder / "alone")
    print(f"left alone: {len(expected)} cells, {time.monotonic() - begun:.0f} s", flush=True)
    draw, total, failures, rounds = random.Random(options.seed), Counter[str](), 0, 0
    begun = time.monotonic()
    while time.monotonic() < begun + 60 * options.minutes:
        rounds += 1
        output = folder / f"killed{rounds}"
        shutil.rmtree(output, ignore_errors=True)
        at = time.monotonic()
        hits, wrong = run(recipe, output, folder / f"cache{rounds}", begun + 60 * options.minutes, options.every, draw)
        found = outcomes(output)
        wrong += [f"{name} differs" for name in expected if name not in found or not same(found[name], expected[name])]
        wrong += [f"{path} is left" for pattern in (".*.part", ".claim.*") for path in output.rglob(pattern)]
        print(
            f"{len(found)} cells, {time.monotonic() - at:.0f} s, {dict(hits)}: {wrong or 'as left alone'}", flush=True
        )
        total += hits
        failures += len(wrong)
    print(f"{rounds} studies, {(time.monotonic() - begun) / 60:.1f} minutes, {total.total()} kills: {failures} wrong")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
