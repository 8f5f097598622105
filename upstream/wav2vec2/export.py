"""Writing a model for other libraries: a fairseq checkpoint, or the folder that transformers loads.

The names, values and files of the latter are those of Hugging Face's ``Wav2Vec2Model``, ``HubertModel``, ``WavLMModel``
and ``Data2VecAudioModel`` (transformers, ``models/wav2vec2`` and the others, and
``convert_wav2vec2_original_pytorch_checkpoint_to_pytorch.py``).
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmark.errors import BenchmarkError
from benchmark.files import write_atomically
from upstream.readers import renamed
from upstream.readers.huggingface import NAMES
from upstream.wav2vec2.config import Wav2Vec2Config
from upstream.wav2vec2.model import Wav2Vec2Model

HUGGINGFACE_ACTIVATIONS = {
    "gelu": "gelu",
    "relu": "relu",
    "relu_squared": "relu2",
    "gelu_fast": "gelu_new",
    "gelu_accurate": "gelu_new",
    "tanh": "tanh",
    "linear": "linear",
    "swish": "swish",
}
"""fairseq's activation functions -> transformers' (``transformers.activations.ACT2FN``). Both approximate GELUs of
fairseq are the one by tanh, which transformers has always had as ``gelu_new``."""


HUGGINGFACE_MODELS = {
    "wav2vec2": ("wav2vec2", "Wav2Vec2Model"),
    "hubert": ("hubert", "HubertModel"),
    "wavlm": ("wavlm", "WavLMModel"),
    "data2vec": ("data2vec-audio", "Data2VecAudioModel"),
}
"""Family -> transformers' ``model_type`` and class."""


def save_checkpoint(model: Wav2Vec2Model, path: str | Path) -> None:
    """Write a checkpoint of a wav2vec 2.0 that fairseq and :func:`upstream.wav2vec2.checkpoint.load_model` read.

    fairseq wants the modules of pre-training too: those read with the model are written back, and a model without
    them gets zeros of the right shapes.
    """
    path = Path(path)
    model_cfg, task_cfg = model.config.to_fairseq()
    model_cfg |= model.pretraining_config
    pretraining = dict(model.pretraining)
    if not pretraining:
        dim, conv_dim = model.hidden_size, model.config.conv_layers[-1][0]
        model_cfg |= {"quantize_targets": False, "target_glu": False, "final_dim": dim}
        for name, columns in (("project_q", conv_dim), ("final_proj", dim)):
            pretraining |= {f"{name}.weight": torch.zeros(dim, columns), f"{name}.bias": torch.zeros(dim)}
    state: dict[str, Any] = {
        "args": None,
        "cfg": {"_name": None, "model": model_cfg, "task": task_cfg},
        "model": {**{key: tensor.detach().cpu().clone() for key, tensor in model.state_dict().items()}, **pretraining},
        # fairseq's loader insists on these
        "optimizer_history": [{"optimizer_name": "none", "lr_scheduler_state": {}, "num_updates": 0}],
        "extra_state": {"train_iterator": {"epoch": 1}},
    }
    write_atomically(path, lambda file: torch.save(state, file))


def export_fairseq(model: Wav2Vec2Model, path: Path) -> str:
    """Write a fairseq checkpoint; returns how to load it."""
    save_checkpoint(model, path)
    return (
        f"-u wav2vec2_local -k {path}, or in fairseq fairseq.checkpoint_utils.load_model_ensemble_and_task(['{path}'])"
    )


def export_huggingface(model: Wav2Vec2Model, folder: Path) -> str:
    """Write ``config.json``, ``preprocessor_config.json`` and ``model.safetensors``; returns how to load them.

    The folder appears complete or not at all. The model computes the same states from the same input. Where the
    waveform is normalised, transformers' preprocessor adds 1e-7 to its variance, fairseq and this project 1e-5, which
    changes the states of quiet audio (0.5 % of the input's scale at -30 dB of full scale, 5 % at -40 dB).

    Raises:
        BenchmarkError: transformers has no such architecture.
    """
    from safetensors.torch import save

    files = {
        "config.json": _json(huggingface_config(model.config)),
        "preprocessor_config.json": _json(huggingface_preprocessor(model.config)),
        "model.safetensors": save(huggingface_weights(model), metadata={"format": "pt"}),
    }
    unfinished = folder.with_name(f".{folder.name}.{os.getpid()}.part")
    try:
        unfinished.mkdir(parents=True)
        for name, content in files.items():
            (unfinished / name).write_bytes(content)
        os.rename(unfinished, folder)
    except OSError as error:
        raise BenchmarkError(f"cannot write {folder}: {error.strerror or error}") from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return (
        f"-u hf -k {folder}, or transformers.{HUGGINGFACE_MODELS[model.config.family][1]}.from_pretrained('{folder}')"
    )


