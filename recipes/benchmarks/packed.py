"""How fast audio is read from loose files and from the archives of ``wavbench pack``, from a cold and a warm cache.

    python recipes/benchmarks/packed.py FOLDER --files 2000 --seconds 8

writes that many WAV files at 16 kHz in VoxCeleb's tree into FOLDER (once), packs them (once), and reads both in a
random order by ``benchmark.data.audio.load``, whole and in stretches of 3 s, in one process. The kernel's cache is
emptied of these files by ``posix_fadvise``, or of all by ``--drop-caches`` (as root, on a machine that nobody shares).
"""

from __future__ import annotations

import argparse
import os
import random
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import soundfile

from benchmark.data import audio, manifest, shards
from benchmark.interfaces import Utterance
from benchmark.tables import Table

RATE = 16000


def write_tree(folder: Path, files: int, seconds: float) -> list[Utterance]:
    """Noise, five utterances a video, four videos a speaker."""
    noise = np.random.default_rng(0).standard_normal(int(RATE * seconds) + files) * 0.1
    utterances = []
    for number in range(files):
        name = f"id{number // 20:05}/video{number // 5 % 4}/{number:05}.wav"
        path = folder / "loose" / name
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            soundfile.write(path, noise[number : number + int(RATE * seconds)].astype(np.float32), RATE)
        utterances.append(Utterance(name, str(path)))
    return utterances


def forget(paths: Sequence[Path], everything: bool) -> None:
    """Empty the cache of the kernel."""
    for path in paths:
        file = os.open(path, os.O_RDONLY)
        os.fsync(file)
        os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(file)
    if everything:
        Path("/proc/sys/vm/drop_caches").write_text("3")


def measured(utterances: Sequence[Utterance], crop: float | None) -> tuple[float, float]:
    """Seconds, and seconds of this process, to read all."""
    begun, cpu = time.perf_counter(), time.process_time()
    for utterance in utterances:
        audio.load(utterance, RATE, crop=None if crop is None else (crop, 0.5))
    return time.perf_counter() - begun, time.process_time() - cpu


def main() -> int:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--files", type=int, default=2000)
    parser.add_argument("--seconds", type=float, default=8.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--drop-caches", action="store_true")
    options = parser.parse_args()
    loose = write_tree(options.folder, options.files, options.seconds)
    packed_folder = options.folder / "packed"
    shards.pack({}, {"all.jsonl": loose}, packed_folder, root=options.folder / "loose")
    place = {u.id: u.path for u in manifest.read(packed_folder / "all.jsonl")}
    random.Random(0).shuffle(loose)
    kinds = {"loose": loose, "packed": [replace(u, path=place[u.id]) for u in loose]}
    for utterances in kinds.values():  # headers are known, as they are to a run
        audio.durations(utterances)
        measured(utterances, None)
    everything = [path for path in options.folder.rglob("*") if path.is_file()]
    times: dict[tuple[str, str, str], list[tuple[float, float]]] = {}
    for _ in range(options.rounds):  # in turn, so that both meet the same load of the machine
        for what, crop in (("whole", None), ("3 s of each", 3.0)):
            for kind, utterances in kinds.items():
                forget(everything, options.drop_caches)
                for cache in ("cold", "warm"):
                    times.setdefault((what, cache, kind), []).append(measured(utterances, crop))
    rows = []
    for (what, cache, kind), both in times.items():
        wall, cpu = (sorted(values)[len(both) // 2] for values in zip(*both, strict=True))
        rows.append([what, cache, kind, f"{len(loose) / wall:,.0f}", f"{1e3 * wall / len(loose):.2f}",
                     f"{1e3 * cpu / len(loose):.2f}"])  # fmt: skip
    print(Table(["read", "cache", "files", "files/s", "ms a file", "of which CPU"], rows).text())
    print(f"median of {options.rounds} rounds; load average {os.getloadavg()[0]:.1f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
