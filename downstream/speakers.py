"""What verification and identification share: a class a training speaker, and the splits that they come from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, ClassVar

import torch
from torch import Tensor

from benchmark.errors import BenchmarkError
from benchmark.interfaces import Corpus, Head, Task, Utterance
from benchmark.data.manifest import OWN_DATA, some
from benchmark.registry import suggest
from downstream.heads import Classifier


class SpeakerTask(Task):
    """A task whose head is trained to tell the training speakers apart."""

    requires = ("speaker",)
    head: ClassVar[type[Classifier]]
    """What is trained; it says what is predicted."""

    @cached_property
    def speakers(self) -> dict[str, int]:
        """Training speaker -> class. Read off ``splits["train"]`` at first use, so after a label budget cut it."""
        names = sorted({str(utterance.speaker) for utterance in self.splits["train"]})
        return {name: index for index, name in enumerate(names)}

    def targets(self, utterances: Sequence[Utterance]) -> Tensor:
        """(batch,) int64: the class of each utterance's speaker."""
        return torch.tensor([self.speakers[str(utterance.speaker)] for utterance in utterances])

    def inventory(self) -> dict[str, Any]:
        """``speakers``: the training speakers by class."""
        return {"speakers": list(self.speakers)}

    @classmethod
    def make_head(cls, config: Any, inventory: Mapping[str, Any], feature_size: int) -> Head:
        """A fresh head with a class a training speaker; raises when fewer than 2 are left."""
        classes = len(inventory["speakers"])
        if classes < 2:
            raise BenchmarkError(
                f"{classes} speakers are left to train on, at least 2 are needed; take a larger --budget or a smaller "
                "data.min_seconds"
            )
        return cls.head(feature_size, classes, config.head, config.loss)


def split_of(corpus: Corpus, name: str, option: str) -> list[Utterance]:
    """A split of a corpus; :class:`BenchmarkError` says which option names one that is not there."""
    if name not in corpus.splits:
        own = f" With own data, give it as --{name} FILE." if corpus.name == OWN_DATA else ""
        raise BenchmarkError(
            f"corpus '{corpus.name}' has no split '{name}' (task.{option}).{own} "
            + suggest(name, sorted(corpus.splits))
        )
    return corpus.splits[name]


def need_speakers(corpus: Corpus, utterances: Sequence[Utterance], what: str) -> None:
    """Raise where an utterance has no speaker, which ``what`` needs."""
    unknown = [utterance.id for utterance in utterances if utterance.speaker is None]
    if unknown:
        raise BenchmarkError(
            f"{len(unknown)} utterances of '{corpus.name}' have no speaker, which {what} needs: {some(unknown)}"
        )
