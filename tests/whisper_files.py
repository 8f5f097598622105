"""Small random Whisper encoders, written in each of the formats that are read."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

POSITIONS = 25
"""Frames of a window: half a second, so that tests have several."""


def ragged(samples: list[int], padding: float = 0.0) -> tuple[Tensor, Tensor]:
    """Noise that grows louder: a padded batch and its lengths."""
    generator = torch.Generator().manual_seed(1)
    wavs = torch.full((len(samples), max(samples)), padding)
    for i, n in enumerate(samples):
        wavs[i, :n] = torch.randn(n, generator=generator) * torch.linspace(0.001, 0.2, n)
    return wavs, torch.tensor(samples)


def whisper_model(mels: int = 80, layers: int = 3) -> Any:
    """transformers' model, in evaluation mode."""
    from transformers import WhisperConfig, WhisperModel

    torch.manual_seed(0)
    model = WhisperModel(
        WhisperConfig(
            vocab_size=20, num_mel_bins=mels, d_model=32, encoder_layers=layers, encoder_attention_heads=4,
            encoder_ffn_dim=128, decoder_layers=1, decoder_attention_heads=4, decoder_ffn_dim=32,
            max_source_positions=POSITIONS, max_target_positions=8, pad_token_id=0, bos_token_id=1, eos_token_id=2,
            decoder_start_token_id=1, suppress_tokens=[], begin_suppress_tokens=[],
        )
    ).eval()  # fmt: skip
    for name, parameter in model.named_parameters():
        if not name.endswith("embed_positions.weight"):  # biases and norms that do something
            torch.nn.init.normal_(parameter, mean=1.0 if "norm.weight" in name else 0.0, std=0.15)
    return model


def save_folder(model: Any, folder: Path, *, pickled: bool = False) -> Path:
    """A folder of transformers."""
    model.save_pretrained(folder)
    if pickled:
        (folder / "model.safetensors").unlink()
        torch.save(model.state_dict(), folder / "pytorch_model.bin")
    return folder


OPENAI = {
    "self_attn_layer_norm": "attn_ln", "final_layer_norm": "mlp_ln", "layer_norm": "ln_post",
    "self_attn.q_proj": "attn.query", "self_attn.k_proj": "attn.key", "self_attn.v_proj": "attn.value",
    "self_attn.out_proj": "attn.out", "fc1": "mlp.0", "fc2": "mlp.2", "layers.": "blocks.",
    "embed_positions.weight": "positional_embedding",
}  # fmt: skip


def openai_state(model: Any) -> dict[str, Any]:
    """What OpenAI's file holds, with some of a decoder, which is not read."""
    tensors = {}
    for name, tensor in model.encoder.state_dict().items():
        for theirs, openais in OPENAI.items():
            name = name.replace(theirs, openais)
        tensors["encoder." + name] = tensor.clone()
    tensors["decoder.ln.weight"] = torch.ones(32)
    config = model.config
    dims = {
        "n_mels": config.num_mel_bins, "n_audio_ctx": POSITIONS, "n_audio_state": config.d_model,
        "n_audio_head": config.encoder_attention_heads, "n_audio_layer": config.encoder_layers, "n_vocab": 20,
    }  # fmt: skip
    return {"dims": dims, "model_state_dict": tensors}


def ctranslate2_variables(model: Any, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    """CTranslate2's variables of the encoder, and some of a decoder."""
    state = model.encoder.state_dict()
    layer = {"weight": "gamma", "bias": "beta"}
    found: dict[str, Tensor] = {"encoder/position_encodings/encodings": state["embed_positions.weight"]}
    for kind in ("weight", "bias"):
        for conv in ("conv1", "conv2"):
            found[f"encoder/{conv}/{kind}"] = state[f"{conv}.{kind}"]
        found[f"encoder/layer_norm/{layer[kind]}"] = state[f"layer_norm.{kind}"]
        for i in range(model.config.encoder_layers):
            ours, theirs = f"layers.{i}.", f"encoder/layer_{i}/"
            fused = [state.get(f"{ours}self_attn.{p}_proj.{kind}", torch.zeros(32)) for p in "qkv"]
            found[f"{theirs}self_attention/linear_0/{kind}"] = torch.cat(fused)
            found[f"{theirs}self_attention/linear_1/{kind}"] = state[f"{ours}self_attn.out_proj.{kind}"]
            found[f"{theirs}self_attention/layer_norm/{layer[kind]}"] = state[f"{ours}self_attn_layer_norm.{kind}"]
            found[f"{theirs}ffn/layer_norm/{layer[kind]}"] = state[f"{ours}final_layer_norm.{kind}"]
            for j in (0, 1):
                found[f"{theirs}ffn/linear_{j}/{kind}"] = state[f"{ours}fc{j + 1}.{kind}"]
    found = {name: tensor.to(dtype) for name, tensor in found.items()}
    found["encoder/num_heads"] = torch.tensor(model.config.encoder_attention_heads, dtype=torch.int16)
    found["decoder/embeddings/weight"] = torch.zeros(3, 4)
    return dict(sorted(found.items()))


TYPES = (torch.float32, torch.int8, torch.int16, torch.int32, torch.float16, torch.bfloat16)


def ctranslate2_bytes(variables: dict[str, Tensor], specification: str = "WhisperSpec") -> bytes:
    """A model file of format 6, as ``ctranslate2/specs/model_spec.py`` writes it."""

    def string(text: str) -> bytes:
        return struct.pack("<H", len(text.encode()) + 1) + text.encode() + b"\0"

    parts = [struct.pack("<I", 6), string(specification), struct.pack("<II", 3, len(variables))]
    for name, tensor in variables.items():
        data = tensor.contiguous().view(torch.uint8).numpy().tobytes() if tensor.dim() else _scalar(tensor)
        parts += [string(name), struct.pack("<B", tensor.dim()), struct.pack(f"<{tensor.dim()}I", *tensor.shape)]
        parts += [struct.pack("<BI", TYPES.index(tensor.dtype), len(data)), data]
    aliases = [("decoder/projection/weight", "decoder/embeddings/weight")]
    parts += [struct.pack("<I", len(aliases)), *(string(text) for pair in aliases for text in pair)]
    return b"".join(parts)


def _scalar(tensor: Tensor) -> bytes:
    return np.asarray(tensor.item(), dtype=np.int16).tobytes()


def save_ctranslate2(model: Any, folder: Path, dtype: torch.dtype = torch.float32) -> Path:
    """A folder as faster-whisper uses it."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.bin").write_bytes(ctranslate2_bytes(ctranslate2_variables(model, dtype)))
    (folder / "config.json").write_text(json.dumps({"lang_ids": [1]}))
    return folder
