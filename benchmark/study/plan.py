"""What a study would run and how much audio its runs would process."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from benchmark.config import RunConfig, find_regime
from benchmark.data import budget
from benchmark.engine.cards import read_card, task_class
from benchmark.engine.prepare import NAMES, Preparer
from benchmark.study.recipe import Study, candidates, cells, run_config
from benchmark.tables import Table

Durations = Mapping[str, NDArray[np.float64]]
"""Split -> seconds of each utterance."""


@dataclass
class _Cost:
    """Of all cells of one task and regime; audio in seconds."""

    cells: int = 0
    runs: int = 0
    updates: int = 0
    upstream: float = 0.0
    """Audio that passes through the upstream."""
    gradient: float = 0.0
    """Audio of it that passes with gradient."""


def plan(study: Study, data_root: str | None) -> str:
    """The cells of a study and the audio that their runs would process: a Markdown table."""
    preparer = Preparer()
    durations: dict[tuple[str, str, int], Durations] = {}
    costs: dict[tuple[str, str], _Cost] = {}
    extracted: set[tuple[str, str]] = set()
    for cell in cells(study):
        cost = costs.setdefault((cell.task, cell.regime), _Cost())
        cost.cells += 1
        runs = [run_config(study, cell, candidate, data_root) for candidate in candidates(study.regimes[cell.regime])]
        drawn = (cell.task, cell.budget, cell.seed)
        if drawn not in durations:
            durations[drawn] = _durations(preparer, runs[0])
        for run in runs:
            _add(cost, run, durations[drawn], already_extracted=(cell.upstream, cell.task) in extracted)
            if run.features.keep:
                extracted.add((cell.upstream, cell.task))
        if not runs[-1].features.keep:
            cost.upstream += float(durations[drawn]["test"].sum())
    return _table(costs)


def _durations(preparer: Preparer, run: RunConfig) -> Durations:
    """Those of a run's dev, test and, as its label budget has it, train."""
    splits, seconds = preparer.splits(run)
    strata = task_class(read_card(run.downstream)).strata(run.task)
    train = budget.choose(run.budget, splits.train, seconds, seed=run.seed, strata=strata)
    chosen = {"train": train, "dev": splits.dev, "test": splits.test}
    return {name: np.array([seconds[u.id] for u in chosen[name]]) for name in NAMES}


def _add(cost: _Cost, run: RunConfig, durations: Durations, *, already_extracted: bool) -> None:
    """Add what one candidate costs: training and evaluations on dev, or the extraction of features."""
    cost.runs += 1
    cost.updates += run.trainer.max_steps
    if run.features.keep:
        if not already_extracted:
            cost.upstream += sum(float(split.sum()) for split in durations.values())
        return
    crop = run.data.crop_seconds or float("inf")
    mean = float(durations["train"].clip(max=crop).mean())
    batch = run.data.batch_seconds or run.trainer.batch_size * mean
    training = run.trainer.max_steps * run.trainer.accumulate * batch
    evaluations = -(-run.trainer.max_steps // run.trainer.eval_every) * float(durations["dev"].sum())
    cost.upstream += training + evaluations
    cost.gradient += training if find_regime(run.regime).trains_upstream else 0.0


def _table(costs: Mapping[tuple[str, str], _Cost]) -> str:
    columns = ("task", "regime", "cells", "runs", "updates", "hours through the upstream", "hours with gradient")
    rows = [
        [task, regime, *map(str, (cost.cells, cost.runs, cost.updates)), *map(_hours, (cost.upstream, cost.gradient))]
        for (task, regime), cost in costs.items()
    ]
    total = sum(cost.upstream for cost in costs.values())
    number = sum(cost.cells for cost in costs.values())
    table = Table(columns, rows).markdown()
    return f"{table}\n\n{number} cells; about {total:.0f} s of audio ({total / 3600:.1f} h) in all"


def _hours(seconds: float) -> str:
    return f"{seconds / 3600:.2f}"
