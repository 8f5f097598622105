"""Reading fairseq2's wav2vec 2.0 files, Omnilingual W2V among them, without fairseq2.

A file holds parameters only (under ``model``, or by themselves), so that the architecture is read from their names and
shapes. What these do not say is as in all of fairseq2's models: strides of 5, 2, 2, 2, 2, 2, 2; 12 heads in a model 768
wide, and 16 in any other, whatever its width; normalised waveforms where the extractor has LayerNorms. Names are those
of fairseq2 0.8 (``models/wav2vec2``).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from benchmark.errors import BenchmarkError
from upstream.readers import Checkpoint, Rules, only_tensors, renamed, usual_names
from upstream.readers.fairseq import mapping
from upstream.wav2vec2.config import Wav2Vec2Config

_FRONTEND = "encoder_frontend."

NAMES: Rules = (
    (r"^encoder\.pos_conv\.(\d+)\.0\.", rf"{_FRONTEND}pos_encoder.layers.\1.conv."),
    (r"^encoder\.pos_conv\.0\.", f"{_FRONTEND}pos_encoder.conv."),
    (r"^feature_extractor\.conv_layers\.(\d+)\.0\.", rf"{_FRONTEND}feature_extractor.layers.\1.conv."),
    (r"^feature_extractor\.conv_layers\.(\d+)\.2\.1\.", rf"{_FRONTEND}feature_extractor.layers.\1.layer_norm."),
    (r"^feature_extractor\.conv_layers\.0\.2\.", f"{_FRONTEND}feature_extractor.layers.0.group_norm."),
    (r"^layer_norm\.", f"{_FRONTEND}post_extract_layer_norm."),
    (r"^post_extract_proj\.", f"{_FRONTEND}model_dim_proj."),
    (r"^mask_emb$", "masker.temporal_mask_embed"),
    (r"\.self_attn\.out_proj\.", ".self_attn.output_proj."),
    (r"\.fc1\.", ".ffn.inner_proj."),
    (r"\.fc2\.", ".ffn.output_proj."),
    (r"\.final_layer_norm\.", ".ffn_layer_norm."),
)
"""Native names -> fairseq2's."""

POST_NORM: Rules = ((r"^encoder\.layer_norm\.", f"{_FRONTEND}layer_norm."),)
"""Where the LayerNorm of post-norm models is."""

HEADS = ("quantizer", "final_proj", "final_target_proj")
"""Modules beside the encoder: of pre-training, or the output layer of CTC."""

STRIDES = (5, 2, 2, 2, 2, 2, 2)


def matches(state: Any) -> bool:
    """Whether an unpickled file has fairseq2's names."""
    tensors = _tensors(state)
    return isinstance(tensors, dict) and any(
        str(name).removeprefix("module.").startswith(_FRONTEND) for name in tensors
    )


def interpret(path: Path, state: Any) -> Checkpoint:
    """A file of :func:`upstream.readers.torchfile.load_state` as wav2vec 2.0.

    Raises:
        BenchmarkError: naming the file and what is wrong with it.
    """
    tensors = usual_names(only_tensors(mapping(_tensors(state), path, "'model'"), path))
    tensors = {name: tensor for name, tensor in tensors.items() if name.split(".")[0] not in HEADS}
    try:
        config = Wav2Vec2Config(**_architecture(tensors))
    except BenchmarkError as error:
        raise BenchmarkError(f"{path}: {error}") from error
    rules = NAMES if config.layer_norm_first else (*POST_NORM, *NAMES)
    return Checkpoint(config, tensors, name_in_file=lambda name: renamed(name, rules), optional=("mask_emb",))


def _tensors(state: Any) -> Any:
    return state["model"] if isinstance(state, dict) and isinstance(state.get("model"), dict) else state


def _architecture(tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    def shape(name: str, dimensions: int) -> tuple[int, ...]:
        found = tuple(tensors[name].shape) if name in tensors else ()
        if len(found) != dimensions:
            raise BenchmarkError(f"{name} must have {dimensions} dimensions, of which the architecture is read; it has "
                                 f"{list(found) or 'none'}")  # fmt: skip
        return found

    def count(pattern: str) -> int:
        return len({match[1] for name in tensors if (match := re.match(pattern, name))})

    extractor = f"{_FRONTEND}feature_extractor.layers."
    layers = count(re.escape(extractor) + r"(\d+)\.conv\.weight$")
    if layers != len(STRIDES):
        raise BenchmarkError(f"{layers} convolutions in the feature extractor; supported: {len(STRIDES)}")
    convolutions = [shape(f"{extractor}{i}.conv.weight", 3) for i in range(layers)]
    ffn, dim = shape("encoder.layers.0.ffn.inner_proj.weight", 2)
    values = {
        "conv_feature_layers": [
            (out, kernel, stride) for (out, _, kernel), stride in zip(convolutions, STRIDES, strict=True)
        ],
        "conv_bias": f"{extractor}0.conv.bias" in tensors,
        "extractor_mode": "layer_norm" if f"{extractor}0.layer_norm.weight" in tensors else "default",
        "normalize": f"{extractor}0.layer_norm.weight" in tensors,
        "layer_norm_first": "encoder.layer_norm.weight" in tensors,
        "encoder_layers": count(r"encoder\.layers\.(\d+)\."),
        "encoder_embed_dim": dim,
        "encoder_ffn_embed_dim": ffn,
        "encoder_attention_heads": 12 if dim == 768 else 16,
        "always_project": f"{_FRONTEND}model_dim_proj.weight" in tensors,
    }
    depth = count(re.escape(_FRONTEND) + r"pos_encoder\.layers\.(\d+)\.")
    if depth:
        _, width, kernel = shape(f"{_FRONTEND}pos_encoder.layers.0.conv.weight", 3)
        if kernel % 2 == 0 or kernel < 3 or depth == 1:
            raise BenchmarkError(
                f"{depth} positional convolutions of {kernel} frames; supported: 2 or more, odd kernels"
            )
    else:
        depth, (_, width, kernel) = 1, shape(f"{_FRONTEND}pos_encoder.conv.weight_v", 3)
    if not width or dim % width:
        raise BenchmarkError(f"positional convolutions of {width} channels a group in a model {dim} wide")
    return values | {"pos_conv_depth": depth, "conv_pos": depth * kernel, "conv_pos_groups": dim // width}
