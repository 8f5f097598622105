"""What the full sample-efficiency study would cost on many GPUs, on paper: the tables of docs/scale.md.

    python recipes/benchmarks/scale.py [--gpus 1,8,64,512]

Five upstreams in ``recipes/studies/sample_efficiency.yaml``, whose updates, batches, crops and candidates are read from
it, at the rates that were measured on one H100 (``docs/measured/device-h100.json``) and on two cores
(``docs/measured/bench-cpu.csv``). A run is the audio of its updates and evaluations divided by these rates; cells go to
GPUs in the order in which executors give them out, each to the one that is free first. Starting, waiting for audio and
heads cost nothing here. Sizes of corpora are their publishers'.
"""

from __future__ import annotations

import argparse
import csv
import heapq
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from common import ragged

from benchmark.config import RunConfig, find_regime
from benchmark.study.recipe import Cell, Study, StudyUpstream, candidates, cells, read, run_config
from benchmark.tables import Table

REPOSITORY = Path(__file__).parents[2]
MEASURED = REPOSITORY / "docs" / "measured"
RECIPE = REPOSITORY / "recipes" / "studies" / "sample_efficiency.yaml"
UPSTREAMS = {
    "wav2vec2_base": "base",
    "hubert_base": "base",
    "wav2vec2_large": "large",
    "xlsr_53": "large",
    "xls_r_300m": "large",
}
"""Five, and which architecture that was measured each is of."""
BYTES = 32000
"""Of a second of 16-bit audio at 16 kHz."""
HOUR, DAY = 3600.0, 86400.0


@dataclass(frozen=True)
class Corpus:
    """Of a task, as its publisher gives it."""

    mean: float
    """Seconds of a training utterance."""
    dev: float
    """Seconds in all, as ``test``."""
    test: float
    train: float
    """Of all training utterances."""

    def pass_over(self, share: float) -> float:
        """Seconds of a share of the training utterances, dev and test."""
        return share * self.train + self.dev + self.test


CORPORA = {
    # 148,642 and 4,874 utterances of 8.2 s; 40 x 40 held out
    "voxceleb1_sv": Corpus(8.2, 1600 * 8.2, 4874 * 8.2, 148642 * 8.2),
    # 6,628 h, 2.5 million utterances; 107 x 50 held out; 1,609 are the test set
    "voxlingua107_lid": Corpus(6628 * HOUR / 2.5e6, 5350 * 9.5, 1609 * 9.5, 6628 * HOUR),
    # 100.6 h, 28,539 utterances; dev-clean; test-clean and test-other
    "librispeech_asr": Corpus(100.6 * HOUR / 28539, 5.4 * HOUR, (5.4 + 5.1) * HOUR, 100.6 * HOUR),
}


class Rates(NamedTuple):
    """Seconds of audio a second."""

    forward: float
    """Of a frozen upstream, in batches."""
    alone: float
    """The same one by one, as in evaluation."""
    step: float
    """Of a fine-tuning step."""


class Audio(NamedTuple):
    """Of a run, in seconds."""

    forward: float
    """In updates that leave the upstream as it is."""
    step: float
    """In updates that train it."""
    alone: float
    """In evaluations."""

    def seconds(self, rates: Rates) -> float:
        """That the run takes."""
        return self.forward / rates.forward + self.step / rates.step + self.alone / rates.alone


def gpu_rates(precision: str) -> dict[str, Rates]:
    """Architecture -> what was measured on one H100 in ``float32`` or ``bf16``."""
    rows = json.loads((MEASURED / "device-h100.json").read_text(encoding="utf-8"))["rows"]
    found = {(row["part"], row["what"]): row["value"] for row in rows}
    return {
        name: Rates(
            found["pass", f"{name}, {precision}, batches of 16: ours"],
            found["pass", f"{name}, {precision}, batches of 1: ours"],
            found["step", f"{name}, {precision}: ours"],
        )
        for name in ("base", "large")
    }


def cpu_rates() -> Rates:
    """Base on two cores, in float32."""
    with (MEASURED / "bench-cpu.csv").open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["way"] == "ours"]
    (alone,) = [float(row["value"]) for row in rows if row["what"] == "all states, batches of 1"]
    (step,) = [row for row in rows if row["part"] == "step"]
    audio = sum(map(len, ragged(8, 2.0, 17.0))) / 16000  # what bench.py passes
    rate = audio / alone
    return Rates(rate, rate, float(step["what"].split()[-2]) / float(step["value"]))


