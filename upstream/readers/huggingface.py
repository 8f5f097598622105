"""Reading Hugging Face folders of wav2vec 2.0 (Conformer, too), HuBERT, WavLM, data2vec-audio and w2v-BERT 2.0, without
transformers.

A folder has ``config.json``, ``preprocessor_config.json`` (or ``processor_config.json``) and the weights:
``model.safetensors`` or ``pytorch_model.bin``, or an index of several such files. Names and configurations are those of
transformers 5.24 (``models/wav2vec2``, ``hubert``, ``wavlm``, ``data2vec``, ``wav2vec2_bert``). Models with a head on
top, such as ``Wav2Vec2ForCTC``, or with an adapter after the encoder, are read without it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from benchmark.errors import BenchmarkError, shorten
from upstream.hub import PREPROCESSORS, WEIGHTS
from upstream.readers import Checkpoint, Rules, fairseq, only_tensors, renamed, usual_names
from upstream.readers.torchfile import load_state, unreadable
from upstream.w2v_bert.frontend import BANDS, SAMPLE_RATE, STRIDE, FbankExtractor
from upstream.wav2vec2.config import Wav2Vec2Config

FAMILIES = {"wav2vec2": "wav2vec2", "wav2vec2-conformer": "wav2vec2", "hubert": "hubert", "wavlm": "wavlm",
            "data2vec-audio": "data2vec", "wav2vec2-bert": "w2v_bert"}  # fmt: skip
"""``model_type`` -> family."""

PREFIXES = {"wav2vec2": "wav2vec2.", "wav2vec2-conformer": "wav2vec2_conformer.", "hubert": "hubert.",
            "wavlm": "wavlm.", "data2vec-audio": "data2vec_audio.", "wav2vec2-bert": "wav2vec2_bert."}  # fmt: skip
"""``model_type`` -> what comes before the names of the pre-trained model in a model with a head."""

HEADS = ("lm_head", "quantizer", "project_hid", "project_q", "projector", "classifier", "layer_weights", "tdnn",
         "feature_extractor", "objective")  # fmt: skip
"""Modules beside the pre-trained model that are not read: of its pre-training, of tasks, of Wav2Vec2ForXVector."""

_FRONTEND: Rules = (
    (r"^feature_extractor\.conv_layers\.(\d+)\.0\.", r"feature_extractor.conv_layers.\1.conv."),
    (r"^feature_extractor\.conv_layers\.(\d+)\.2(\.1)?\.", r"feature_extractor.conv_layers.\1.layer_norm."),
    (r"^layer_norm\.", "feature_projection.layer_norm."),
    (r"^post_extract_proj\.", "feature_projection.projection."),
    (r"^mask_emb$", "masked_spec_embed"),
)
NAMES: Rules = (
    *_FRONTEND,
    (r"^encoder\.pos_conv\.(\d+)\.0\.", r"encoder.pos_conv_embed.layers.\1.conv."),  # data2vec's
    (r"^encoder\.pos_conv\.0\.", "encoder.pos_conv_embed.conv."),
    (r"^encoder\.relative_positions\.", "encoder.layers.0.attention.rel_attn_embed."),
    (r"\.self_attn\.gate\.linear\.", ".attention.gru_rel_pos_linear."),
    (r"\.self_attn\.gate\.scale$", ".attention.gru_rel_pos_const"),
    (r"\.self_attn_layer_norm\.", ".layer_norm."),
    (r"\.self_attn\.", ".attention."),
    (r"\.fc1\.", ".feed_forward.intermediate_dense."),
    (r"\.fc2\.", ".feed_forward.output_dense."),
)
"""Native names -> transformers', weight norm in its older spelling: :func:`upstream.readers.usual_names`."""

CONFORMER: Rules = (
    *_FRONTEND,
    *fairseq.CONFORMER,
    (r"\.(ffn[12])\.layer_norm\.", r".\1_layer_norm."),
    (r"\.(ffn[12])\.w_1\.", r".\1.intermediate_dense."),
    (r"\.(ffn[12])\.w_2\.", r".\1.output_dense."),
)
"""The same for Conformer blocks."""

