"""One training loop: updates, evaluations on dev, checkpoints, exact resume.

A checkpoint needs no generator states and no sampler position: before update N every generator is seeded from
(seed, N), and the batches of update N are a function of (seed, N). So a run that resumes at N continues as if it had
never stopped, also when a checkpoint was written by one process and is read by another.
"""

from __future__ import annotations

import logging
import random
import resource
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm
from tqdm import tqdm

from benchmark import calibration
from benchmark.config import RunConfig, changes_upstream
from benchmark.engine import batching, checkpoint, distributed, features, oom, optim, sharding
from benchmark.engine.feature_store import FeatureStore
from benchmark.engine.featurizer import StateStatistics, WeightedSum
from benchmark.engine.model import Model, make_head
from benchmark.engine.precision import Precision, choose_device, use_tf32
from benchmark.engine.stopping import Interrupted, StopRequest
from benchmark.engine.trackers import Trackers
from benchmark.engine.world import NotFinite, world
from benchmark.errors import BenchmarkError
from benchmark.files import write_files
from benchmark.interfaces import Batch, Evaluation, Task, Upstream, Utterance
from benchmark.metrics import find as find_metric

log = logging.getLogger("wavbench")


class Trainer:
    """Trains a model and keeps the checkpoint that is best on dev.

    Args:
        run: the configuration.
        task: splits, targets and metrics.
        upstream: in evaluation mode.
        folder: the experiment folder.
        fingerprint: digests of the data and of the upstream's weights; a run is resumed with the same ones only.
        provenance: of the process that starts the run.
        former: digests of the same by earlier releases, which a checkpoint may hold.
        warnings: of the process so far; what it has later, too, is kept in checkpoints.
        group: what trackers show the run under.
    """

    def __init__(
        self,
        run: RunConfig,
        task: Task,
        upstream: Upstream,
        folder: Path,
        fingerprint: Mapping[str, str] | None = None,
        provenance: Mapping[str, Any] | None = None,
        former: Mapping[str, str] | None = None,
        warnings: list[str] | None = None,
        group: str | None = None,
    ) -> None:
        self.run, self.task, self.folder = run, task, folder
        self.world = world()
        self.fingerprint, self.provenance = dict(fingerprint or {}), dict(provenance or {})
        self.former = dict(former or {})
        self.warnings = [] if warnings is None else warnings
        self.metric = find_metric(task.selection)
        self.device = choose_device(run.device)
        use_tf32(run.trainer.tf32)
        self.precision = Precision(run.trainer.precision, self.device)
        self._quiet = not sys.stderr.isatty() or not self.world.main  # no progress bars in log files
        self._seed(0)
        self.vocabulary = task.vocabulary()
        head = make_head(run, type(task), self.vocabulary, upstream)
        sharded = run.trainer.shard and self.world.size > 1  # the parameters of a block are of one type
        if not changes_upstream(run.regime) and not sharded:
            upstream = self.precision.frozen(upstream)
        self.model = Model(upstream, head, run.regime, run.featurizer, run.tune)
        features.warn_of_zero_means(run, upstream, self.model)
        self.parallel = distributed.Parallel(self.world, self.model, run, self.device)
        self.sample_rate = upstream.sample_rate
        self.store = self._make_store(upstream)
        self.parameters = [p for p in self.model.parameters() if p.requires_grad]
        self.optimizer = optim.optimizer(self.model, run.optim)
        self.scheduler = optim.scheduler(self.optimizer, run.optim, run.trainer.max_steps)
        self.step = 0
        self.evaluated = -1
        self.best: dict[str, Any] | None = None
        self.training_metrics: dict[str, dict[str, float]] = {}
        """Of the training data, by set: kept with the best checkpoint."""
        self._part: int | None = None
        """Utterances of a forward pass, where whole batches do not fit into memory."""
        self._stop = StopRequest()
        tracked = run if self.world.main else replace(run, trainer=replace(run.trainer, trackers=[]))
        self.trackers = Trackers(tracked, folder, group)
        self.spent = {"samples_seen": 0, "samples_upstream": 0, "wall_seconds": 0.0, "peak_memory_bytes": 0}
        self._clock = time.monotonic()

    # -- the loop ------------------------------------------------------------------------------------------------

    def train(self, stop: StopRequest) -> None:
        """Train to the last update. Raises :class:`Interrupted` when ``stop`` asks for it, after saving."""
        config = self.run.trainer
        self._stop = stop
        batches = self._training_batches()
        progress = self._progress("training", "update", config.max_steps, initial=self.step)
        self.world.alone(lambda: self.trackers.start(self.step))
        losses: list[float] = []
        with progress:
            while True:
                due = self.step > 0 and (self.step % config.eval_every == 0 or self.step == config.max_steps)
                if due and self.evaluated != self.step:
                    self._evaluate_dev(stop)
                if self.step >= config.max_steps:
                    break
                try:
                    loss, norm = self._update(batches)
                except BenchmarkError as error:  # unreadable audio, NaN: nothing of this update was applied
                    if self.world.shares(error) and not (isinstance(error, NotFinite) and self._has_running_statistics):
                        self.save()
                    raise
                stopping = stop.requested if self.world.size == 1 else self.parallel.told_to_stop
                losses.append(loss)
                progress.update()
                if self.step % config.log_every == 0:
                    rates = {f"lr/{group['name']}": group["lr"] for group in self.optimizer.param_groups}
                    curves = {"train/loss": float(np.mean(losses)), "train/gradient_norm": norm, **rates}
                    self.trackers.log(curves, self.step)
                    progress.set_postfix(loss=f"{np.mean(losses):.3f}", refresh=False)
                    losses = []
                if self.step % config.save_every == 0 or self.step == config.max_steps or stopping:
                    self.save()
                if stopping:
                    raise Interrupted(f"stopped after update {self.step}, which is saved")
        self.save()

    def _update(self, batches: Iterator[Batch]) -> tuple[float, float]:
        """One update; returns (mean loss, gradient norm)."""
        drawn = self.parallel.draw(batches, self.run.trainer.accumulate, stop=self._stop.requested)
        ids = [name for batch in drawn for name in batch.ids]
        value = self.parallel.total(self._gradient(drawn))
        scaler = self.precision.scaler
        if not np.isfinite(value):
            self._stop_on_nan(f"the loss is {value}", ids)
        scaler.unscale_(self.optimizer)
        clip = self.run.optim.clip
        norms = torch.nn.utils.clip_grad_norm_(self.parameters, float("inf") if clip is None else clip)
        norm = float(sharding.plain(norms))
        if not np.isfinite(norm) and not scaler.is_enabled():
            self._stop_on_nan(f"the gradient's norm is {norm}", ids)
        scaler.step(self.optimizer)  # skipped where fp16 overflowed
        scaler.update()
        self.scheduler.step()
        self.optimizer.zero_grad()
        samples = sum(batch.samples for batch in drawn)
        self.spent["samples_seen"] += samples
        self.spent["samples_upstream"] += samples if self.store is None else 0
        self.step += 1
        return value, norm

    def _gradient(self, drawn: Sequence[distributed.Drawn]) -> float:
        """Compute the gradient of the mean loss over batches, in smaller parts where they do not fit into memory and
        ``trainer.auto_batch`` allows it; returns the loss."""
        while True:
            self._seed(self.step + 1, self.world.rank)
            self.parallel.seed(self._number(self.step + 1))
            self.model.train()
            self.model.updates = self.step
            self.optimizer.zero_grad()
            try:
                value = self._backward(drawn)
                self.parallel.finish()
                return value
            except oom.DoesNotFit as error:
                size = len(error.batch.ids)
                if size == 1 or not self.run.trainer.auto_batch:
                    raise self._too_large(error.batch) from error
            self._part = oom.smaller(size)
            log.info("a batch does not fit into memory; forward passes are of %d utterances from here on", self._part)
            self._free()

    def _backward(self, drawn: Sequence[distributed.Drawn]) -> float:
        total = torch.zeros((), device=self.device)
        for number, one in enumerate(drawn, start=1):
            batch, done = one.batch, 0
            for part in oom.parts(batch, self._part or len(batch.ids)):
                last = number == len(drawn) and done + len(part.ids) == len(batch.ids)
                with oom.noticed(part), self.parallel.syncing(last):
                    with self.precision.autocast():
                        loss: Tensor = self.parallel.loss(self._to_device(part), one, done).float() / len(drawn)
                    if part is not batch:
                        loss = loss * (len(part.ids) / len(batch.ids))
                    self.precision.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
                done += len(part.ids)
                total += loss.detach()
        return float(total)

    def _free(self) -> None:
        self.optimizer.zero_grad()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def _too_large(self, batch: Batch) -> BenchmarkError:
        options = self.run.trainer
        advice = [
            f"Use trainer.batch_size=auto, or lower trainer.batch_size (now {options.batch_size}) and raise "
            f"trainer.accumulate (now {options.accumulate})",
            "shorten utterances by data.crop_seconds, where the task allows it",
            "use trainer.precision=bf16, or for fine-tuning tune.options.checkpoint_activations=true",
        ]
        return oom.explain(f"update {self.step + 1}", batch, self.sample_rate, advice)

    @property
    def _has_running_statistics(self) -> bool:
        """Whether a forward pass changes what is trained: then what a NaN has gone through is not saved."""
        trained = self.model if self.model.upstream_trains else self.model.head
        return any(isinstance(module, _BatchNorm) for module in trained.modules())

    def _stop_on_nan(self, what: str, ids: list[str]) -> None:
        shown = ", ".join(ids[:8]) + (f", … ({len(ids)} in all)" if len(ids) > 8 else "")
        saved = self.folder / "checkpoints" / "last.pt"
        raise NotFinite(
            f"update {self.step + 1}: {what}; stopped before it was applied. Utterances of the update: {shown}. "
            f"Lower the rates (-o optim.lr={self.run.optim.lr / 10:g}), set optim.clip, or use "
            f"trainer.precision=no. " + (f"The last good checkpoint is {saved}." if saved.exists() else "")
        )

    # -- evaluation ----------------------------------------------------------------------------------------------

    def evaluate(
        self, split: Literal["dev", "test"], stop: StopRequest | None = None
    ) -> tuple[Evaluation, StateStatistics]:
        """Predict a whole split and score it."""
        self._stop = stop or self._stop
        utterances = [*self.task.splits[split], *self.task.support(split)]
        seconds = [self.task.seconds[utterance.id] for utterance in utterances]
        batches = batching.EvaluationBatches(seconds, self.run.trainer.eval_batch_size)
        batches.batches, counted = self.parallel.mine(batches.batches)
        data = self._load(utterances, batches, scoring=split)
        self.model.eval()
        progress = self._progress(f"evaluating {split}", "batch", len(batches), leave=False)
        with torch.inference_mode(), self.precision.autocast(), progress:
            counted = counted if split == "dev" else 0  # what states contribute is reported of dev
            found = self.parallel.together(lambda: self._predict_all(data, counted, stop, progress))
        if self.world.any(found is None):
            if split == "dev":  # at test the chosen parameters are in place, and the last ones are saved
                self.save()
            raise Interrupted(f"stopped while evaluating {split} at update {self.step}; training is saved")
        self.spent["samples_upstream"] += round(sum(seconds) * self.sample_rate) if self.store is None else 0
        assert found is not None
        predictions, statistics = self.parallel.gathered(*found)
        evaluation = self.world.alone(lambda: self.task.evaluate(split, predictions))
        metrics = self.world.same(None if evaluation is None else evaluation.metrics)
        return evaluation or Evaluation(metrics or {}), statistics

    def _predict_all(
        self, data: Iterator[Batch], counted: int, stop: StopRequest | None, progress: tqdm[Any]
    ) -> tuple[dict[str, Any], StateStatistics] | None:
        """Predict batches, of which the first so many count in the statistics; ``None`` where ``stop`` asked not to go
        on."""
        statistics = StateStatistics(self.model.upstream.num_states)
        predictions: dict[str, Any] = {}
        for number, batch in enumerate(data):
            if self.parallel.stops(stop is not None and stop.requested):
                return None
            counting = statistics if number < counted else None
            predictions.update(zip(batch.ids, self._predict(batch, counting), strict=True))
            progress.update()
        return predictions, statistics

    def _predict(self, batch: Batch, statistics: StateStatistics | None) -> list[Any]:
        """Predict a batch, in smaller parts where it does not fit into memory."""
        try:
            with oom.noticed(batch):
                return self.model.predict(self._to_device(batch), statistics)
        except oom.DoesNotFit as error:
            if len(batch.ids) == 1 or self.parallel.sharded:  # then all processes make as many passes
                advice = ["Cut the utterance into shorter ones", "use a device with more memory"]
                raise oom.explain("evaluation", batch, self.sample_rate, advice) from error
        self._free()
        parts = oom.parts(batch, oom.smaller(len(batch.ids)))
        return [prediction for part in parts for prediction in self._predict(part, statistics)]

    def _evaluate_dev(self, stop: StopRequest) -> None:
        evaluation, statistics = self.evaluate("dev", stop)
        metrics = evaluation.metrics["dev"]
        rank, value = self.world.agree(lambda: self._rank(metrics)), metrics[self.task.selection]
        log.info("update %d: dev %s", self.step, ", ".join(f"{name} {number:.4f}" for name, number in metrics.items()))
        self.trackers.log({f"dev/{name}": number for name, number in metrics.items()}, self.step)
        if self.best is None or rank < self.best["rank"]:
            self.best = {"step": self.step, "metric": self.task.selection, "value": value, "rank": rank}
            self._keep_best(evaluation, statistics)
        self.evaluated = self.step

    def _rank(self, metrics: Mapping[str, float]) -> tuple[float, ...]:
        """Where a model with these metrics of dev comes among others: the lowest is the best."""
        if self.task.selection not in metrics:
            raise BenchmarkError(
                f"{self.task.selection}, which chooses the checkpoint (task.selection), is not defined on dev"
            )
        value = metrics[self.task.selection]
        if not np.isfinite(value):
            raise BenchmarkError(f"dev {self.task.selection} is {value} at update {self.step}")
        return self.task.rank(metrics, self.metric.error(value))

    def _keep_best(self, evaluation: Evaluation, statistics: StateStatistics) -> None:
        """Write ``checkpoints/best.pt``, and what dev gives to keep."""
        assert self.best is not None
        featurizer = self.model.featurizer
        kept = {
            "format": checkpoint.FORMAT,
            "fingerprint": self.fingerprint,
            "inventory": self.vocabulary,
            **self.best,
            "dev": evaluation.metrics["dev"],
            "training": self.training_metrics,
            "calibration": fitted.plain() if (fitted := calibration.of_dev(evaluation)) else None,
            "layers": statistics.summary(featurizer) if isinstance(featurizer, WeightedSum) else None,
            "pairing": self.parallel.whole(self.model.trained_state()),
        }

        def write() -> None:
            write_files(self.folder, evaluation.files)
            checkpoint.write(self._path("best"), kept)

        self.world.alone(write)

    # -- checkpoints ---------------------------------------------------------------------------------------------

    def save(self) -> None:
        """Write ``checkpoints/last.pt``, atomically."""
        state = self._state()
        self.world.alone(lambda: checkpoint.write(self._path("last"), state))

    def _state(self) -> dict[str, Any]:
        """What the run is resumed from."""
        return {
            "format": checkpoint.FORMAT,
            "fingerprint": self.fingerprint,
            "provenance": self.provenance,
            "step": self.step,
            "evaluated": self.evaluated,
            "best": self.best,
            "spent": self._spent_now(),
            "warnings": list(self.warnings),
            "pairing": self.parallel.whole(self.model.trained_state()),
            "optimizer": self.parallel.whole(self.optimizer.state_dict()),
            "scheduler": self.scheduler.state_dict(),
            "scaler": self.precision.scaler.state_dict() if self.precision.scaler.is_enabled() else None,
        }

    def resume(self) -> bool:
        """Continue from ``checkpoints/last.pt``; false where there is none yet."""
        if not self.world.same(self._path("last").exists()):
            return False
        self.world.agree(lambda: checkpoint.read(self._path("last"), self._take_over))
        return True

    def check_fingerprint(self, state: dict[str, Any]) -> None:
        """Raise :class:`BenchmarkError` where a checkpoint is of other data or weights than those at hand."""
        saved = state["fingerprint"]
        changed = [
            name
            for name, digest in self.fingerprint.items()
            if saved.get(name) not in (digest, self.former.get(name, digest))
        ]
        if changed:
            raise BenchmarkError(
                f"{self.folder} was run with different {' and different '.join(changed)}; a run can only be "
                "resumed with the same. Restore it, or start a new run with -p"
            )

    def _take_over(self, state: dict[str, Any]) -> None:
        self.check_fingerprint(state)
        if state["pairing"] is not None:  # else training has ended, and the weights were not to be kept
            self.model.load_trained_state(self.parallel.model_state(state["pairing"]))
            self.optimizer.load_state_dict(self.parallel.optimizer_state(state["optimizer"], self.optimizer))
            self.scheduler.load_state_dict(state["scheduler"])
        if state["scaler"] is not None:
            self.precision.scaler.load_state_dict(state["scaler"])
        self.step, self.evaluated, self.best = state["step"], state["evaluated"], state["best"]
        if self.best is not None and "rank" not in self.best:  # saved before there were ranks
            self.best["rank"] = (self.metric.error(self.best["value"]),)
        self.spent, self.provenance = state["spent"], state["provenance"]
        earlier = state.get("warnings", [])
        self.warnings[:] = [*earlier, *(warning for warning in self.warnings if warning not in earlier)]

    def load_best(self) -> dict[str, Any]:
        """Put the parameters that were best on dev in place; returns what was kept with them."""

        def use(state: dict[str, Any]) -> None:
            self.model.load_trained_state(self.parallel.model_state(state["pairing"]))

        return self.world.agree(lambda: checkpoint.read(checkpoint.best(self.folder), use))

    def _path(self, name: str) -> Path:
        return checkpoint.path(self.folder, name)

    # -- helpers -------------------------------------------------------------------------------------------------

    def costs(self) -> dict[str, float]:
        """What the run has cost so far, in all of its processes one after the other; see ``results.FIELDS``."""
        spent = self._spent_now()
        return {
            "audio_seconds_seen": spent["samples_seen"] / self.sample_rate,
            "upstream_audio_seconds": spent["samples_upstream"] / self.sample_rate,
            "wall_seconds": spent["wall_seconds"],
            "peak_memory_bytes": spent["peak_memory_bytes"],
        }

    def _spent_now(self) -> dict[str, float]:
        now = time.monotonic()
        self.spent["wall_seconds"] += now - self._clock
        self._clock = now
        if self.device.type == "cuda":
            memory = torch.cuda.max_memory_allocated(self.device)
        else:
            unit = 1 if sys.platform == "darwin" else 1024
            memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
        self.spent["peak_memory_bytes"] = max(self.spent["peak_memory_bytes"], memory)
        return self.spent

    def _number(self, step: int, rank: int = 0) -> int:
        return int(np.random.SeedSequence([self.run.seed, step, rank]).generate_state(1)[0])

    def _seed(self, step: int, rank: int = 0) -> None:
        seed = self._number(step, rank)
        random.seed(seed)
        np.random.seed(seed)
        torch.manual_seed(seed)

    def _training_batches(self) -> Iterator[Batch]:
        sampler = self._sampler()
        return self._load(self.task.splits["train"], self.parallel.share(sampler, sampler.seconds))

    def _sampler(self) -> batching.TrainingBatches:
        data = self.run.data
        seconds = np.array([self.task.seconds[utterance.id] for utterance in self.task.splits["train"]])
        if data.batch_seconds is not None:
            seconds = seconds.clip(max=data.crop_seconds or np.inf)  # what a batch holds
        return batching.TrainingBatches(
            seconds,
            self.run.trainer.batch_size,
            seed=self.run.seed,
            bucket=data.bucket,
            start=self.step * self.run.trainer.accumulate,
            chances=self.task.chances(),
            batch_seconds=data.batch_seconds,
        )

    def _load(self, utterances: Sequence[Utterance], batches: Any, *, scoring: str | None = None) -> Iterator[Batch]:
        """Batches of audio or, with a feature store, of states, for which the upstream runs where it has not yet."""
        targets = self.task.targets if scoring is None else None
        workers = self.run.data.workers
        if self.store is None:
            crop = self.run.data.crop_seconds if scoring is None else None
            data = batching.AudioBatches(utterances, self.sample_rate, crop=crop, seed=self.run.seed, targets=targets)
            return batching.load(data, batches, workers=workers)
        self._fill(utterances, scoring)
        keep = self.model.featurizer.keep
        stored = batching.StoredBatches(utterances, self.store, keep=keep, seconds=self.task.seconds, targets=targets)
        return batching.load(stored, batches, workers=workers)

    def _fill(self, utterances: Sequence[Utterance], scoring: str | None) -> None:
        """Run the upstream over those whose states the store has not."""
        assert self.store is not None
        seconds = [self.task.seconds[utterance.id] for utterance in utterances]
        self.model.upstream.eval()
        stop, workers = self._stop, self.run.data.workers
        fill = partial(
            self.store.fill, utterances, seconds, quiet=self._quiet, workers=workers,
            should_stop=lambda: stop.requested, share=(self.world.rank, self.world.size),
        )  # fmt: skip
        extracted = sum(self.world.exchange(fill))
        self.spent["samples_upstream"] += round(extracted * self.sample_rate)
        if self.world.any(stop.requested):
            if scoring != "test":  # then the chosen parameters are in place, and the last ones are saved
                self.save()
            raise Interrupted(f"stopped at update {self.step} while extracting features; those so far are kept")

    def _make_store(self, upstream: Upstream) -> FeatureStore | None:
        weights = self.fingerprint.get("upstream")
        return features.store(self.run, self.task, upstream, self.model, self.precision, self.world, weights)

    def _to_device(self, batch: Batch) -> Batch:
        return batch.map(lambda tensor: tensor.to(self.device, non_blocking=True))

    def _progress(self, what: str, unit: str, total: int, **options: Any) -> tqdm[Any]:
        return tqdm(total=total, desc=what, unit=unit, dynamic_ncols=True, disable=self._quiet, **options)
