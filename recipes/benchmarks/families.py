"""A small model of each family of upstreams, random weights in a file of transformers' format, read as a user's are."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

from benchmark.interfaces import Upstream
from upstream import load_upstream

WIDTHS: dict[str, Any] = {
    "hidden_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 128,
    "conv_dim": (32,) * 7, "num_conv_pos_embedding_groups": 4,
}  # fmt: skip
CONFORMER: dict[str, Any] = WIDTHS | {"hidden_act": "swish", "conv_depthwise_kernel_size": 7}
LARGE: dict[str, Any] = {"feat_extract_norm": "layer", "do_stable_layer_norm": True, "conv_bias": True}
ROTARY: dict[str, Any] = {"position_embeddings_type": "rotary"}
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "wav2vec 2.0": ("Wav2Vec2", WIDTHS),
    "wav2vec 2.0, pre-norm": ("Wav2Vec2", WIDTHS | LARGE),
    "Conformer, relative positions": ("Wav2Vec2Conformer", CONFORMER),
    "Conformer, rotary positions": ("Wav2Vec2Conformer", CONFORMER | LARGE | ROTARY),
    "HuBERT": ("Hubert", WIDTHS),
    "WavLM": ("WavLM", WIDTHS),
    "WavLM, pre-norm": ("WavLM", WIDTHS | LARGE),
    "data2vec": ("Data2VecAudio", WIDTHS),
}
"""Name -> transformers' class without its last word, configuration."""
WHISPER: dict[str, Any] = {
    "vocab_size": 20, "d_model": 64, "encoder_layers": 3, "encoder_attention_heads": 4, "encoder_ffn_dim": 128,
    "decoder_layers": 1, "decoder_attention_heads": 4, "decoder_ffn_dim": 32, "max_target_positions": 8,
    "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1,
    "suppress_tokens": [], "begin_suppress_tokens": [],
}  # fmt: skip


def _write(kind: str, config: dict[str, Any], folder: Path) -> Path:
    import transformers

    torch.manual_seed(0)
    model = getattr(transformers, f"{kind}Model")(getattr(transformers, f"{kind}Config")(**config))
    for name, parameter in model.named_parameters():
        if parameter.dim() == 1 and "norm" not in name:
            nn.init.normal_(parameter, std=0.1)  # biases that do something
    model.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps({"do_normalize": True, "sampling_rate": 16000}))
    return folder


def families(root: Path) -> Iterator[tuple[str, Upstream]]:
    """Each family by name, its files under ``root``; transformers writes them."""
    for name, (kind, config) in FAMILIES.items():
        yield name, load_upstream("hf", checkpoint=_write(kind, config, root / name))
    folder = _write("Whisper", WHISPER, root / "whisper")
    for mode in ("window", "valid"):
        yield f"Whisper, {mode}", load_upstream("whisper_local", checkpoint=folder, length=mode)
