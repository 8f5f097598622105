"""Many probes at once: runs on frozen states whose heads need no more than means over time, trained side by side.

Runs of one upstream and one task that differ in layer, label budget, seed and options of the optimizer do the same
arithmetic on different numbers. Their parameters are stacked, so that an update of all of them is a few batched matrix
products, and the states are read into memory once. Each run is what it would have been alone: it has the same initial
parameters, the same batches, the same update rule with its own gradient norm, its own choice on dev, and the same
files. Only the order in which products are summed, and so their rounding, differs.

A run is a :class:`benchmark.engine.probes.Probe`, a trainer whose updates a :class:`Stack` makes.
"""

from __future__ import annotations

import copy
import itertools
import logging
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple, TypeVar, cast

import numpy as np
import torch
from torch import Tensor, nn

from benchmark import results
from benchmark.config import RunConfig
from benchmark.data import audio
from benchmark.engine import optim
from benchmark.engine.feature_store import FeatureStore
from benchmark.engine.folder import RunLog
from benchmark.engine.model import Model
from benchmark.engine.prepare import Prepared, Preparer, check_device, describe
from benchmark.engine.probes import CannotStack, Features, Probe, beside, check
from benchmark.engine.stopping import Interrupted, StopRequest
from benchmark.errors import BenchmarkError
from benchmark.interfaces import HiddenStates

log = logging.getLogger("wavbench")

T = TypeVar("T")

STACK_BYTES = {"cpu": 2**27, "cuda": 2**32}
"""Of the runs that are trained together: parameters, gradients, moments, and the states of a batch. On a CPU, half of
it takes 9 % longer an update, twice as much 3 % less."""
CLOSE = 1e-3
"""By how much, relatively, the loss of a stacked head may differ from the head's own before it is not trusted."""


def _key(settings: RunConfig) -> str:
    """What runs that are trained together have in common."""
    values = asdict(settings)
    for name in ("budget", "seed", "regime", "optim", "plugins"):
        del values[name]
    values["weighted"] = values["featurizer"].pop("layer") is None
    return repr(values)


def _signature(probe: Probe) -> Any:
    """Equal for runs that can be in one stack."""
    shapes = [(name, tuple(parameter.shape)) for name, parameter in probe.model.head.named_parameters()]
    return _key(probe.run), probe.store_key, tuple(shapes)


def _bytes(probe: Probe) -> int:
    """What a run adds to a stack."""
    upstream, keep = probe.model.upstream, probe.model.featurizer.keep
    states = upstream.num_states if keep is None else len(keep)
    batch = probe.run.trainer.batch_size * states * upstream.hidden_size
    return 16 * sum(parameter.numel() for parameter in probe.parameters) + 4 * batch


class _Whole(nn.Module):
    """A featurizer and a head: what of a model a stack trains."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.featurizer, self.head = model.featurizer, model.head

    def forward(self, states: Tensor, lengths: Tensor, targets: Tensor) -> Tensor:
        """(batch, state, dim) means of one run's batch -> its mean loss."""
        return self.head.loss(self.featurizer.of_means(states), lengths, targets)


def _laid_out(stacked: Tensor) -> Tensor:
    """Stacked matrices (run, out, in), transposed in memory: as autograd gives their gradients, which saves a copy."""
    if stacked.dim() != 3:
        return stacked
    return _turned(_turned(stacked.detach()).contiguous()).requires_grad_(stacked.requires_grad)


def _turned(stacked: Tensor) -> Tensor:
    """(run, out, in) as (run, in, out), which is how it lies in memory, and back."""
    return stacked.transpose(1, 2) if stacked.dim() == 3 else stacked


class _Part(nn.Module):
    """The stacked parameters of runs with the same options of the optimizer, under the names of a model's parts."""

    def __init__(self, stacked: Mapping[str, Tensor], part: slice) -> None:
        super().__init__()

        def views(name: str) -> nn.ParameterList:
            chosen = [tensor for key, tensor in stacked.items() if key.startswith(f"{name}.")]
            return nn.ParameterList(nn.Parameter(_turned(tensor.detach())[part]) for tensor in chosen)

        self.names = [key for name in ("head", "featurizer") for key in stacked if key.startswith(f"{name}.")]
        self.slice = part
        self.head, self.featurizer, self.upstream = views("head"), views("featurizer"), nn.Module()


