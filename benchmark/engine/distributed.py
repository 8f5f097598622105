"""One run on many processes, as torchrun and ``accelerate launch`` start them: see ``docs/scale.md``.

The processes share every batch: each computes its utterances' part of the loss, and gradients are summed, by
``DistributedDataParallel``, or by FSDP2 where ``trainer.shard`` asks for it. The batches, and what is drawn for them as
a whole (:mod:`benchmark.draws`), are those of a single process. The first process alone locks, logs and writes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import Sampler

from benchmark import draws
from benchmark.config import RunConfig, changes_upstream
from benchmark.engine import sharding
from benchmark.engine.featurizer import StateStatistics
from benchmark.engine.model import Model
from benchmark.engine.world import World
from benchmark.errors import BenchmarkError
from benchmark.interfaces import Batch

T = TypeVar("T")
Keys = list[tuple[int, int]]


# -- batches ---------------------------------------------------------------------------------------------------------


def divide(seconds: Sequence[float], parts: int) -> list[list[int]]:
    """Which of some utterances each of several processes takes: about the same audio each, the longest given out first
    to those with the least.

    >>> divide([1.0, 5.0, 2.0, 2.0], 2)
    [[1], [0, 2, 3]]
    """
    given: list[list[int]] = [[] for _ in range(parts)]
    totals = [0.0] * parts
    for i in sorted(range(len(seconds)), key=lambda i: -seconds[i]):
        least = min(range(parts), key=lambda part: (totals[part], len(given[part])))
        given[least].append(i)
        totals[least] += seconds[i]
    return [sorted(part) for part in given]


class SharedBatches(Sampler[Keys]):
    """A process's part of each batch; of one with fewer utterances than processes it may be an utterance that counts
    for nothing, since all processes have to take part.

    Args:
        batches: the sampler of whole batches, which can be read again from the start.
        seconds: of each utterance, by which batches are divided.
        world: the processes.
    """

    def __init__(self, batches: Iterable[Keys], seconds: Sequence[float] | np.ndarray, world: World) -> None:
        self.batches, self.seconds, self.world = batches, seconds, world

    def __iter__(self) -> Iterator[Keys]:
        for keys in self.batches:
            yield [keys[i] for i in self._rows(keys)] or keys[:1]

    def rows(self) -> Iterator[list[int]]:
        """Which utterances of each batch are this process's."""
        for keys in self.batches:
            yield self._rows(keys)

    def _rows(self, keys: Keys) -> list[int]:
        seconds = [float(self.seconds[index]) for _, index in keys]
        return divide(seconds, self.world.size)[self.world.rank]


@dataclass(frozen=True)
class Drawn:
    """What a process has of a batch of an update."""

    batch: Batch
    ids: Sequence[str]
    """Of all processes, as the next two."""
    samples: int
    frames: Sequence[int]
    rows: Sequence[int] | None = None
    """Places of this process's utterances in the whole batch; ``None``: it is the whole batch."""

    @property
    def weight(self) -> float:
        """Of this process's mean loss in the mean over the whole batch."""
        return 1.0 if self.rows is None else len(self.rows) / len(self.ids)


# -- the model -------------------------------------------------------------------------------------------------------