_UNUSED = ("adapter.", "intermediate_ffn.")
"""What follows the encoder of some models that were fine-tuned."""
_UNUSED_BY_CONFORMER = ("encoder.pos_conv_embed.", "encoder.embed_positions.")
"""A convolution that transformers makes and does not run, and frequencies that are computed."""

FIELDS = {
    "encoder_layers": "num_hidden_layers",
    "encoder_embed_dim": "hidden_size",
    "encoder_ffn_embed_dim": "intermediate_size",
    "encoder_attention_heads": "num_attention_heads",
    "conv_bias": "conv_bias",
    "conv_pos_groups": "num_conv_pos_embedding_groups",
    "dropout": "hidden_dropout",
    "attention_dropout": "attention_dropout",
    "activation_dropout": "activation_dropout",
    "dropout_input": "feat_proj_dropout",
    "encoder_layerdrop": "layerdrop",
    "mask_prob": "mask_time_prob",
    "mask_length": "mask_time_length",
    "mask_channel_prob": "mask_feature_prob",
    "mask_channel_length": "mask_feature_length",
}
"""Fields of :class:`Wav2Vec2Config` -> transformers', of the same meaning and, where shapes depend on them, with the
same default."""

ACTIVATIONS = {
    "gelu": "gelu",
    "relu": "relu",
    "relu2": "relu_squared",
    "gelu_new": "gelu_accurate",
    "gelu_fast": "gelu_accurate",
    "gelu_pytorch_tanh": "gelu_accurate",
    "tanh": "tanh",
    "linear": "linear",
    "silu": "swish",
    "swish": "swish",
}
"""transformers' activation functions -> fairseq's. The GELUs by tanh differ in rounding only."""

REQUIRED: dict[str, Any] = {
    "feat_extract_activation": "gelu",
    "layer_norm_eps": 1e-5,
    "feat_proj_layer_norm": True,
    "conv_pos_batch_norm": False,
    "adapter_attn_dim": None,
    "rotary_embedding_base": 10000,
}
"""Fields that change the architecture, and the only value that is implemented, which is transformers' default."""


def files(folder: Path) -> list[Path]:
    """The files of a folder that are read: configurations, then weights.

    Raises:
        BenchmarkError: a file is missing, or an index names files outside the folder.
    """
    config = folder / "config.json"
    if not config.is_file():
        raise BenchmarkError(f"{folder} is a folder without config.json; expected a Hugging Face model")
    preprocessor = next((folder / name for name in PREPROCESSORS if (folder / name).is_file()), None)
    if preprocessor is None:
        raise BenchmarkError(
            f"{folder} has no preprocessor_config.json, which says whether the model wants normalised waveforms. Fetch "
            'it, or write it: {"do_normalize": true, "sampling_rate": 16000}'
        )
    return [config, preprocessor, *weight_files(folder)]


def weight_files(folder: Path) -> list[Path]:
    """The files of a folder that hold its weights.

    Raises:
        BenchmarkError: there are none, or an index names files outside the folder.
    """
    weights = next((folder / name for name in WEIGHTS if (folder / name).is_file()), None)
    if weights is None:
        raise BenchmarkError(f"{folder} has no weights: none of {', '.join(WEIGHTS)}")
    if weights.suffix != ".json":
        return [weights]
    parts = read_json(weights).get("weight_map")
    names = sorted(set(map(str, parts.values()))) if isinstance(parts, dict) else []
    if not names or not {file.name for file in folder.iterdir() if file.is_file()}.issuperset(names):
        raise BenchmarkError(
            f"{weights}: 'weight_map' must name files of this folder; it names {shorten(names, most=3)}"
        )
    return [folder / name for name in names]