class _Drawn(NamedTuple):
    rows: Tensor
    """(pass, batch): of the features."""
    targets: Tensor
    """(pass, batch, …)."""
    samples: int
    """Of audio."""


class _Draws:
    """The training batches of runs with the same utterances and seed, drawn once for all of them."""

    def __init__(self, probe: Probe, features: Features) -> None:
        train = probe.task.splits.train
        self._rows = torch.tensor([features.rows[utterance.id] for utterance in train])
        seconds = [probe.task.seconds[utterance.id] for utterance in train]
        self._samples = torch.from_numpy(audio.samples(seconds, probe.sample_rate))
        self._targets = probe.task.targets(train)
        if not isinstance(self._targets, Tensor) or len(self._targets) != len(train):
            raise CannotStack("its targets are not one number an utterance")
        self._batches = iter(probe._sampler())

    def next(self, count: int) -> _Drawn:
        """The next batches."""
        drawn = list(itertools.islice(self._batches, count))
        chosen = torch.from_numpy(np.array(drawn, dtype=np.int64)[:, :, 1])
        return _Drawn(self._rows[chosen], self._targets[chosen], int(self._samples[chosen].sum()))


class Stack:
    """Runs of one signature, whose parameters are stacked.

    Args:
        probes: the runs, of equal configuration but for budget, seed, layer and options of the optimizer.
        features: of all their utterances.

    Raises:
        CannotStack: the loss of the head cannot be computed for several runs at a time.
    """

    def __init__(self, probes: Sequence[Probe], features: Features) -> None:
        by_options: dict[str, list[Probe]] = defaultdict(list)
        for probe in probes:
            by_options[repr(probe.run.optim)].append(probe)
        self.probes = [probe for group in by_options.values() for probe in group]
        self.features, self.device = features, self.probes[0].device
        self.trainer = self.probes[0].run.trainer
        self._wholes = [_Whole(probe.model) for probe in self.probes]
        stacked, _ = torch.func.stack_module_state(self._wholes)
        self._stacked = {name: _laid_out(tensor) for name, tensor in stacked.items()}
        self._parts: list[_Part] = []
        for group in by_options.values():
            first = self._parts[-1].slice.stop if self._parts else 0
            self._parts.append(_Part(self._stacked, slice(first, first + len(group))))
        self._optimizers, self._schedulers = [], []
        for part, (first, *_) in zip(self._parts, by_options.values(), strict=True):
            optimizer = optim.optimizer(cast(Model, part), first.run.optim)
            self._optimizers.append(optimizer)
            self._schedulers.append(optim.scheduler(optimizer, first.run.optim, self.trainer.max_steps))
        clips = [probe.run.optim.clip for probe in self.probes]
        self._clips = torch.tensor([float("inf") if clip is None else clip for clip in clips], device=self.device)
        draws: dict[Any, int] = {}
        self._draws: list[_Draws] = []
        for probe in self.probes:
            key = (probe.run.budget, probe.run.seed)
            if key not in draws:
                draws[key] = len(self._draws)
                self._draws.append(_Draws(probe, features))
        self._drawn = torch.tensor([draws[probe.run.budget, probe.run.seed] for probe in self.probes])
        layers = [probe.model.featurizer.keep for probe in self.probes]
        self._layers = None if layers[0] is None else torch.tensor(layers, device=self.device)  # (run, 1)
        self._lengths = torch.ones(self.trainer.batch_size, dtype=torch.int64, device=self.device)
        self._since: list[Tensor] = []
        """Losses since the last point of the curves."""
        self._loss = torch.func.vmap(self._of_one, in_dims=(0, 0, 0))

    def _of_one(self, parameters: dict[str, Tensor], states: Tensor, targets: Tensor) -> Tensor:
        arguments = (states, self._lengths, targets)
        loss: Tensor = torch.func.functional_call(self._wholes[0], parameters, arguments)
        return loss

    def _states(self, rows: Tensor) -> Tensor:
        """(run, batch) rows -> (run, batch, state, dim): the states that each run's head sees."""
        states = self.features.states
        if self._layers is None:
            return states.index_select(0, rows.flatten()).view(*rows.shape, *states.shape[1:])
        places = rows * states.shape[1] + self._layers  # index_select copies rows whole; indexing, number by number
        return states.flatten(0, 1).index_select(0, places.flatten()).view(*rows.shape, 1, -1)

    def train(self, stop: StopRequest) -> set[Probe]:
        """Train to the last update, evaluating on dev as a trainer does.

        Returns:
            the runs in which something went wrong; run by themselves they say what.

        Raises:
            CannotStack: the loss of the head cannot be computed for several runs at a time.
            Interrupted: ``stop`` asked for it.
        """
        begun = time.monotonic()
        broken: set[Probe] = set()
        step = 0
        while step < self.trainer.max_steps:
            count = min(self.trainer.eval_every - step % self.trainer.eval_every, self.trainer.max_steps - step)
            drawn = [draws.next(count * self.trainer.accumulate) for draws in self._draws]
            rows = torch.stack([one.rows for one in drawn]).to(self.device)
            targets = torch.stack([one.targets for one in drawn]).to(self.device)
            if step == 0:
                self._compare(rows[:, 0], targets[:, 0])
            self._wholes[0].train()
            finite = self._updates(rows, targets, step, stop)
            step += count
            broken |= {probe for probe, fine in zip(self.probes, finite.tolist(), strict=True) if not fine}
            for i, probe in enumerate(self.probes):
                probe.spent["samples_seen"] += drawn[self._drawn[i]].samples
                if probe not in broken:
                    self._give(i)
                    try:
                        probe.choose(step)
                    except BenchmarkError:
                        broken.add(probe)
                if stop.requested:
                    raise self._interrupted(step)
        self._give_optimizers()
        for probe in self.probes:
            probe.spent["wall_seconds"] += (time.monotonic() - begun) / len(self.probes)
            probe.trained_with = len(self.probes) - 1
        return broken

    def _compare(self, rows: Tensor, targets: Tensor) -> None:
        """Check the first loss of the first run against its head's own."""
        states, wanted = self._states(rows[self._drawn]), targets[self._drawn]
        try:
            with torch.no_grad():
                losses = self._loss(self._stacked, states, wanted)
                own = self._own(states[0], wanted[0])
            if losses.shape != (len(self.probes),):
                raise CannotStack(f"its head's losses are of shape {list(losses.shape)}")
        except (RuntimeError, ValueError, TypeError) as error:  # what torch.func raises is not of one class
            raise CannotStack(f"its head's loss is not computed for several runs at a time ({error})") from error
        if not torch.isclose(losses[0].float(), own.float(), rtol=CLOSE, atol=CLOSE):
            raise CannotStack(f"its head's loss is {float(own):.6g} alone and {float(losses[0]):.6g} in a stack")

    def _own(self, states: Tensor, targets: Tensor) -> Tensor:
        """The loss of the first run on (batch, state, dim) means, as it is without a stack."""
        model, hidden = self._wholes[0], HiddenStates(list(torch.split(states, 1, dim=1)), self._lengths)
        return model.head.loss(model.featurizer(hidden), self._lengths, targets)

    def _updates(self, rows: Tensor, targets: Tensor, step: int, stop: StopRequest) -> Tensor:
        """Update on batches (draw, pass, batch, …); returns for each run (run,) whether all losses were finite."""
        accumulate, every = self.trainer.accumulate, self.trainer.log_every
        finite = torch.ones(len(self.probes), dtype=torch.bool, device=self.device)
        since = self._since
        for first in range(0, rows.shape[1], accumulate):
            losses = torch.zeros(len(self.probes), device=self.device)
            for i in range(first, first + accumulate):
                states = self._states(rows[:, i][self._drawn])
                loss = self._loss(self._stacked, states, targets[:, i][self._drawn]).float() / accumulate
                loss.sum().backward()  # type: ignore[no-untyped-call]
                losses += loss.detach()
            norms = self._clip()
            finite &= torch.isfinite(losses) & torch.isfinite(norms)
            for part in self._parts:
                for name, parameter in zip(part.names, part.parameters(), strict=True):
                    gradient = self._stacked[name].grad
                    parameter.grad = None if gradient is None else _turned(gradient)[part.slice]
            for optimizer, scheduler in zip(self._optimizers, self._schedulers, strict=True):
                optimizer.step()
                scheduler.step()
            for tensor in self._stacked.values():
                tensor.grad = None
            step += 1
            since.append(losses)
            if step % every == 0:
                self._log(torch.stack(since).double().mean(0), norms, step)
                since = []
            if stop.requested:
                raise self._interrupted(step)
        self._since = since
        return finite

    def _clip(self) -> Tensor:
        """Clip the gradient of each run by its own norm; returns the norms (run,) before."""
        gradients = [tensor.grad for tensor in self._stacked.values() if tensor.grad is not None]
        parts = torch.stack(
            [torch.linalg.vector_norm(gradient, dim=tuple(range(1, gradient.dim()))) for gradient in gradients]
        )
        norms: Tensor = torch.linalg.vector_norm(parts, dim=0)
        if torch.isfinite(self._clips).any():
            factors = (self._clips / (norms + 1e-6)).clamp(max=1)  # as torch.nn.utils.clip_grad_norm_
            for gradient in gradients:
                gradient.mul_(factors.view(-1, *[1] * (gradient.dim() - 1)))
        return norms

    def _log(self, losses: Tensor, norms: Tensor, step: int) -> None:
        curves = zip(losses.tolist(), norms.tolist(), strict=True)
        for part, optimizer in zip(self._parts, self._optimizers, strict=True):
            rates = {f"lr/{group['name']}": group["lr"] for group in optimizer.param_groups}
            for probe in self.probes[part.slice]:
                loss, norm = next(curves)
                probe.trackers.log({"train/loss": loss, "train/gradient_norm": norm, **rates}, step)

    @torch.no_grad()
    def _give(self, i: int) -> None:
        """Put the parameters of a run into its model."""
        for name, parameter in self._wholes[i].named_parameters():
            parameter.copy_(self._stacked[name][i])

    def _give_optimizers(self) -> None:
        """Put the states of the optimizers into those of the runs, where they are kept."""
        for part, optimizer, scheduler in zip(self._parts, self._optimizers, self._schedulers, strict=True):
            for i, probe in enumerate(self.probes[part.slice]):
                if probe.run.trainer.keep != "all":
                    continue
                for theirs, ours in zip(probe.optimizer.param_groups, optimizer.param_groups, strict=True):
                    theirs["lr"] = ours["lr"]
                    for parameter, stacked in zip(theirs["params"], ours["params"], strict=True):
                        state = optimizer.state[stacked]
                        probe.optimizer.state[parameter] = {
                            key: (value if key == "step" else _turned(value)[i]).clone(
                                memory_format=torch.contiguous_format
                            )
                            for key, value in state.items()
                        }
                probe.scheduler.load_state_dict(scheduler.state_dict())

    def _interrupted(self, step: int) -> Interrupted:
        return Interrupted(
            f"stopped at update {step} of {len(self.probes)} runs that are trained together; they start again"
        )


