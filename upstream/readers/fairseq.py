"""Reading fairseq's checkpoints of wav2vec 2.0, HuBERT and data2vec-audio, without fairseq.

The native model has fairseq's names, so that there is no map, but for Conformer blocks and data2vec 2.0
(:mod:`upstream.readers.data2vec2`): only configurations differ, and what pre-training adds.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from benchmark.errors import BenchmarkError, shorten
from upstream.readers import Checkpoint, Rules, data2vec2, only_tensors, renamed, usual_names
from upstream.readers.torchfile import load_state, plain, unreadable
from upstream.wav2vec2.config import Wav2Vec2Config

FAMILIES = {"wav2vec2": "wav2vec2", "hubert": "hubert", "data2vec_audio": "data2vec"}
"""fairseq's name of a pre-trained model (``_name`` or ``arch``) -> family."""

FINE_TUNED = {"wav2vec_ctc": "wav2vec2", "hubert_ctc": "hubert"}
"""fairseq's name of a model fine-tuned with CTC -> that of the pre-trained one inside."""

PRETRAINING_MODULES = {
    "wav2vec2": ("quantizer", "project_q", "final_proj", "target_glu"),
    "hubert": ("final_proj", "target_glu", "label_embs_concat"),
    "data2vec": ("final_proj", "_ema"),
}
"""Family -> modules that only pre-training uses; ``_ema`` is data2vec's teacher, a dict of its parameters."""

PRETRAINING_FIELDS = (
    "final_dim", "quantize_targets", "target_glu", "latent_vars", "latent_groups", "latent_dim", "latent_temp",
    "quantizer_depth", "quantizer_factor", "logit_temp", "num_negatives", "cross_sample_negatives",
)  # fmt: skip
"""Fields of fairseq's configuration that shape the modules of wav2vec 2.0's pre-training."""

CONFORMER: Rules = (
    (r"\.self_attn\.([qkv])_proj\.", r".self_attn.linear_\1."),
    (r"\.self_attn\.out_proj\.", ".self_attn.linear_out."),
    (r"\.self_attn\.pos_proj\.", ".self_attn.linear_pos."),
    (r"\.(ffn[12])\.fc([12])\.", r".\1.w_\2."),
)
"""Native names of Conformer blocks -> fairseq's."""

_UNUSED_BY_CONFORMER = re.compile(r"^encoder\.pos_conv\.|\.rotary_emb\.inv_freq$")
"""A convolution that fairseq makes and does not run, and frequencies that are computed."""

CTC_PREFIX, CTC_HEAD = "w2v_encoder.w2v_model.", "w2v_encoder.proj."
"""Where a fine-tuned model keeps the pre-trained one, and its own output layer."""

_EXPECTED = (
    "expected a fairseq checkpoint: 'model' with 'cfg' or 'args' (or s3prl's 'model_weight' with 'model_cfg'); "
    "or WavLM's or fairseq2's file, or a Hugging Face folder"
)


@dataclass
class FairseqFile:
    """What a checkpoint contains, as plain data and tensors."""

    path: Path
    model: dict[Any, Any]
    """Configuration of the model."""
    task: dict[Any, Any]
    """Configuration of the task; the same as ``model`` in files with ``args``."""
    tensors: dict[str, Tensor]
    """The model's parameters and buffers."""


def read_fairseq(path: str | Path, state: Any = None) -> FairseqFile:
    """Read a checkpoint of any model without running any code in it.

    Layouts: ``model`` with ``cfg`` (a dict or an omegaconf DictConfig) or with the older ``args`` (an argparse
    Namespace), and s3prl's converted files (``model_weight`` with ``model_cfg``).

    Args:
        path: of the file.
        state: what :func:`upstream.readers.torchfile.load_state` found there; ``None``: it is called here.

    Raises:
        BenchmarkError: naming the file and what is wrong with it.
    """
    path = Path(path)
    state = load_state(path) if state is None else state
    try:
        return _interpret(path, state)
    except RecursionError as error:  # a configuration nested without end
        raise unreadable(path, error) from None


