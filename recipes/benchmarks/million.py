"""What preparing a corpus of very many files takes: listing the tree, headers, digest, overlap, and all of a run.

    python recipes/benchmarks/million.py FOLDER [--files 1000000] [--drop-caches]

writes a tree of VoxCeleb2's layout into FOLDER (once): WAV files of some samples, as hard links, beside a small
VoxCeleb1. Then processes of their own prepare it: one that remembers nothing, and one that remembers what the first
found, with ``--drop-caches`` (as root) one more after the kernel has forgotten all files.
"""

from __future__ import annotations

import argparse
import os
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import soundfile

from benchmark import registry
from benchmark.data import audio, splits
from benchmark.engine.prepare import Preparer, configure
from benchmark.files import cache_dir
from benchmark.memory import FILE

LENGTHS = 24
"""Different files; all others are links to them (ext4 allows 65,000 to each)."""


def write_tree(root: Path, files: int) -> None:
    """Speakers of 24 videos of 7 or 8 utterances."""
    if (root / "VoxCeleb1").exists():
        return
    begun = time.perf_counter()
    (root / "lengths").mkdir(parents=True)
    for i in range(LENGTHS):
        soundfile.write(root / f"lengths/{i}.wav", np.zeros(4000 + i, np.int16), 16000)
    names = [f"id{video // 24 + 20000:05}/{video:011x}/{u + 1:05}.wav" for video in range(files // 7 + 1)
             for u in range(7 + video % 2)][:files]  # fmt: skip
    tested = [f"id{10270 + i // 4}/{i:011x}/00001.wav" for i in range(160)]
    for below, some in (("VoxCeleb2/dev/wav", names), ("VoxCeleb1/test/wav", tested)):
        for folder in dict.fromkeys(name.rpartition("/")[0] for name in some):
            (root / below / folder).mkdir(parents=True)
        for i, name in enumerate(some):
            os.link(root / f"lengths/{i % LENGTHS}.wav", root / below / name)
    lines = [f"{int(i // 4 == j // 4)} {tested[i]} {tested[j]}\n" for i in range(160) for j in (i ^ 1, i ^ 4)]
    (root / "VoxCeleb1/veri_test2.txt").write_text("".join(lines))
    print(f"{files:,} files written: {time.perf_counter() - begun:.0f} s", flush=True)


def measure(root: Path) -> None:
    """Print seconds, seconds of this process and the most memory so far of each step."""
    begun, cpu = time.perf_counter(), time.process_time()

    def say(what: str) -> None:
        nonlocal begun, cpu
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        now, used = time.perf_counter(), time.process_time()
        print(f"  {what}: {now - begun:.1f} s, CPU {used - cpu:.1f} s, peak {peak:.2f} GiB", flush=True)
        begun, cpu = time.perf_counter(), time.process_time()

    say("nothing")
    corpus = registry.corpora.get("voxceleb2").load()(root)
    say("list the tree")
    audio.durations(corpus.splits["dev"])
    say("headers and durations")
    splits.digest(corpus.splits["dev"])
    say("digest")
    splits.overlaps(corpus.splits)
    say("overlap with the test set")
    run = configure("voxceleb2_sv", [("this script", {"upstream": {"name": "fbank"}, "data": {"root": str(root)}})])
    prepared = Preparer().prepare(run)
    print(f"  {len(prepared.task.splits.train):,} training utterances")
    say("all that comes before a run, again")


def main() -> int:
    """Print what each process measures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--files", type=int, default=1_000_000)
    parser.add_argument("--drop-caches", action="store_true")
    parser.add_argument("--measure", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    root = options.folder / f"tree{options.files}"
    if options.measure:
        measure(root)
        return 0
    write_tree(root, options.files)
    cache = options.folder / "cache"
    shutil.rmtree(cache, ignore_errors=True)
    for what in ("first", "again", *(["again, from a cold cache"] if options.drop_caches else [])):
        print(f"{what}, at a load of {os.getloadavg()[0]:.1f}:", flush=True)
        if "cold" in what:
            os.sync()
            Path("/proc/sys/vm/drop_caches").write_text("3")
        command = [sys.executable, __file__, str(options.folder), "--files", str(options.files), "--measure"]
        subprocess.run(command, env=os.environ | {"BENCHMARK_CACHE": str(cache)}, check=True)
    os.environ["BENCHMARK_CACHE"] = str(cache)
    print(f"{FILE}: {(cache_dir() / FILE).stat().st_size / 2**20:.0f} MiB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
