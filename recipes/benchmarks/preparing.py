"""How much of a study's time is preparation: corpus, headers, checkpoint, splits.

    python recipes/benchmarks/preparing.py FOLDER

writes a VoxCeleb1 tree of 20,000 short files into FOLDER (once), runs a study of 12 cells on it in one process and
prints its time and the share of preparation.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import yaml

from benchmark.engine.prepare import Preparer
from benchmark.study.recipe import cells, read
from benchmark.study.runner import run_cell

SPEAKERS, VIDEOS, UTTERANCES = 500, 8, 5
RECIPE: dict[str, Any] = {
    "name": "preparing",
    "synthetic": True,
    "upstreams": {"tiny": {"name": "wav2vec2_tiny"}},
    "tasks": {"voxceleb1_sv": {"budgets": ["4utt/speaker", "8utt/speaker", "all"]}},
    "regimes": {
        "frozen": {"regime": "frozen", "search": {"optim.lr": [1e-3, 1e-4]}},
        "layer 2": {"regime": "single_layer", "layers": [2], "search": {"optim.lr": [1e-3, 1e-4]}},
    },
    "seeds": [0, 1],
    "config": {
        "task": {"head": {"name": "mean", "size": 32, "pooled": None}, "dev_utterances": 10, "dev_trials": 200},
        "data": {"crop_seconds": None, "min_seconds": 0.0},
        "trainer": {"max_steps": 100, "eval_every": 100, "batch_size": 8, "accumulate": 1, "eval_batch_size": 16},
        "device": "cpu",
    },
}


def write_tree(root: Path) -> None:
    """20,000 files of 0.3 s of noise in VoxCeleb1's layout, and its trial list."""
    wav = root / "VoxCeleb1"
    if (wav / "veri_test2.txt").exists():
        return
    random = np.random.default_rng(0)
    names: dict[str, list[str]] = {"dev": [], "test": []}
    for speaker in range(SPEAKERS):
        split = "test" if speaker < 20 else "dev"
        for video in range(VIDEOS):
            folder = wav / split / "wav" / f"id1{speaker:04}" / f"video{video:06}"
            folder.mkdir(parents=True, exist_ok=True)
            for number in range(UTTERANCES):
                samples = 0.1 * random.standard_normal(4800, dtype=np.float32)
                soundfile.write(folder / f"{number:05}.wav", samples, 16000)
                names[split].append(f"id1{speaker:04}/video{video:06}/{number:05}.wav")
    lines = []
    for index in range(200):
        first, second = (names["test"][i] for i in random.integers(len(names["test"]), size=2))
        other = names["test"][(names["test"].index(first) + UTTERANCES) % len(names["test"])]
        second = other if index % 2 else second
        lines.append(f"{int(first.split('/')[0] == second.split('/')[0])} {first} {second}\n")
    (wav / "veri_test2.txt").write_text("".join(lines))


def main() -> int:
    """Print seconds in all, seconds of preparation and their share."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    root = parser.parse_args().folder
    write_tree(root)
    preparing = 0.0
    original = Preparer.prepare

    def timed(self: Preparer, *arguments: Any) -> Any:
        nonlocal preparing
        begun = time.perf_counter()
        try:
            return original(self, *arguments)
        finally:
            preparing += time.perf_counter() - begun

    Preparer.prepare = timed  # type: ignore[assignment, method-assign]
    with tempfile.TemporaryDirectory() as output:
        recipe = Path(output) / "recipe.yaml"
        recipe.write_text(yaml.safe_dump(RECIPE))
        study, preparer = read(recipe), Preparer()
        begun = time.perf_counter()
        for cell in cells(study):
            run_cell(study, cell, Path(output), str(root), preparer)
        total = time.perf_counter() - begun
    print(f"{len(cells(study))} cells: {total:.1f} s, preparation {preparing:.1f} s ({100 * preparing / total:.1f} %)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
