"""Safe readers of other projects' checkpoint files. No code in a file runs, whatever it holds.

A reader turns a file into a :class:`Checkpoint`: the configuration of the native model
(:class:`upstream.wav2vec2.config.Wav2Vec2Config`), the file's tensors under the names that they have there, and the map
from the native model's names to those. :func:`fit` checks that the two sets of names are the same.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmark.errors import BenchmarkError, shorten
from upstream.wav2vec2.config import Wav2Vec2Config

FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
"""Types of weights; others are of quantised ones."""

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


def only_tensors(tensors: Mapping[Any, Any], path: Path) -> dict[str, Tensor]:
    """``tensors``, whose values must be tensors: dense, with all of their numbers in the file
    (strides of 0 would repeat a few without end).

    Raises:
        BenchmarkError: naming one that is not.
    """
    for key, tensor in tensors.items():
        if not isinstance(key, str) or not isinstance(tensor, Tensor):
            raise BenchmarkError(
                f"{path}: '{str(key)[:80]}' among the weights is a {type(tensor).__name__}, not a tensor"
            )
        strange = tensor.layout != torch.strided or tensor.is_nested or tensor.is_quantized
        if strange or tensor.device.type != "cpu" or tensor.nbytes > tensor.untyped_storage().nbytes():
            raise BenchmarkError(f"{path}: '{key}' among the weights is no dense tensor")
    return dict(tensors)


def fit(
    model: nn.Module,
    tensors: Mapping[str, Tensor],
    path: str | Path,
    name_in_file: Callable[[str], str] = same,
    optional: Sequence[str] = (),
) -> dict[str, Tensor]:
    """The tensors of a file as the state of a model; nothing is converted or loaded yet.

    Args:
        model: of the file's architecture, without weights (on the device ``meta``).
        tensors: all of the file's.
        path: of the file.
        name_in_file: native name -> the file's.
        optional: native names that may be absent, and are then zeros.

    Raises:
        BenchmarkError: naming, as the file does, tensors that are missing, unread, of another shape or quantised.
    """
    tensors, state = dict(tensors), model.state_dict()
    expected = {name_in_file(name): name for name in state}
    for theirs, name in expected.items():
        if name in optional and theirs not in tensors:
            tensors[theirs] = torch.zeros(state[name].shape)
    problems = {
        "missing": [name for name in expected if name not in tensors],
        "unexpected": [name for name in tensors if name not in expected],
        "misshapen": [
            f"{name} {list(tensor.shape)}, expected {list(state[expected[name]].shape)}"
            for name, tensor in tensors.items()
            if name in expected and tensor.shape != state[expected[name]].shape
        ],
    }
    if any(problems.values()):
        raise BenchmarkError(
            f"{path}: the tensors do not fit the checkpoint's configuration. "
            + "; ".join(f"{len(names)} {kind}: {shorten(names, most=5)}" for kind, names in problems.items() if names)
        )
    quantised = [
        theirs for theirs, name in expected.items()
        if state[name].is_floating_point() and tensors[theirs].dtype not in FLOATS
    ]  # fmt: skip
    if quantised:
        raise BenchmarkError(
            f"{path}: {len(quantised)} tensors are not floating-point numbers, but quantised: "
            f"{shorten(quantised, most=5)}; take the checkpoint from before it was quantised"
        )
    return {name: tensors[theirs] for theirs, name in expected.items()}


def load(
    model: nn.Module, weights: Mapping[str, Tensor], path: str | Path, name_in_file: Callable[[str], str] = same
) -> None:
    """Give a model the weights of :func:`fit`, in the types of its own.

    Raises:
        BenchmarkError: naming tensors that are not finite, as training that diverged leaves them.
    """
    state = {name: weights[name].to(parameter.dtype) for name, parameter in model.state_dict().items()}
    broken = [name_in_file(name) for name, tensor in state.items() if not torch.isfinite(tensor).all()]
    if broken:
        raise BenchmarkError(
            f"{path}: {len(broken)} tensors have NaN or infinite values: {shorten(broken, most=5)}. The training that "
            "wrote it diverged, or its weights were converted to float16 out of range; take an earlier checkpoint"
        )
    model.load_state_dict(state, strict=True, assign=True)
