"""Seconds and memory of scoring trial lists of the size of Vox1-E with adaptive s-norm, and of their intervals.

    python recipes/benchmarks/score_trials.py

Random embeddings: 145,000 utterances of 1,251 speakers, 580,000 trials, a cohort of 10 utterances of each of 1,211
speakers. What is timed is what a run does when test is reached: the trial list is read from a file, put into arrays and
checked, raw and normalised scores are computed, then both sets' error rates, files and DET plot. Then what a report
does: intervals of EER and minDCF over the speakers, and the difference from a second system (the scores with noise).
"""

from __future__ import annotations

import argparse
import resource
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from benchmark import statistics
from benchmark.data.trials import read_trials
from benchmark.evaluation import Trials
from benchmark.interfaces import Corpus, Utterance
from downstream.sv.norm import NormConfig
from downstream.sv.task import SpeakerVerification, SVConfig


def peak() -> float:
    """Largest resident memory of this process so far, in GB."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9


@contextmanager
def timed(what: str) -> Iterator[None]:
    """Print seconds and peak memory of a step."""
    start, busy = time.perf_counter(), time.process_time()
    yield
    wall, busy = time.perf_counter() - start, time.process_time() - busy
    print(f"{what:44} {wall:6.1f} s   {busy:6.1f} s of processor   peak {peak():.2f} GB", flush=True)


def speech(first: int, speakers: int, utterances: int, split: str) -> list[Utterance]:
    """``utterances`` in all, dealt out to ``speakers`` in turn, each of a session of its own."""
    names = ((f"id{first + k % speakers}", f"video{k // speakers:06}") for k in range(utterances))
    return [
        Utterance(f"{name}/{video}/00001.wav", "", speaker=name, session=video, split=split) for name, video in names
    ]


def write_list(path: Path, test: list[Utterance], speakers: int, trials: int) -> None:
    """Half the trials of one speaker, half of two, which name every utterance."""
    random = np.random.RandomState(0)
    with path.open("w") as file:
        for k in range(trials):
            a = k % len(test)
            steps = random.randint(1, len(test) // speakers - 1) * speakers
            b = (a + steps + (0 if k % 2 else random.randint(1, speakers))) % len(test)
            file.write(f"{int(test[a].speaker == test[b].speaker)} {test[a].id} {test[b].id}\n")


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=580_000)
    parser.add_argument("--utterances", type=int, default=145_000)
    parser.add_argument("--speakers", type=int, default=1251)
    parser.add_argument("--cohort", type=int, default=1211)
    parser.add_argument("--size", type=int, default=512)
    options = parser.parse_args()

    train = speech(50_000, options.cohort + 40, 10 * (options.cohort + 40), "dev")  # 40 speakers are held out
    test = speech(10_001, options.speakers, options.utterances, "test")
    config = SVConfig(trials="list", more_trials=[], norm=NormConfig("snorm", top_n=300, utterances=10))
    print(f"{torch.get_num_threads()} thread(s), libraries and utterances: {peak():.2f} GB")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "list.txt"
        write_list(path, test, options.speakers, options.trials)
        with timed("trial list read, put into arrays, checked"):
            ids = {utterance.id for utterance in test}
            corpus = Corpus("random", {"dev": train, "test": test}, {"list": read_trials(path, ids)})
            task = SpeakerVerification(config, SpeakerVerification.split(config, corpus), {})
            del corpus
    generator = torch.Generator().manual_seed(0)
    cohort = task.support("test")
    with timed("(embeddings made up; not counted)"):
        voices = {f"id{n}": torch.randn(options.size, generator=generator) for n in range(10_001, 60_000)}
        predictions = {
            utterance.id: voices[str(utterance.speaker)] + 3 * torch.randn(options.size, generator=generator)
            for utterance in (*cohort, *task.splits["test"])
        }
        del voices
    with timed("raw and normalised scores, rates, files, DET"):
        result = task.evaluate("test", predictions)
    items = result.items
    assert isinstance(items, Trials)
    noise = np.random.default_rng(1).normal(scale=0.1 * float(np.std(items.scores)), size=items.scores.size)
    with timed("trials by speaker: two systems"):
        system, other = (statistics.of(of, {}) for of in (items, replace(items, scores=items.scores + noise)))
    with timed("intervals of EER and two minDCF"):
        intervals = statistics.summarise([system])
    with timed("difference of EER and two minDCF"):
        statistics.compare([system], [other])
    trials, utterances = task.splits.sets["test"], task.splits.test
    print(f"{len(trials):,} trials, {len(utterances):,} utterances of {options.size}, cohort of "
          f"{len({u.speaker for u in cohort}):,} speakers ({len(cohort):,} utterances)")  # fmt: skip
    for name, values in result.metrics.items():
        print(f"{name}: " + ", ".join(f"{key} {value:.4f}" for key, value in values.items()))
    for name, of in intervals.items():
        print(f"{name}: {of.test_set.value:.4f} [{of.test_set.low:.4f}, {of.test_set.high:.4f}]")


if __name__ == "__main__":
    main()