def read(folder: Path) -> Checkpoint:
    """Read a folder.

    Raises:
        BenchmarkError: naming the file and what is wrong with it.
    """
    config_file, preprocessor_file, *weights = files(folder)
    fields = read_json(config_file)
    family = FAMILIES.get(str(fields.get("model_type")))
    if family is None:
        raise BenchmarkError(
            f"{config_file}: model_type is {fields.get('model_type')!r}; supported: {', '.join(FAMILIES)}"
            + (
                "; -u whisper_local reads this folder"
                if fields.get("model_type") == "whisper"
                else "; -u hf_auto runs other speech encoders by transformers"
            )
        )
    preprocessor = read_json(preprocessor_file)
    nested = preprocessor.get("feature_extractor")
    make = _w2v_bert if family == "w2v_bert" else _config
    try:
        config = make(family, fields, nested if isinstance(nested, dict) else preprocessor)
    except BenchmarkError as error:
        raise BenchmarkError(f"{config_file}: {error}") from error
    tensors = _without_heads(usual_names(read_tensors(weights)), PREFIXES[str(fields["model_type"])])
    rules = NAMES
    if config.layer_type == "conformer":
        rules = CONFORMER
        tensors = {name: tensor for name, tensor in tensors.items() if not name.startswith(_UNUSED_BY_CONFORMER)}
    return Checkpoint(config, tensors, name_in_file=lambda name: renamed(name, rules), optional=("mask_emb",))


def _require(fields: Mapping[str, Any], required: Mapping[str, Any]) -> None:
    for name, value in required.items():
        if fields.get(name, value) != value:
            raise BenchmarkError(f"{name} = {fields[name]!r} is not supported; supported: {value!r}")


def _one_of(fields: Mapping[str, Any], name: str, default: str, known: Mapping[str, str]) -> str:
    """Ours for the value of a field."""
    value = fields.get(name, default)
    if not isinstance(value, str) or value not in known:
        raise BenchmarkError(f"{name} = {value!r} is not supported; supported: {', '.join(known)}")
    return known[value]


def _w2v_bert(family: str, fields: Mapping[str, Any], preprocessor: Mapping[str, Any]) -> Wav2Vec2Config:
    """The configuration of w2v-BERT 2.0."""
    _require(fields, REQUIRED | {"feature_projection_input_dim": FbankExtractor.dim})
    _require(preprocessor, FRONTEND)
    values = _W2V_BERT_DEFAULTS | {
        ours: fields[theirs] for ours, theirs in FIELDS.items() if fields.get(theirs) is not None
    }
    _one_of(fields, "hidden_act", "swish", _SWISH)
    for name in ("left_max_position_embeddings", "right_max_position_embeddings"):
        values[name] = fields.get(name, getattr(Wav2Vec2Config, name))
    return Wav2Vec2Config(
        family=family,
        extractor_mode="fbank",
        activation_fn="swish",
        always_project=True,
        encoder_layer_norm=False,
        layer_type="conformer",
        pos_enc_type=_one_of(fields, "position_embeddings_type", "relative_key", ENCODINGS),
        depthwise_conv_kernel_size=fields.get("conv_depthwise_kernel_size", 31),
        causal_conv=True,
        **values,
    )