def _interpret(path: Path, state: Any) -> FairseqFile:
    if not isinstance(state, dict):
        raise BenchmarkError(f"{path} holds a {type(state).__name__}; {_EXPECTED}")
    if "model_weight" in state and "model_cfg" in state:
        model, task, tensors = state["model_cfg"], state.get("task_cfg"), state["model_weight"]
    elif state.get("cfg") is not None and "model" in state:
        cfg = configuration(state["cfg"], path, "'cfg'")
        model, task, tensors = cfg.get("model"), cfg.get("task"), state["model"]
    elif state.get("args") is not None and "model" in state:
        model, task, tensors = state["args"], state["args"], state["model"]
    else:
        raise BenchmarkError(f"{path} has {shorten(state, most=5)}; {_hint(state)}{_EXPECTED}")
    model = configuration(model, path, "the configuration of the model")
    task = configuration({} if task is None else task, path, "the configuration of the task")
    tensors = mapping(tensors, path, "'model'")
    if isinstance(tensors.get("_ema"), dict):
        del tensors["_ema"]
    return FairseqFile(path, model, task, usual_names(only_tensors(tensors, path)))


def mapping(value: Any, path: Path, what: str) -> dict[Any, Any]:
    """``value`` as plain data, which must be a dict; ``what`` names it in the error."""
    value = plain(value)
    if not isinstance(value, dict):
        raise BenchmarkError(f"{path}: {what} is a {type(value).__name__}; {_EXPECTED}")
    return value


def configuration(value: Any, path: Path, what: str) -> dict[Any, Any]:
    """:func:`mapping` with words in place of tensors, which belong in no configuration and compare with nothing."""

    def spelt(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: spelt(item) for key, item in value.items()}
        if isinstance(value, (list, tuple)):
            return type(value)(spelt(item) for item in value)
        return "a tensor" if isinstance(value, Tensor) else value

    found: dict[Any, Any] = spelt(mapping(value, path, what))
    return found


def interpret(path: Path, state: Any) -> Checkpoint:
    """A file of :func:`upstream.readers.torchfile.load_state` as wav2vec 2.0, HuBERT or data2vec-audio.

    Also fine-tuned with CTC: the pre-trained model under ``w2v_encoder.w2v_model``, its configuration in ``w2v_args``.

    Raises:
        BenchmarkError: naming the file and what is wrong with it.
    """
    file = read_fairseq(path, state)
    model, task, tensors = file.model, file.task, file.tensors
    name = _model_name(model, tensors)
    if name in FINE_TUNED or any(key.startswith(CTC_PREFIX) for key in tensors):
        inner = mapping(model.get("w2v_args"), path, "the configuration of the fine-tuned model, 'w2v_args',")
        # a nested cfg with model and task, or old args that hold both
        model = mapping(inner.get("model", inner), path, "the configuration of the model in 'w2v_args'")
        inner_task = mapping(inner.get("task") or {}, path, "the task in 'w2v_args'") if "model" in inner else inner
        task = {**inner_task, **{key: value for key, value in task.items() if value is not None}}
        tensors = {
            key.removeprefix(CTC_PREFIX): tensor for key, tensor in tensors.items() if not key.startswith(CTC_HEAD)
        }
        name = _model_name(model, tensors)
    if name == data2vec2.NAME:
        try:
            return data2vec2.interpret(model, task, tensors)
        except BenchmarkError as error:
            raise BenchmarkError(f"{path}: {error}") from error
    if name not in FAMILIES:
        known = ", ".join([*FAMILIES, data2vec2.NAME, *FINE_TUNED])
        raise BenchmarkError(f"{path} is a '{name}' model; supported: {known}")
    family = FAMILIES[name]
    if model.get("layer_type") == "conformer":
        tensors = {key: tensor for key, tensor in tensors.items() if not _UNUSED_BY_CONFORMER.search(key)}
    pretraining = {key: tensor for key, tensor in tensors.items() if key.split(".")[0] in PRETRAINING_MODULES[family]}
    try:
        config = Wav2Vec2Config.from_fairseq(model, task, family)
    except BenchmarkError as error:
        raise BenchmarkError(f"{path}: {error}") from error
    return Checkpoint(
        config,
        tensors={key: tensor for key, tensor in tensors.items() if key not in pretraining},
        name_in_file=lambda name: renamed(name, CONFORMER if config.layer_type == "conformer" else ()),
        pretraining=pretraining,
        pretraining_config={key: model[key] for key in PRETRAINING_FIELDS if model.get(key) is not None},
    )


def _model_name(model: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> str:
    """fairseq's name for the model. Files without one (s3prl's) are told by their tensors, and otherwise count as
    wav2vec 2.0 until their tensors disagree."""
    known = model.get("_name") or model.get("arch")
    return str(known) if known else ("hubert" if "label_embs_concat" in tensors else "wav2vec2")


def _hint(state: Mapping[Any, Any]) -> str:
    if any(isinstance(key, str) and ("feature_projection" in key or key.startswith("wav2vec2.")) for key in state):
        return "these look like Hugging Face weights, which need the config.json of their folder: give the folder; "
    return ""
