"""Safe readers of other projects' checkpoint files. No code in a file runs, whatever it holds.

A reader turns a file into a :class:`Checkpoint`: the configuration of the native model
(:class:`upstream.wav2vec2.config.Wav2Vec2Config`), the file's tensors under the names that they have there, and the map
from the native model's names to those. :func:`upstream.wav2vec2.checkpoint.load_model` checks that the two sets of
names are the same.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from upstream.wav2vec2.config import Wav2Vec2Config

Rules = Sequence[tuple[str, str]]
"""Regular expressions and replacements, all applied, in order."""


def renamed(name: str, rules: Rules) -> str:
    """``name`` after all ``rules``."""
    for pattern, replacement in rules:
        name = re.sub(pattern, replacement, name)
    return name


def same(name: str) -> str:
    """The map of files with the native model's own names, which are fairseq's."""
    return name


@dataclass
class Checkpoint:
    """A checkpoint as the native model sees it."""

    config: Wav2Vec2Config
    tensors: dict[str, Tensor]
    """The upstream's parameters, under the file's names."""
    name_in_file: Callable[[str], str] = same
    """Native name -> the file's."""
    optional: tuple[str, ...] = ()
    """Native names that may be absent, and are then zeros: what only masking while training uses."""
    pretraining: dict[str, Tensor] = field(default_factory=dict)
    """Tensors that only pre-training uses, kept for writing the file back."""
    pretraining_config: dict[str, Any] = field(default_factory=dict)


_WRAPPERS = ("module.", "_orig_mod.")
"""What DistributedDataParallel and torch.compile put before the name of every parameter."""
_WEIGHT_NORM = {".parametrizations.weight.original0": ".weight_g", ".parametrizations.weight.original1": ".weight_v"}
"""How torch.nn.utils.parametrizations.weight_norm names what the older weight_norm calls otherwise."""


def usual_names(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Tensors under the names that they have in the model alone: without wrappers, weight norm spelt as fairseq does.

    Where a file has one parameter in both spellings, the newer one keeps its name, for the caller to stumble over.
    """
    while wrapper := next((w for w in _WRAPPERS if tensors and all(name.startswith(w) for name in tensors)), ""):
        tensors = {name.removeprefix(wrapper): tensor for name, tensor in tensors.items()}
    found = {}
    for name, tensor in tensors.items():
        for new, old in _WEIGHT_NORM.items():
            if name.endswith(new) and name.removesuffix(new) + old not in tensors:
                name = name.removesuffix(new) + old
        found[name] = tensor
    return found