def _config(family: str, fields: Mapping[str, Any], preprocessor: Mapping[str, Any]) -> Wav2Vec2Config:
    _require(fields, REQUIRED)
    values = {ours: fields[theirs] for ours, theirs in FIELDS.items() if fields.get(theirs) is not None}
    values |= {
        "family": family,
        "activation_fn": _one_of(fields, "hidden_act", "gelu", ACTIVATIONS),
        "always_project": True,
        "normalize_eps": 1e-7,
        "normalize": preprocessor.get("do_normalize", True),
        "sample_rate": preprocessor.get("sampling_rate", 16000),
    }
    convolutions = [fields.get(f"conv_{name}", default) for name, default in _CONVOLUTIONS.items()]
    if not all(isinstance(item, list) and len(item) == len(convolutions[0]) for item in convolutions):
        raise BenchmarkError(f"conv_dim, conv_kernel and conv_stride must be lists of one length, not {convolutions}")
    values["conv_feature_layers"] = list(zip(*convolutions, strict=True))
    if family == "data2vec":
        depth, kernel = fields.get("num_conv_pos_embeddings", 5), fields.get("conv_pos_kernel_size", 19)
        if not (isinstance(depth, int) and isinstance(kernel, int) and depth > 1 and kernel > 2):
            raise BenchmarkError(
                f"num_conv_pos_embeddings = {depth!r} and conv_pos_kernel_size = {kernel!r} are not supported; "
                "supported: more than 1, and more than 2"
            )
        values |= {"extractor_mode": "layer_norm", "pos_conv_depth": depth, "conv_pos": depth * kernel}
    else:
        norms = {"group": "default", "layer": "layer_norm"}
        values |= {
            "extractor_mode": _one_of(fields, "feat_extract_norm", "group", norms),
            "layer_norm_first": fields.get("do_stable_layer_norm", False),
            "conv_pos": fields.get("num_conv_pos_embeddings", 128),
        }
    if fields.get("model_type") == "wav2vec2-conformer":
        encodings = {name: encoding for name, encoding in ENCODINGS.items() if encoding != "relative_key"}
        _one_of(fields, "hidden_act", "gelu", _SWISH)
        values |= {
            "layer_type": "conformer",
            "pos_enc_type": _one_of(fields, "position_embeddings_type", "relative", encodings),
            "depthwise_conv_kernel_size": fields.get("conv_depthwise_kernel_size", 31),
            "layer_norm_first": True,
        }
    if family == "wavlm":
        values |= {
            "relative_position_embedding": True,
            "gru_rel_pos": True,
            "num_buckets": fields.get("num_buckets", 320),
            "max_distance": fields.get("max_bucket_distance", 800),
        }
    return Wav2Vec2Config(**values)


ENCODINGS = {"relative": "rel_pos", "rotary": "rope", "relative_key": "relative_key"}
"""transformers' position encodings of Conformers -> ours."""
_SWISH = {name: ours for name, ours in ACTIVATIONS.items() if ours == "swish"}
"""Activations of Conformers."""

FRONTEND: dict[str, Any] = {
    "feature_size": BANDS, "num_mel_bins": BANDS, "stride": STRIDE, "sampling_rate": SAMPLE_RATE,
}  # fmt: skip
"""What w2v-BERT's preprocessor must say, if it says anything."""
_W2V_BERT_DEFAULTS = {"encoder_layers": 24, "encoder_embed_dim": 1024, "encoder_ffn_embed_dim": 4096,
                      "encoder_attention_heads": 16}  # fmt: skip
"""Of transformers' configuration."""

_CONVOLUTIONS = {"dim": [512] * 7, "kernel": [10, 3, 3, 3, 3, 2, 2], "stride": [5, 2, 2, 2, 2, 2, 2]}


def _without_heads(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors of the pre-trained model: with ``prefix``, which is removed, where there are others beside them."""
    if any(name.startswith(prefix) for name in tensors):
        kept = {name: tensor for name, tensor in tensors.items() if name.split(".")[0] not in HEADS}
        tensors = {name.removeprefix(prefix): tensor for name, tensor in kept.items()}
    return {name: tensor for name, tensor in tensors.items() if not name.startswith(_UNUSED)}


def read_tensors(paths: Sequence[Path]) -> dict[str, Tensor]:
    """All tensors of safetensors files and pickles, by name."""
    tensors: dict[str, Tensor] = {}
    for path in paths:
        tensors |= _read_safetensors(path) if path.suffix == ".safetensors" else _read_pickle(path)
    return tensors


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file."""
    try:
        values = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise unreadable(path, error) from error
    if not isinstance(values, dict):
        raise BenchmarkError(f"{path} holds a {type(values).__name__}; expected a JSON object")
    return values


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors import safe_open

    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except Exception as error:  # whatever a damaged file makes safetensors and torch raise
        raise unreadable(path, error) from error


def _read_pickle(path: Path) -> dict[str, Tensor]:
    state = load_state(path)
    if not isinstance(state, dict):
        raise BenchmarkError(f"{path} holds a {type(state).__name__}; expected tensors by name")
    return only_tensors(state, path)