class Parallel:
    """A model that several processes train: its gradients are those of the whole batch.

    Moves the model to its device and, with ``trainer.shard``, changes it in place: its parameters are then parts of
    theirs (DTensor). By itself a process just calls the model.

    Args:
        world: the processes.
        model: with the same parameters in all of them.
        run: the configuration.
        device: that the model computes on.

    Raises:
        BenchmarkError: an option does not go with several processes.
    """

    def __init__(self, world: World, model: Model, run: RunConfig, device: torch.device) -> None:
        self.world, self.model, self.run = world, model, run
        self.sharded = run.trainer.shard and world.size > 1
        self.generator = torch.Generator()
        """Of what is drawn for whole batches."""
        self._shares: Iterator[list[int]] = iter(())
        self.told_to_stop = False
        """Whether any process was, when the batches of the last update were drawn."""
        self._ddp: DistributedDataParallel | None = None
        if world.size == 1:
            model.to(device)
            return
        self._check()
        if self.sharded:
            sharding.shard(model, device, world.size, offload=run.trainer.offload)
            return
        model.to(device)
        self._ddp = DistributedDataParallel(
            model,
            broadcast_buffers=False,
            gradient_as_bucket_view=True,
            find_unused_parameters=changes_upstream(run.regime),  # dropped layers, blocks above the one that is seen
        )

    def _check(self) -> None:
        run = self.run
        normalized = [name for name, module in self.model.named_modules() if _normalises_over_batch(module)]
        refused = {
            f"probe.solver={run.probe.solver} solves for all utterances at once": run.probe.solver != "gradient",
            f"{', '.join(normalized[:1])} normalises over the utterances of a batch": bool(normalized),
        }
        if self.sharded:
            refused |= {
                "trainer.shard and features.keep do not go together: leave one of them out": run.features.keep,
                "trainer.shard and trainer.batch_size=auto do not go together: give trainer.batch_size, and "
                "trainer.auto_batch=false": run.trainer.auto_batch,
                "trainer.shard needs trainer.precision=no or bf16": run.trainer.precision == "fp16",
            }
        for reason, holds in refused.items():
            if holds:
                raise BenchmarkError(f"{reason}; several processes (torchrun) cannot share this run as it is")

    # -- batches -----------------------------------------------------------------------------------------------------

    def share(self, batches: Sampler[Keys], seconds: Sequence[float] | np.ndarray) -> Sampler[Keys]:
        """This process's parts of the batches of a sampler, for :meth:`draw` to read."""
        if self.world.size == 1:
            return batches
        shared = SharedBatches(batches, seconds, self.world)
        self._shares = shared.rows()
        return shared

    def draw(self, batches: Iterator[Batch], count: int, *, stop: bool = False) -> list[Drawn]:
        """The batches of an update.

        Args:
            batches: this process's parts.
            count: of the update.
            stop: whether this process was told to stop; :attr:`told_to_stop` becomes whether any was.

        Raises:
            BenchmarkError: a process cannot read an utterance.
        """
        if self.world.size == 1:
            mine = [next(batches) for _ in range(count)]
            self.told_to_stop = stop
            return [Drawn(batch, batch.ids, int(batch.wav_lens.sum()), ()) for batch in mine]
        rows = [next(self._shares) for _ in range(count)]
        mine = []

        def draw() -> tuple[bool, list[Any]]:
            mine.extend(next(batches) for _ in range(count))
            told = zip(rows, mine, strict=True)
            return stop, [(own, self._frames(batch), batch.wav_lens.tolist(), batch.ids) for own, batch in told]

        answers = self.world.exchange(draw)
        self.told_to_stop = any(stopped for stopped, _ in answers)
        drawn = []
        for number, parts in enumerate(zip(*(told for _, told in answers), strict=True)):
            total = sum(len(places) for places, *_ in parts)
            frames, samples, ids = [0] * total, 0, [""] * total
            for places, own_frames, own_samples, own_ids in parts:
                for k, place in enumerate(places):  # none of an utterance that counts for nothing
                    frames[place], ids[place] = own_frames[k], own_ids[k]
                    samples += own_samples[k]
            drawn.append(Drawn(mine[number], ids, samples, frames, rows[number]))
        return drawn

    def _frames(self, batch: Batch) -> list[int]:
        if batch.hidden is not None:
            return batch.hidden.lengths.tolist()
        return self.model.upstream.output_lengths(batch.wav_lens).tolist()

    # -- updates -----------------------------------------------------------------------------------------------------

    def loss(self, batch: Batch, drawn: Drawn, first: int) -> Tensor:
        """Mean loss of a part of a process's utterances, scaled such that the gradient of the whole batch is the mean
        over processes.

        Args:
            batch: the part, on the model's device.
            drawn: what it is a part of.
            first: place of its first utterance in ``drawn.batch``.
        """
        if drawn.rows is None:
            loss: Tensor = self.model(batch)
            return loss
        rows = drawn.rows[first : first + len(batch.ids)] or [0]  # one that counts for nothing
        with draws.shared(draws.Share(drawn.frames, rows, self.generator)):
            loss = (self._ddp or self.model)(batch)
        return loss * (drawn.weight * self.world.size)

    def syncing(self, last: bool) -> AbstractContextManager[None]:
        """The context of a forward and backward pass: gradients are summed over processes in the last of an update."""
        if self.sharded:
            sharding.sync(self.model, last)
        if self._ddp is not None and not (last and not self.run.trainer.auto_batch):
            return self._ddp.no_sync()
        return nullcontext()

    def finish(self) -> None:
        """Sum the gradients where no backward pass could: one that does not fit into memory is repeated in parts."""
        if self._ddp is not None and self.run.trainer.auto_batch:
            self._ddp(None).backward()

    def total(self, value: float) -> float:
        """The loss of the whole batch, of what each process has summed of :meth:`loss`."""
        if self.world.size == 1:
            return value
        summed = torch.tensor(value, dtype=torch.float64)
        dist.all_reduce(summed)
        return float(summed) / self.world.size

    def seed(self, seed: int) -> None:
        """Of what is drawn for the whole batches of an update."""
        self.generator.manual_seed(seed)

    # -- evaluation --------------------------------------------------------------------------------------------------

    def mine(self, batches: list[Keys]) -> tuple[list[Keys], int]:
        """The batches of an evaluation that this process predicts, and how many of them count: where a block is
        gathered for all processes at once, they have to make as many passes."""
        own = batches[self.world.rank :: self.world.size]
        count = len(own)
        if self.sharded and count < -(-len(batches) // self.world.size):
            own = [*own, batches[0]]
        return own, count

    def together(self, function: Callable[[], T]) -> T:
        """:meth:`World.agree`, for a function that predicts. Where a block is gathered for all processes at once, the
        others would wait for the one that fails: an error ends them."""
        return function() if self.sharded else self.world.agree(function)

    def stops(self, asked: bool) -> bool:
        """Whether to stop predicting: where this process was asked to or, where all make as many passes, any was."""
        return self.world.any(asked) if self.sharded else asked

    def gathered(
        self, predictions: dict[str, Any], statistics: StateStatistics
    ) -> tuple[dict[str, Any], StateStatistics]:
        """The predictions and statistics of all processes, in the first one."""
        if self.world.size == 1:
            return predictions, statistics
        whole = StateStatistics(len(statistics.norms))
        found: dict[str, Any] = {}
        for some, counted in self.world.collect((predictions, statistics)):
            found |= some
            whole.merge(counted)
        return found, whole

    # -- states ------------------------------------------------------------------------------------------------------

    def whole(self, state: Any) -> Any:
        """A nested state as a single process has it, in the first process; all of them have to call it."""
        return sharding.whole(state) if self.sharded else state

    def model_state(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """What :meth:`whole` gave of the model, as this process has it."""
        return sharding.model_state(state, self.model) if self.sharded else state

    def optimizer_state(self, state: dict[str, Any], optimizer: torch.optim.Optimizer) -> dict[str, Any]:
        """What :meth:`whole` gave of an optimizer, as this process has it."""
        return sharding.optimizer_state(state, optimizer) if self.sharded else state


def _normalises_over_batch(module: nn.Module) -> bool:
    return isinstance(module, nn.modules.batchnorm._BatchNorm) and any(True for _ in module.parameters())
