"""Making a task as the engine does, and its options from plain data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar, cast

from omegaconf import OmegaConf

from benchmark.interfaces import Corpus, Target, Task, Utterance

T = TypeVar("T")
AnyTask = TypeVar("AnyTask", bound=Task)


def options(kind: type[T], **values: Any) -> T:
    """A task's options; groups of options may be mappings."""
    return cast(T, OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(kind), values)))


def make_task(
    kind: type[AnyTask],
    config: Any,
    corpus: Corpus,
    target: Target | None = None,
    *,
    seconds: Mapping[str, float] | None = None,
    train: Sequence[Utterance] | None = None,
) -> AnyTask:
    """Split, take training utterances out where ``train`` says what is left, make the task; by default with durations
    of 1, 2 … seconds in the order of a split's utterances."""
    splits = kind.split(config, corpus, target)
    if train is not None:
        splits = replace(splits, train=train)
    if seconds is None:
        seconds = {u.id: k + 1.0 for name in ("train", "dev", "test") for k, u in enumerate(splits[name])}
    return kind(config, splits, seconds)
