"""A run that is trained beside others: what it keeps until its folder is written.

:mod:`benchmark.engine.stacked` trains such runs; what cannot be trained so raises :class:`CannotStack` and is run by
:func:`benchmark.engine.run.run`.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from benchmark.config import MANIFESTS, RunConfig, changes_upstream
from benchmark.engine import checkpoint
from benchmark.engine.feature_store import FeatureStore
from benchmark.engine.featurizer import StateStatistics
from benchmark.engine.folder import RunLog, check_available, exclusive
from benchmark.engine.prepare import Prepared
from benchmark.engine.run import evaluate, fit
from benchmark.engine.stopping import StopRequest
from benchmark.engine.trackers import Trackers
from benchmark.engine.trainer import Trainer
from benchmark.errors import BenchmarkError
from benchmark.files import write_files
from benchmark.interfaces import Batch, Evaluation, HiddenStates, Upstream, Utterance

log = logging.getLogger("wavbench")

ROWS = 4096
"""Utterances that are predicted at a time."""


class CannotStack(Exception):
    """A run has to be run by itself, for this reason."""


def check(settings: RunConfig) -> None:
    """Raise :class:`CannotStack` where a configuration alone says that a run cannot be stacked."""
    reasons = {
        "its upstream is trained": changes_upstream(settings.regime),
        "its states are not kept (features.keep)": not settings.features.keep,
        "training utterances are cropped": settings.data.crop_seconds is not None,
        "its batches are by duration": settings.data.batch_seconds is not None,
        "it is of mixed precision": settings.trainer.precision != "no",
        "it is not trained by updates": settings.probe.solver != "gradient",
        "its rates differ by block": settings.optim.layer_decay != 1,
    }
    for reason, applies in reasons.items():
        if applies:
            raise CannotStack(reason)


def beside(settings: RunConfig) -> str:
    """Equal for runs that can be added to one :class:`~benchmark.engine.stacked.Probes`: their utterances are the same
    audio where they have the same ids, and their states are of one upstream."""
    data = [settings.data.root, *(getattr(settings.data, name) for name in MANIFESTS)]
    return repr((settings.upstream, data, settings.features, settings.device, settings.trainer.tf32))


class Features:
    """The mean states of utterances, in memory.

    Args:
        store: has them all.
        utterances: of all splits, each once.
        device: where they are needed.

    Raises:
        CannotStack: they would take more than half of the memory that is free.
    """

    def __init__(self, store: FeatureStore, utterances: Sequence[Utterance], device: torch.device) -> None:
        size = 4 * len(utterances) * store.num_states * store.upstream.hidden_size
        if 2 * size > _free_memory():
            raise CannotStack(f"the means of its states, {size / 1e9:.1f} GB, do not fit into memory")
        hidden = store.load(utterances, None)
        self.rows = {utterance.id: row for row, utterance in enumerate(utterances)}
        self.states = torch.cat(hidden.states, dim=1).to(device)
        """(utterance, state, dim) float32."""
        self._hidden = hidden

    def batch(self, utterances: Sequence[Utterance], keep: Sequence[int] | None) -> Batch:
        """The states ``keep`` (all: ``None``) of some utterances, as a trainer predicts from them."""
        rows = torch.tensor([self.rows[utterance.id] for utterance in utterances])
        states = self.states[rows.to(self.states.device)]
        kept = range(states.shape[1]) if keep is None else keep
        summed = {} if keep is not None else {name: getattr(self._hidden, name) for name in ("norms", "gram", "frames")}
        hidden = HiddenStates(
            states=[states[:, k : k + 1] for k in kept],
            lengths=torch.ones(len(rows), dtype=torch.int64, device=states.device),
            **{name: tensor[rows] for name, tensor in summed.items()},
        )
        ids = [utterance.id for utterance in utterances]
        return Batch(torch.empty(len(ids), 0), torch.zeros(len(ids)), None, ids, hidden)


def _free_memory() -> float:
    try:
        return float(os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    except (AttributeError, ValueError, OSError):  # systems that do not tell
        return float("inf")


class _Delayed(Trackers):
    """Keeps what is logged until the run's folder is written."""

    def __init__(self, run: RunConfig, folder: Path, group: str | None) -> None:
        super().__init__(run, folder, group)
        self._points: list[tuple[Mapping[str, float], int]] = []

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Keep points of curves."""
        self._points.append((values, step))

    def write(self) -> None:
        """Begin, and log what was kept."""
        self.start(0)
        for values, step in self._points:
            super().log(values, step)
        self._points = []


class Probe(Trainer):
    """A run whose updates a :class:`Stack` makes; made by :meth:`Probes.add`.

    Args:
        prepared: the run.
        folder: the experiment folder, which holds no run.
        group: what trackers show the run under.
        run_log: collects what the run logs.
        stores: those that other runs have opened, by what tells them apart.
        provenance: of the process.

    Raises:
        CannotStack: the head is another one, or there is no store.
    """

    def __init__(
        self,
        prepared: Prepared,
        folder: Path,
        group: str | None,
        run_log: RunLog,
        stores: dict[Any, FeatureStore],
        provenance: Mapping[str, Any],
    ) -> None:
        self.prepared, self.run_log, self._stores = prepared, run_log, stores
        self.store_key = (prepared.run.featurizer.normalize, prepared.fingerprint["upstream"])
        self.features: Features | None = None
        self.chosen = False
        self.trained_with = 0
        """How many other runs were in its stack."""
        self._best_parameters: dict[str, Tensor] = {}
        super().__init__(
            prepared.run, prepared.task, prepared.upstream, folder, prepared.fingerprint, provenance,
            prepared.former_digests, run_log.warnings, group,
        )  # fmt: skip
        self.trackers: _Delayed = _Delayed(prepared.run, folder, group)
        if next(iter(self.model.head.buffers()), None) is not None:
            raise CannotStack("its head has a state beside its parameters")
        if not all(p.requires_grad for part in (self.model.head, self.model.featurizer) for p in part.parameters()):
            raise CannotStack("not all parameters of its head are trained")

    def _make_store(self, upstream: Upstream) -> FeatureStore:
        if not self.model.mean_suffices:
            raise CannotStack("its head needs all frames")
        if self.store_key not in self._stores:
            store = super()._make_store(upstream)
            if store is None:
                raise CannotStack("its states do not fit into the feature store")
            self._stores[self.store_key] = store
        self.model.featurizer.normalize = False  # the means are of states that the store has normalised
        return self._stores[self.store_key]

    @property
    def utterances(self) -> Iterator[Utterance]:
        """All that the run needs, some of them twice."""
        for split in ("train", "dev", "test"):
            yield from self.task.splits[split]
            yield from self.task.support(split)

    def evaluate(
        self, split: Literal["dev", "test"], stop: StopRequest | None = None
    ) -> tuple[Evaluation, StateStatistics]:
        """Predict a whole split and score it, as :meth:`Trainer.evaluate`."""
        assert self.features is not None
        utterances = [*self.task.splits[split], *self.task.support(split)]
        statistics = StateStatistics(self.model.upstream.num_states)
        predictions: dict[str, Any] = {}
        for part in (self.model.featurizer, self.model.head):  # not the upstream, which is not used
            part.eval()
        with torch.inference_mode():
            for first in range(0, len(utterances), ROWS):
                batch = self.features.batch(utterances[first : first + ROWS], self.model.featurizer.keep)
                predictions.update(zip(batch.ids, self.model.predict(batch, statistics), strict=True))
        return self.task.evaluate(split, predictions), statistics

    def choose(self, step: int) -> None:
        """Evaluate on dev after so many updates, and keep the parameters if they are the best."""
        self.step = step
        with self.run_log:
            self._evaluate_dev(StopRequest())

    def _keep_best(self, evaluation: Evaluation, statistics: StateStatistics) -> None:
        self._best_parameters = {name: tensor.clone() for name, tensor in self.model.trained_state().items()}

    def finish(self, stop: StopRequest, *, chosen: bool) -> None:
        """Write the folder of the run, which the stack has trained.

        Args:
            stop: whether somebody has asked for it is what trackers are told.
            chosen: whether test is scored.
        """
        self.chosen = chosen
        self._clock = time.monotonic()
        with self.run_log, exclusive(self.folder):
            check_available(self.folder, self.run, resume=False)
            self.run_log.open(self.folder)
            log.info("trained together with %d other runs", self.trained_with)
            try:
                with self.trackers.closing(lambda: stop.requested):
                    fit(self, stop, resume=False, overwrite=False)
                    if chosen:
                        evaluate(self.prepared, self, self.folder, stop, figures=False)
            except BenchmarkError as error:
                self.run_log.failed(error)
                raise

    def train(self, stop: StopRequest) -> None:
        """Write what the stack has found; nothing is left to train."""
        keep = self.run.trainer.keep
        state = self._state() if keep == "all" else self._state() | dict.fromkeys(checkpoint.BULKY)
        state["pairing"] = state["pairing"] and {name: tensor.clone() for name, tensor in state["pairing"].items()}
        self.trackers.write()
        self.model.load_trained_state(self._best_parameters)
        evaluation, statistics = self.evaluate("dev")
        if self.chosen or keep == "all":
            super()._keep_best(evaluation, statistics)
        else:
            write_files(self.folder, evaluation.files)
        checkpoint.write(self._path("last"), state)
