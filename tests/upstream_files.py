"""Native models with random weights, written in each of the formats that are read, as their authors' programs do."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from upstream.readers import data2vec2, fairseq, fairseq2, huggingface, renamed, wavlm
from upstream.wav2vec2.config import Wav2Vec2Config
from upstream.wav2vec2.export import export_huggingface
from upstream.wav2vec2.model import Wav2Vec2Model

FAIRSEQ = {"wav2vec2": "wav2vec2", "hubert": "hubert", "data2vec": "data2vec_audio", "data2vec2": data2vec2.NAME}
"""Family -> fairseq's name of the model."""


def save_fairseq(model: Wav2Vec2Model, path: Path, *, fine_tuned: bool = False) -> None:
    """fairseq's checkpoint of a pre-trained model, or of one that was fine-tuned with CTC."""
    config = model.config
    cfg, task = config.to_fairseq()
    tensors = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
    if config.layer_type == "conformer":
        names = ("layer_type", "pos_enc_type", "depthwise_conv_kernel_size")
        cfg |= {"attn_type": "espnet", **{name: getattr(config, name) for name in names}}
        tensors = {renamed(name, fairseq.CONFORMER): tensor for name, tensor in tensors.items()}
    elif config.family == "data2vec2":
        cfg, tensors = _data2vec2(config, tensors)
    cfg["_name"] = FAIRSEQ[config.family]
    if config.family == "hubert":
        tensors["label_embs_concat"] = torch.zeros(3, 24)
    if fine_tuned:
        tensors.pop("_ema", None)
        tensors = {f"w2v_encoder.w2v_model.{name}": tensor for name, tensor in tensors.items()}
        tensors["w2v_encoder.proj.weight"] = torch.zeros(5, config.encoder_embed_dim)
        name = "hubert_ctc" if config.family == "hubert" else "wav2vec_ctc"
        cfg = {"_name": name, "w2v_args": {"model": cfg, "task": task}}
    torch.save({"args": None, "cfg": {"model": cfg, "task": task}, "model": tensors}, path)


def _data2vec2(config: Wav2Vec2Config, tensors: dict[str, Tensor]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """With a prenet of all blocks but the last, a decoder and a teacher."""
    prenet = config.encoder_layers - 1
    audio = {
        "prenet_depth": prenet, "use_alibi_encoder": config.alibi, "feature_encoder_spec": config.conv_feature_layers,
        "conv_pos_depth": config.pos_conv_depth, "conv_pos_width": config.conv_pos,
        "conv_pos_groups": config.conv_pos_groups,
    }  # fmt: skip
    cfg = {
        "depth": 1, "embed_dim": config.encoder_embed_dim, "num_heads": config.encoder_attention_heads,
        "mlp_ratio": config.encoder_ffn_embed_dim / config.encoder_embed_dim, "norm_eps": 1e-5,
        "modalities": {"audio": audio},
    }  # fmt: skip
    found = {data2vec2.file_name(name, prenet): tensor for name, tensor in tensors.items() if name != "mask_emb"}
    for name in [name for name in found if ".attn.qkv.q." in name]:
        parts = [found.pop(name.replace(".qkv.q.", f".qkv.{part}.")) for part in "qkv"]
        found[name.replace(".qkv.q.", ".qkv.")] = torch.cat(parts)
    audio_encoder = "modality_encoders.AUDIO."
    if config.alibi:
        found[f"{audio_encoder}alibi_scale"] = found[f"{audio_encoder}alibi_scale"].view(1, 1, -1, 1, 1)
    extra: dict[str, Any] = {f"{audio_encoder}decoder.proj.bias": torch.zeros(3), "_ema": {"norm": torch.zeros(3)}}
    return cfg, found | extra


def save_wavlm(model: Wav2Vec2Model, path: Path) -> None:
    """The file of WavLM's authors."""
    cfg = {name: value for name, value in asdict(model.config).items() if name not in ("family", "sample_rate")}
    torch.save({"cfg": cfg, "model": _renamed(model, wavlm.NAMES)}, path)


def save_fairseq2(model: Wav2Vec2Model, path: Path) -> None:
    """fairseq2's."""
    rules = fairseq2.NAMES if model.config.layer_norm_first else (*fairseq2.POST_NORM, *fairseq2.NAMES)
    torch.save({"model": _renamed(model, rules)}, path)


def save_folder(model: Wav2Vec2Model, folder: Path) -> Path:
    """A folder of transformers."""
    config = model.config
    if config.layer_type != "conformer":
        export_huggingface(model, folder)
        return folder
    encodings = {ours: theirs for theirs, ours in huggingface.ENCODINGS.items()}
    fields: dict[str, Any] = {
        "hidden_size": config.encoder_embed_dim, "num_hidden_layers": config.encoder_layers,
        "num_attention_heads": config.encoder_attention_heads, "intermediate_size": config.encoder_ffn_embed_dim,
        "hidden_act": "swish", "position_embeddings_type": encodings[config.pos_enc_type],
        "conv_depthwise_kernel_size": config.depthwise_conv_kernel_size,
    }  # fmt: skip
    if config.family == "w2v_bert":
        preprocessor: dict[str, Any] = dict(huggingface.FRONTEND)
        limits = ("left_max_position_embeddings", "right_max_position_embeddings")
        fields |= {"model_type": "wav2vec2-bert", **{name: getattr(config, name) for name in limits}}
    else:
        preprocessor = {"do_normalize": config.normalize, "sampling_rate": config.sample_rate}
        dims, kernels, strides = (list(values) for values in zip(*config.conv_layers, strict=True))
        norm = "layer" if config.extractor_mode == "layer_norm" else "group"
        fields |= {"model_type": "wav2vec2-conformer", "feat_extract_norm": norm, "conv_bias": config.conv_bias,
                   "conv_dim": dims, "conv_kernel": kernels, "conv_stride": strides}  # fmt: skip
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(fields))
    (folder / "preprocessor_config.json").write_text(json.dumps(preprocessor))
    save_file(_renamed(model, huggingface.CONFORMER), folder / "model.safetensors", {"format": "pt"})
    return folder


def save(model: Wav2Vec2Model, path: Path, *, fine_tuned: bool = False) -> None:
    """In the format in which the model's family is published."""
    if model.config.family == "wavlm":
        save_wavlm(model, path)
    elif model.config.family == "w2v_bert":
        save_folder(model, path)
    else:
        save_fairseq(model, path, fine_tuned=fine_tuned)


def _renamed(model: Wav2Vec2Model, rules: Any) -> dict[str, Tensor]:
    return {renamed(name, rules): tensor.detach().clone() for name, tensor in model.state_dict().items()}