def huggingface_config(config: Wav2Vec2Config) -> dict[str, Any]:
    """``config.json``: the architecture, and the dropouts and masks that the model was trained with.

    Raises:
        BenchmarkError: transformers has no such architecture; names the field.
    """
    model_type, name = HUGGINGFACE_MODELS[config.family]
    _check_architecture(config, name)
    dims, kernels, strides = (list(values) for values in zip(*config.conv_layers, strict=True))
    return {
        "architectures": [name],
        "model_type": model_type,
        "dtype": "float32",
        "feat_extract_norm": "layer" if config.extractor_mode == "layer_norm" else "group",
        "feat_extract_activation": "gelu",  # of the positional convolution too
        "conv_dim": dims,
        "conv_kernel": kernels,
        "conv_stride": strides,
        "conv_bias": config.conv_bias,
        "num_feat_extract_layers": len(dims),
        "hidden_size": config.encoder_embed_dim,
        "num_hidden_layers": config.encoder_layers,
        "num_attention_heads": config.encoder_attention_heads,
        "intermediate_size": config.encoder_ffn_embed_dim,
        "hidden_act": HUGGINGFACE_ACTIVATIONS[config.activation_fn],
        "do_stable_layer_norm": config.layer_norm_first,
        "layer_norm_eps": 1e-5,
        "num_conv_pos_embeddings": config.conv_pos,
        "num_conv_pos_embedding_groups": config.conv_pos_groups,
        "hidden_dropout": config.dropout,
        "attention_dropout": config.attention_dropout,
        "activation_dropout": config.activation_dropout,
        "feat_proj_dropout": config.dropout_input,
        "layerdrop": config.encoder_layerdrop,
        "apply_spec_augment": config.apply_mask,
        "mask_time_prob": config.mask_prob,
        "mask_time_length": config.mask_length,
        "mask_time_min_masks": 2,
        "mask_feature_prob": config.mask_channel_prob,
        "mask_feature_length": config.mask_channel_length,
        "mask_feature_min_masks": 0,
    } | _fields_of_family(config)


def _check_architecture(config: Wav2Vec2Config, name: str) -> None:
    """Raise on what the class ``name`` of transformers does not have."""
    wavlm, data2vec = config.family == "wavlm", config.family == "data2vec"
    if (config.pos_conv_depth == 1) == data2vec:
        number = "several positional convolutions" if data2vec else "one positional convolution (pos_conv_depth = 1)"
        instead = ". Export it in fairseq's format" if config.family == "wav2vec2" else ""
        raise BenchmarkError(f"pos_conv_depth = {config.pos_conv_depth}: transformers' {name} has {number}{instead}")
    if wavlm != (config.relative_position_embedding and config.gru_rel_pos):
        raise BenchmarkError(
            f"transformers' {name} has {'gated' if wavlm else 'no'} relative positions; this model not"
        )
    if data2vec and (config.layer_norm_first or config.extractor_mode != "layer_norm"):
        raise BenchmarkError(f"transformers' {name} has layer_norm_first = False and extractor_mode = layer_norm only")


def _fields_of_family(config: Wav2Vec2Config) -> dict[str, Any]:
    if config.family == "wavlm":
        return {"num_buckets": config.num_buckets, "max_bucket_distance": config.max_distance}
    if config.family == "data2vec":
        kernel = max(3, config.conv_pos // config.pos_conv_depth)
        return {"num_conv_pos_embeddings": config.pos_conv_depth, "conv_pos_kernel_size": kernel}
    return {}


def huggingface_preprocessor(config: Wav2Vec2Config) -> dict[str, Any]:
    """``preprocessor_config.json``. As in the published ones, only models without GroupNorm get an attention mask."""
    return {
        "feature_extractor_type": "Wav2Vec2FeatureExtractor",
        "feature_size": 1,
        "sampling_rate": config.sample_rate,
        "do_normalize": config.normalize,
        "return_attention_mask": config.extractor_mode == "layer_norm",
        "padding_side": "right",
        "padding_value": 0.0,
    }


def huggingface_weights(model: Wav2Vec2Model) -> dict[str, Tensor]:
    """The parameters under transformers' names, on the CPU.

    ``weight_g`` and ``weight_v`` are what published checkpoints have: every version of transformers reads them, also
    those whose models say ``parametrizations.weight.original0`` and ``1``.
    """
    weights: dict[str, Tensor] = {}
    for name, tensor in model.state_dict().items():
        weights[renamed(name, NAMES)] = tensor.detach().cpu().contiguous()
    if model.post_extract_proj is None:  # transformers always projects
        dim = model.hidden_size
        weights["feature_projection.projection.weight"] = torch.eye(dim)
        weights["feature_projection.projection.bias"] = torch.zeros(dim)
    if not (model.config.mask_prob > 0 or model.config.mask_channel_prob > 0):  # transformers leaves it out then
        del weights["masked_spec_embed"]
    return weights


def _json(values: dict[str, Any]) -> bytes:
    return (json.dumps(values, indent=2) + "\n").encode()


EXPORTS: Mapping[str, Callable[[Any, Path], str]] = {
    "fairseq": export_fairseq,
    "huggingface": export_huggingface,
}
"""Formats of wav2vec 2.0."""


def exports(config: Wav2Vec2Config) -> dict[str, Callable[[Any, Path], str]]:
    """The model's :attr:`benchmark.interfaces.Upstream.exports`: fairseq's format is written of wav2vec 2.0 only,
    and nothing of Conformers and data2vec 2.0."""
    if config.layer_type == "conformer" or config.family not in HUGGINGFACE_MODELS:
        return {}
    return {name: export for name, export in EXPORTS.items() if name != "fairseq" or config.family == "wav2vec2"}
