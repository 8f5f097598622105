"""A checkpoint of any format that a reader knows -> the native model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmark.errors import BenchmarkError, shorten
from upstream.readers import Checkpoint, fairseq, fairseq2, huggingface, wavlm
from upstream.readers.torchfile import load_state, unreadable
from upstream.wav2vec2.model import Wav2Vec2Model
from upstream.wav2vec2.streaming import StreamedModel

FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def load_model(
    path: str | Path, *, options: Mapping[str, Any] | None = None, random_weights: bool = False, stream: bool = False
) -> Wav2Vec2Model:
    """Read a checkpoint into a model, in evaluation mode.

    Args:
        path: a file or folder that :func:`read_checkpoint` knows.
        options: fields of :class:`Wav2Vec2Config` to change: those that matter while training.
        random_weights: take the architecture only; the weights are drawn as before pre-training, from torch's random
            state.
        stream: leave the blocks in the file, and read them one at a time at each pass.

    Raises:
        BenchmarkError: for a file that is not such a checkpoint, or whose tensors are not those that its configuration
            asks for: missing, unread or of another shape, by their names in the file.
    """
    checkpoint = read_checkpoint(path)
    config = replace(checkpoint.config, **(options or {}))
    if random_weights:
        return Wav2Vec2Model(config).eval()
    with torch.device("meta"):
        model = (StreamedModel if stream else Wav2Vec2Model)(
            config,
            pretraining=checkpoint.pretraining,
            pretraining_config=checkpoint.pretraining_config,
        )
    tensors = dict(checkpoint.tensors)
    expected = {checkpoint.name_in_file(name): (name, parameter) for name, parameter in model.state_dict().items()}
    for theirs, (name, parameter) in expected.items():
        if name in checkpoint.optional and theirs not in tensors:
            tensors[theirs] = torch.zeros(parameter.shape)
    problems = {
        "missing": [name for name in expected if name not in tensors],
        "unexpected": [name for name in tensors if name not in expected],
        "misshapen": [
            f"{name} {list(tensor.shape)}, expected {list(expected[name][1].shape)}"
            for name, tensor in tensors.items()
            if name in expected and tensor.shape != expected[name][1].shape
        ],
    }
    if any(problems.values()):
        raise BenchmarkError(
            f"{path}: the tensors do not fit the checkpoint's configuration. "
            + "; ".join(f"{len(names)} {kind}: {shorten(names, most=5)}" for kind, names in problems.items() if names)
        )
    _check_types(Path(path), {name: t for name, t in tensors.items() if expected[name][1].is_floating_point()})
    if isinstance(model, StreamedModel):
        model.take({name: tensors[theirs] for theirs, (name, _) in expected.items()}, str(path))
        return model.eval()
    weights = {name: tensors[theirs].to(parameter.dtype) for theirs, (name, parameter) in expected.items()}
    _check_values(Path(path), weights)
    model.load_state_dict(weights, strict=True, assign=True)
    return model.eval()


def _check_types(path: Path, tensors: Mapping[str, Tensor]) -> None:
    quantised = [name for name, tensor in tensors.items() if tensor.dtype not in FLOATS]
    if quantised:
        raise BenchmarkError(
            f"{path}: {len(quantised)} tensors are not floating-point numbers, but quantised: "
            f"{shorten(quantised, most=5)}; take the checkpoint from before it was quantised"
        )


def _check_values(path: Path, weights: Mapping[str, Tensor]) -> None:
    """Raise on weights that are not finite, as training that diverged leaves them."""
    broken = [name for name, tensor in weights.items() if not torch.isfinite(tensor).all()]
    if broken:
        raise BenchmarkError(
            f"{path}: {len(broken)} tensors have NaN or infinite values: {shorten(broken, most=5)}. The training that "
            "wrote it diverged, or its weights were converted to float16 out of range; take an earlier checkpoint"
        )


def read_checkpoint(path: str | Path) -> Checkpoint:
    """Read a checkpoint without running any code in it.

    A folder is Hugging Face's (:mod:`upstream.readers.huggingface`); a file is WavLM's (:mod:`upstream.readers.wavlm`),
    fairseq2's (:mod:`upstream.readers.fairseq2`) or fairseq's (:mod:`upstream.readers.fairseq`).

    Raises:
        BenchmarkError: naming the file and what is wrong with it.
    """
    path = Path(path)
    if path.is_dir():
        return huggingface.read(path)
    state = load_state(path)
    try:
        if wavlm.matches(state):
            return wavlm.interpret(path, state)
        if fairseq2.matches(state):
            return fairseq2.interpret(path, state)
        return fairseq.interpret(path, state)
    except RecursionError as error:  # a configuration nested without end
        raise unreadable(path, error) from None