def audio_of(run: RunConfig, corpus: Corpus) -> Audio:
    """Of a run's training and evaluations on dev."""
    mean = min(corpus.mean, run.data.crop_seconds or corpus.mean)  # at most: the mean of crops is no larger
    update = run.trainer.accumulate * (run.data.batch_seconds or run.trainer.batch_size * mean)
    steps = run.trainer.max_steps
    trained = max(0, steps - run.tune.freeze_updates) if find_regime(run.regime).trains_upstream else 0
    evaluations = -(-steps // run.trainer.eval_every)
    return Audio((steps - trained) * update, trained * update, evaluations * corpus.dev)


def costs(study: Study) -> dict[tuple[str, str], list[Audio]]:
    """(task, regime) -> audio of each run of a cell; the last one includes the test set. Budgets and seeds change
    nothing: the number of updates is fixed."""
    found: dict[tuple[str, str], list[Audio]] = {}
    for cell in cells(study):
        key = (cell.task, cell.regime)
        if key not in found:
            corpus = CORPORA[cell.task]
            runs = [run_config(study, cell, one, None) for one in candidates(study.regimes[cell.regime])]
            found[key] = [audio_of(run, corpus) for run in runs]
            last = found[key][-1]
            found[key][-1] = last._replace(alone=last.alone + corpus.test)
    return found


def largest(study: Study) -> dict[str, float]:
    """Task -> its largest budget, as a share."""
    last = {name: task.budgets[-1] for name, task in study.tasks.items()}
    return {name: 1.0 if budget == "all" else float(budget.rstrip("%")) / 100 for name, budget in last.items()}


def seconds_of(
    every: Sequence[Cell], audio: Mapping[tuple[str, str], Sequence[Audio]], rates: Mapping[str, Rates]
) -> list[float]:
    """That each cell takes on one GPU."""
    return [
        sum(run.seconds(rates[UPSTREAMS[cell.upstream]]) for run in audio[cell.task, cell.regime]) for cell in every
    ]


def makespan(seconds: Sequence[float], gpus: int) -> float:
    """Seconds until the last cell is done: each goes, in order, to the GPU that is free first.

    >>> makespan([3.0, 1.0, 2.0, 4.0], 2)
    7.0
    """
    free = [0.0] * gpus
    for cost in seconds:
        heapq.heapreplace(free, free[0] + cost)
    return max(free)


def main(argv: Sequence[str] | None = None) -> int:
    """Print the tables. Returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gpus", default="1,8,64,512", help="numbers of GPUs (default: %(default)s)")
    options = parser.parse_args(argv)
    study = read(RECIPE)
    study.upstreams = {name: StudyUpstream(name=name) for name in UPSTREAMS}
    every, audio = cells(study), costs(study)
    rates = {precision: gpu_rates(precision) for precision in ("float32", "bf16")}
    found = {precision: seconds_of(every, audio, rates[precision]) for precision in rates}
    print(table_of_runs(every, audio, rates, found).markdown(), end="\n\n")
    print(table_of_gpus(found, [int(number) for number in options.gpus.split(",")]).markdown(), end="\n\n")
    for precision, seconds in found.items():
        longest = max(range(len(every)), key=seconds.__getitem__)
        total, most = sum(seconds), seconds[longest]
        reads = max(rate.forward for rate in rates[precision].values()) * BYTES / 1e6
        print(
            f"{precision}: {total / HOUR:,.0f} GPU-hours, {len(every)} cells; the longest, such as "
            f"{every[longest].folder.as_posix()}, take {most / DAY:.1f} days, as long as the whole would on "
            f"{total / most:.0f} GPUs; one GPU reads up to {reads:.0f} MB/s"
        )
    base = [cell for cell in every if cell.upstream == "wav2vec2_base"]
    cpu = sum(run.seconds(cpu_rates()) for cell in base for run in audio[cell.task, cell.regime])
    print(f"wav2vec2_base alone, on two cores of a CPU: {cpu / DAY / 365:.0f} years")
    hours = sum(CORPORA[task].pass_over(budget) for task, budget in largest(study).items()) / HOUR
    once = {name: sum(hours / rates[name][kind].forward for kind in UPSTREAMS.values()) for name in rates}
    frozen = sum(cost for cell, cost in zip(every, found["float32"], strict=True) if cell.regime == "frozen") / HOUR
    print(
        f"frozen, with features.keep: each upstream passes over {hours:,.0f} h once, {once['float32']:.1f} GPU-hours "
        f"for all of them in float32 in place of {frozen:,.0f}"
    )
    return 0


def table_of_runs(
    every: Sequence[Cell],
    audio: Mapping[tuple[str, str], Sequence[Audio]],
    rates: Mapping[str, Mapping[str, Rates]],
    found: Mapping[str, Sequence[float]],
) -> Table:
    """A row a task and regime."""
    rows = []
    for (task, regime), runs in audio.items():
        mine = [index for index, cell in enumerate(every) if (cell.task, cell.regime) == (task, regime)]
        row: list[str | int | float | None] = [task, regime, len(mine) * len(runs)]
        row.append(f"{sum(runs[0]) / HOUR:,.0f}")
        row += [f"{runs[0].seconds(rates['float32'][name]) / HOUR:.1f}" for name in ("base", "large")]
        row += [f"{sum(found[precision][i] for i in mine) / HOUR:,.0f}" for precision in found]
        rows.append(row)
    return Table(
        ["task", "regime", "runs", "hours of audio of a run", "hours, Base", "hours, Large",
         *(f"GPU-hours of all, {precision}" for precision in found)],
        rows,
    )  # fmt: skip


def table_of_gpus(found: Mapping[str, Sequence[float]], numbers: Sequence[int]) -> Table:
    """A row a number of GPUs: days, and the share of the time in which GPUs are at work."""
    rows = []
    for gpus in numbers:
        row: list[str | int | float | None] = [gpus]
        for seconds in found.values():
            whole = makespan(seconds, gpus)
            row += [f"{whole / DAY:,.1f}", f"{100 * sum(seconds) / whole / gpus:.0f} %"]
            row.append(f"{makespan(sorted(seconds, reverse=True), gpus) / DAY:,.1f}")
        rows.append(row)
    columns = ["GPUs"]
    for precision in found:
        columns += [f"days, {precision}", "at work", "days, longest cells first"]
    return Table(columns, rows)


if __name__ == "__main__":
    sys.exit(main())
