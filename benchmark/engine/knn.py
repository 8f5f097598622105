"""Nearest neighbours of mean states, which train nothing: ``probe.solver=knn``.

A candidate is a state, or the sum of all with equal weights, and a number of neighbours; dev chooses. All candidates
are tried in what counts as one update. The chosen state stands in the layer weights: 1 for it, 0 for the others.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from benchmark.engine.featurizer import WeightedSum
from benchmark.engine.stopping import Interrupted
from benchmark.engine.trainer import Trainer
from benchmark.errors import BenchmarkError
from benchmark.files import write_text
from benchmark.interfaces import Batch, NeighbourHead, Utterance
from benchmark.tables import Table, plural

log = logging.getLogger("wavbench")

FILE = "neighbours.csv"
"""In the experiment folder: the dev metrics of each candidate."""
ROWS = 256
"""Utterances that are compared with those of training at a time."""
SUM = "sum"
"""What :data:`FILE` calls the sum of all states with equal weights."""


class NeighbourTrainer(Trainer):
    """Searches instead of training.

    Raises:
        BenchmarkError: the task has no such head, or the store of mean states no room.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        if self.store is None:
            raise BenchmarkError("probe.solver=knn needs room for the means of the states: raise features.limit_gb")
        self.model.featurizer.requires_grad_(False)
        self.parameters = []

    def _training_batches(self) -> Iterator[Batch]:
        return iter(())

    def _update(self, batches: Iterator[Batch]) -> tuple[float, float]:
        """Try all candidates on dev and put the best in place."""
        assert self.store is not None
        head, store = self.model.head, self.store
        assert isinstance(head, NeighbourHead)
        train, dev = self.task.splits["train"], [*self.task.splits["dev"], *self.task.support("dev")]
        for utterances in (train, dev):
            self._fill(utterances, scoring=None)
        self.spent["samples_seen"] += round(sum(self.task.seconds[u.id] for u in train) * self.sample_rate)
        targets = self.task.targets(train)
        best: tuple[tuple[float, ...], int | str, int] | None = None
        rows: list[dict[str, Any]] = []
        for state, features, others in self._candidates(train, dev):
            head.remember(features, targets, self.run.probe.neighbours[0])
            for count, predictions in self._predict_dev(dev, others).items():
                metrics = self.task.evaluate("dev", predictions).metrics["dev"]
                rows.append({"layer": state, "neighbours": count, **metrics})
                rank = self._rank(metrics)
                if best is None or rank < best[0]:
                    best = rank, state, count
            if self._stop.requested:
                raise Interrupted("stopped while looking for neighbours; nothing but features is kept")
        assert best is not None
        _, state, count = best
        columns = list(rows[0])
        write_text(self.folder / FILE, Table(columns, [[row.get(name) for name in columns] for row in rows]).csv())
        tried = {row["neighbours"] for row in rows}  # one where their number does not matter, as in SV
        among = f", {plural(count, 'neighbour')}" if len(tried) > 1 else ""
        log.info("dev chooses %s%s", "the sum" if state == SUM else f"layer {state}", among)
        if isinstance(self.model.featurizer, WeightedSum):
            weights = self.model.featurizer.weights.data
            weights.zero_()
            if state != SUM:
                weights.fill_(-torch.inf)[int(state)] = 0
        keep = range(store.num_states) if state == SUM else [int(state)]
        features = self._means(train, keep[0])
        for k in keep[1:]:
            features = features + self._means(train, k)
        head.remember(features / len(keep), targets, count)
        self.step += 1
        return 0.0, 0.0

    def _means(self, utterances: Sequence[Utterance], state: int) -> Tensor:
        """(utterance, dim): their means of a state."""
        assert self.store is not None
        return self.store.load(utterances, [state]).states[0][:, 0]

    def _candidates(
        self, train: Sequence[Utterance], dev: Sequence[Utterance]
    ) -> Iterator[tuple[int | str, Tensor, Tensor]]:
        """Each state, and what it is of both; then the sum of all, where there are several."""
        assert self.store is not None
        states = self.model.featurizer.keep or range(self.store.num_states)
        totals: list[Tensor] = []
        for state in states:
            both = [self._means(utterances, state) for utterances in (train, dev)]
            totals = [a + b for a, b in zip(totals, both, strict=True)] if totals else both
            yield state, both[0], both[1]
        if len(states) > 1:
            yield SUM, totals[0] / len(states), totals[1] / len(states)

    def _predict_dev(self, dev: Sequence[Utterance], means: Tensor) -> dict[int, dict[str, Any]]:
        """Number of neighbours -> utterance id -> prediction."""
        head = self.model.head
        assert isinstance(head, NeighbourHead)
        head.eval()
        found: dict[int, dict[str, Any]] = {}
        for first in range(0, len(dev), ROWS):
            part = means[first : first + ROWS, None].to(self.device)
            lengths = torch.ones(len(part), dtype=torch.int64, device=self.device)
            for count, predictions in head.predict_by(part, lengths, self.run.probe.neighbours).items():
                ids = [utterance.id for utterance in dev[first : first + ROWS]]
                found.setdefault(count, {}).update(zip(ids, predictions, strict=True))
        return found
