"""A checkpoint of any format that a reader knows -> the native model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from upstream.readers import Checkpoint, fairseq, fairseq2, fit, huggingface, load, wavlm
from upstream.readers.torchfile import load_state, unreadable
from upstream.wav2vec2.model import Wav2Vec2Model
from upstream.wav2vec2.streaming import StreamedModel


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
    weights = fit(model, checkpoint.tensors, path, checkpoint.name_in_file, checkpoint.optional)
    if isinstance(model, StreamedModel):
        model.take(weights, str(path))
    else:
        load(model, weights, path, checkpoint.name_in_file)
    return model.eval()


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