class Probes:
    """Runs of one upstream on one corpus, to be trained together as far as they fit.

    Args:
        preparer: what it has found for earlier runs is not looked up again.
    """

    def __init__(self, preparer: Preparer) -> None:
        self._preparer = preparer
        self._prepared: dict[Any, tuple[Prepared, list[logging.LogRecord]]] = {}
        self._stores: dict[Any, FeatureStore] = {}
        self._provenance: dict[str, Any] = {}
        self._beside: str | None = None
        """Of the runs that were added."""

    def add(self, settings: RunConfig, folder: Path, group: str | None = None) -> Probe:
        """Prepare a run.

        Args:
            settings: the configuration.
            folder: the experiment folder.
            group: what trackers show the run under.

        Raises:
            CannotStack: it has to be run by itself.
            BenchmarkError: as :meth:`Preparer.prepare`.
        """
        check(settings)
        self._beside = self._beside or beside(settings)
        if self._beside != beside(settings):
            raise CannotStack("its upstream or its data are loaded otherwise than those of the runs before it")
        with RunLog() as run_log:
            prepared = self._prepare(settings, run_log)
            if not self._provenance:
                self._provenance = results.provenance(check_device(settings))
            return Probe(prepared, folder, group, run_log, self._stores, self._provenance)

    def _prepare(self, settings: RunConfig, run_log: RunLog) -> Prepared:
        """Prepare a run, once for those that have the same utterances."""
        key = (_key(settings), settings.budget, settings.seed)
        if key not in self._prepared:
            prepared = self._preparer.prepare(settings)
            for line in describe(prepared):
                log.info(line)
            self._prepared[key] = prepared, run_log.records
            return prepared
        prepared, records = self._prepared[key]
        for record in records:
            log.handle(record)
        twin = copy.copy(prepared)  # with what was computed of it, unlike dataclasses.replace
        object.__setattr__(twin, "run", settings)
        return twin

    def train(self, groups: Mapping[T, Sequence[Probe]], stop: StopRequest) -> Iterator[tuple[T, str | None]]:
        """Train runs that were added, those of a group together.

        Args:
            groups: the runs of each cell of a study, say.
            stop: asked after each update.

        Yields:
            each group as soon as its runs are trained and can be finished; or why they have to be run by themselves.

        Raises:
            Interrupted: ``stop`` asked for it.
        """
        alike: dict[Any, list[T]] = defaultdict(list)
        for name, probes in groups.items():
            alike[tuple(_signature(probe) for probe in probes)].append(name)
        features = self._load([probe for probes in groups.values() for probe in probes], stop)
        for names in alike.values():
            one = groups[names[0]]
            size = max(1, STACK_BYTES[one[0].device.type] // sum(map(_bytes, one)))
            for first in range(0, len(names), size):
                together = names[first : first + size]
                stacks: dict[Any, list[Probe]] = defaultdict(list)
                for probe in itertools.chain.from_iterable(groups[name] for name in together):
                    stacks[_signature(probe)].append(probe)
                try:
                    broken = {bad for probes in stacks.values() for bad in self._train(probes, features, stop)}
                except CannotStack as reason:
                    yield from ((name, str(reason)) for name in together)
                    continue
                for name in together:
                    failed = broken.intersection(groups[name])
                    yield name, f"{failed.pop().folder}: the loss or dev is not finite" if failed else None

    def _load(self, probes: Sequence[Probe], stop: StopRequest) -> dict[Any, Features | CannotStack]:
        """The features of runs, of each store, or why they are not in memory; the upstream runs where it has not
        yet."""
        found: dict[Any, Features | CannotStack] = {}
        for key, store in self._stores.items():
            users = [probe for probe in probes if probe.store_key == key]
            if not users:
                continue
            needed = {utterance.id: utterance for probe in users for utterance in probe.utterances}
            known = {name: value for probe in users for name, value in probe.task.seconds.items()}
            utterances, seconds = list(needed.values()), [known[name] for name in needed]
            if store.lacks(utterances, seconds):
                why = "its states and those of the runs beside it do not fit under features.limit_gb"
                found[key] = CannotStack(why)
                continue
            first = users[0]
            extracted = store.fill(
                utterances,
                seconds,
                quiet=first._quiet,
                workers=first.run.data.workers,
                should_stop=lambda: stop.requested,
            )
            first.spent["samples_upstream"] += round(extracted * first.sample_rate)
            if stop.requested:
                raise Interrupted("stopped while extracting features; those so far are kept")
            try:
                found[key] = Features(store, utterances, first.device)
            except CannotStack as reason:
                found[key] = reason
        return found

    def _train(
        self, probes: Sequence[Probe], loaded: Mapping[Any, Features | CannotStack], stop: StopRequest
    ) -> set[Probe]:
        """Train runs of one signature; returns those that have to be run by themselves."""
        features = loaded[probes[0].store_key]
        if isinstance(features, CannotStack):
            raise features
        for probe in probes:
            probe.features = features
        return Stack(probes, features).train(stop)
