"""Reading fairseq's checkpoints of data2vec 2.0 audio, without fairseq.

Follows ``examples/data2vec/models/data2vec2.py`` and ``modalities/audio.py``. The blocks of the modality's own encoder
(its "prenet") and those that modalities share become one stack. Decoders and the teacher are of pre-training only.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from benchmark.errors import BenchmarkError
from upstream.readers import Checkpoint, Rules, renamed
from upstream.wav2vec2.config import Wav2Vec2Config

NAME = "data2vec_multi"
"""fairseq's name of the model."""

_AUDIO = "modality_encoders.AUDIO."

PRETRAINING_MODULES = (f"{_AUDIO}decoder.", "shared_decoder.", "recon_proj.")

NAMES: Rules = (
    (r"^feature_extractor\.", f"{_AUDIO}local_encoder."),
    (r"^layer_norm\.", f"{_AUDIO}project_features.1."),
    (r"^post_extract_proj\.", f"{_AUDIO}project_features.2."),
    (r"^encoder\.relative_positions\.scale$", f"{_AUDIO}alibi_scale"),
    (r"^encoder\.layer_norm\.", f"{_AUDIO}context_encoder.norm."),
    (r"\.self_attn\.([qkv])_proj\.", r".attn.qkv.\1."),
    (r"\.self_attn\.out_proj\.", ".attn.proj."),
    (r"\.(fc[12])\.", r".mlp.\1."),
    (r"\.self_attn_layer_norm\.", ".norm1."),
    (r"\.final_layer_norm\.", ".norm2."),
)
"""Native names -> fairseq's, with the fused projection split into ``q``, ``k`` and ``v``; :func:`file_name` numbers
blocks and positional convolutions."""

REQUIRED: dict[str, Any] = {
    "layer_norm_first": False,  # fairseq's pre-norm block has no residual connection around its feed-forward layer
    "norm_eps": 1e-5,
    "norm_affine": True,
}
REQUIRED_OF_AUDIO: dict[str, Any] = {
    "num_extra_tokens": 0,
    "conv_pos_pre_ln": False,
    "learned_alibi": False,
    "learned_alibi_scale_per_layer": False,
}
"""Fields that change the architecture, and the only value that is implemented, which published models have."""
_DEFAULTS = {"norm_eps": 1e-6}
"""fairseq's, where they are not among those."""


def interpret(model: Mapping[str, Any], task: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Checkpoint:
    """The model's configuration, the task's, and the parameters.

    Raises:
        BenchmarkError: an architecture that is not implemented, or tensors that cannot be of one.
    """
    modalities = model.get("modalities")
    audio = modalities.get("audio") if isinstance(modalities, dict) else None
    if not isinstance(audio, dict):
        raise BenchmarkError("its configuration has no modalities.audio; supported: data2vec 2.0 of audio")
    for fields, required in ((model, REQUIRED), (audio, REQUIRED_OF_AUDIO)):
        for name, value in required.items():
            found = fields.get(name, _DEFAULTS.get(name, value))
            if found != value:
                raise BenchmarkError(f"configuration: {name} = {found!r} is not supported; supported: {value!r}")
    config = Wav2Vec2Config(**_values(model, audio), **_of_task(task))
    prenet = audio.get("prenet_depth", 4)
    kept = {name: tensor for name, tensor in tensors.items() if not name.startswith(PRETRAINING_MODULES)}
    return Checkpoint(
        config,
        _split(kept, config),
        name_in_file=lambda name: file_name(name, prenet),
        optional=("mask_emb",),  # masked frames are zeros
    )


def _values(model: Mapping[str, Any], audio: Mapping[str, Any]) -> dict[str, Any]:
    def number(fields: Mapping[str, Any], name: str, default: float, least: float, most: float = 2**20) -> Any:
        value = fields.get(name, default)
        wanted = int if isinstance(default, int) else (int, float)
        if not isinstance(value, wanted) or isinstance(value, bool) or not least <= value <= most:
            raise BenchmarkError(f"configuration: {name} = {value!r} is not supported; supported: from {least} on")
        return value

    def known(fields: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
        return {ours: fields[theirs] for ours, theirs in names.items() if fields.get(theirs) is not None}

    dim, depth = number(model, "embed_dim", 768, 1), number(audio, "conv_pos_depth", 5, 1)
    kernel = max(3, number(audio, "conv_pos_width", 95, 1) // depth)
    if depth == 1:
        raise BenchmarkError("configuration: conv_pos_depth = 1 is not supported; supported: 2 or more")
    return {
        "family": "data2vec2",
        "encoder_layers": number(audio, "prenet_depth", 4, 0, 1000) + number(model, "depth", 8, 0, 1000),
        "encoder_embed_dim": dim,
        "encoder_ffn_embed_dim": int(dim * number(model, "mlp_ratio", 4.0, 0)),
        "always_project": True,
        "pos_conv_depth": depth,
        "conv_pos": depth * kernel,
        "extractor_mode": audio.get("extractor_mode", "layer_norm"),
        "alibi": audio.get("use_alibi_encoder", False),
        **known(audio, {"conv_feature_layers": "feature_encoder_spec", "conv_pos_groups": "conv_pos_groups",
                        "mask_prob": "mask_prob", "mask_length": "mask_length",
                        "mask_channel_prob": "mask_channel_prob", "mask_channel_length": "mask_channel_length",
                        "feature_grad_mult": "local_grad_mult"}),
        **known(model, {"encoder_attention_heads": "num_heads", "dropout": "encoder_dropout",
                        "attention_dropout": "attention_dropout", "activation_dropout": "activation_dropout",
                        "encoder_layerdrop": "layerdrop"}),
    }  # fmt: skip


def _of_task(task: Mapping[str, Any]) -> dict[str, Any]:
    return {name: task[name] for name in ("normalize", "sample_rate") if task.get(name) is not None}


def file_name(name: str, prenet: int) -> str:
    """The file's name of a native parameter."""
    if match := re.match(r"encoder\.layers\.(\d+)\.", name):
        number = int(match[1])
        blocks = f"{_AUDIO}context_encoder.blocks.{number}" if number < prenet else f"blocks.{number - prenet}"
        name = f"{blocks}.{name[match.end() :]}"
    elif match := re.match(r"encoder\.pos_conv\.(\d+)\.", name):
        name = f"{_AUDIO}relative_positional_encoder.{int(match[1]) + 1}.{name[match.end() :]}"
    return renamed(name, NAMES)


def _split(tensors: dict[str, Tensor], config: Wav2Vec2Config) -> dict[str, Tensor]:
    """The fused projections in three, and the scales of ALiBi one for each head.

    A tensor of another shape is left as it is: its name is then unexpected, and says so.
    """
    found = {}
    for name, tensor in tensors.items():
        fused = re.fullmatch(r"(.*\.attn\.qkv)\.(weight|bias)", name)
        if fused and tensor.dim() and len(tensor) == 3 * config.encoder_embed_dim:
            for part, piece in zip("qkv", torch.chunk(tensor, 3), strict=True):
                found[f"{fused[1]}.{part}.{fused[2]}"] = piece
        elif name == f"{_AUDIO}alibi_scale" and tensor.numel() in (1, config.encoder_attention_heads):
            found[name] = tensor.reshape(-1).expand(config.encoder_attention_heads)
        else:
            found[name] = tensor
    return found
