"""Reading WavLM's own files (https://github.com/microsoft/unilm/tree/master/wavlm): ``cfg``, a flat dict with the
model's configuration, and ``model``, its parameters."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmark.errors import BenchmarkError
from upstream.readers import Checkpoint, only_tensors, renamed, usual_names
from upstream.readers.fairseq import configuration, mapping
from upstream.wav2vec2.config import Wav2Vec2Config

NAMES = (
    (r"^encoder\.relative_positions\.weight$", "encoder.layers.0.self_attn.relative_attention_bias.weight"),
    (r"\.self_attn\.gate\.linear\.", ".self_attn.grep_linear."),
    (r"\.self_attn\.gate\.scale$", ".self_attn.grep_a"),
)
"""Native names -> the file's."""


def matches(state: Any) -> bool:
    """Whether an unpickled file has this layout; fairseq's ``cfg`` has ``model`` and ``task`` inside."""
    if not isinstance(state, dict) or not isinstance(state.get("cfg"), dict) or "model" not in state:
        return False
    return "model" not in state["cfg"] and "relative_position_embedding" in state["cfg"]


def interpret(path: Path, state: Any) -> Checkpoint:
    """A file of :func:`upstream.readers.torchfile.load_state` as WavLM.

    Raises:
        BenchmarkError: naming the file and what is wrong with it.
    """
    cfg = configuration(state["cfg"], path, "'cfg'")
    tensors = only_tensors(mapping(state["model"], path, "'model'"), path)
    try:
        config = Wav2Vec2Config.from_fairseq(cfg, cfg, "wavlm")
    except BenchmarkError as error:
        raise BenchmarkError(f"{path}: {error}") from error
    return Checkpoint(config, usual_names(tensors), name_in_file=lambda name: renamed(name, NAMES))
