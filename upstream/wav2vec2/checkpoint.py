"""A fairseq checkpoint -> a wav2vec 2.0 model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmark.errors import BenchmarkError, shorten
from upstream.readers.fairseq import mapping, read_fairseq
from upstream.wav2vec2.config import Wav2Vec2Config
from upstream.wav2vec2.model import PRETRAINING_MODULES, Wav2Vec2Model

MODEL_NAMES = ("wav2vec2", "wav2vec_ctc")
"""Model names (fairseq's ``_name`` or ``arch``) that can be read."""

CTC_PREFIX, CTC_HEAD = "w2v_encoder.w2v_model.", "w2v_encoder.proj."
"""Where a fine-tuned model keeps the pre-trained one, and its own output layer."""

PRETRAINING_FIELDS = (
    "final_dim", "quantize_targets", "target_glu", "latent_vars", "latent_groups", "latent_dim", "latent_temp",
    "quantizer_depth", "quantizer_factor", "logit_temp", "num_negatives", "cross_sample_negatives",
)  # fmt: skip
"""Fields of fairseq's configuration that shape the modules in :data:`PRETRAINING_MODULES`."""


@dataclass
class Checkpoint:
    """A checkpoint as a wav2vec 2.0 model."""

    config: Wav2Vec2Config
    weights: dict[str, Tensor]
    """The upstream's parameters, under fairseq's names."""
    pretraining: dict[str, Tensor] = field(default_factory=dict)
    """Tensors of :data:`PRETRAINING_MODULES`."""
    pretraining_config: dict[str, Any] = field(default_factory=dict)


def load_model(
    path: str | Path, *, options: Mapping[str, Any] | None = None, random_weights: bool = False
) -> Wav2Vec2Model:
    """Read a checkpoint into a model, in evaluation mode.

    Args:
        path: a fairseq checkpoint of any layout that :func:`read_checkpoint` knows.
        options: fields of :class:`Wav2Vec2Config` to change: those that matter while training.
        random_weights: take the architecture only; the weights are drawn as before pre-training, from torch's random
            state.

    Raises:
        BenchmarkError: for a file that is not such a checkpoint, or whose tensors are not those that its configuration
            asks for.
    """
    checkpoint = read_checkpoint(path)
    config = replace(checkpoint.config, **(options or {}))
    if random_weights:
        return Wav2Vec2Model(config).eval()
    with torch.device("meta"):
        model = Wav2Vec2Model(
            config,
            pretraining=checkpoint.pretraining,
            pretraining_config=checkpoint.pretraining_config,
        )
    expected = model.state_dict()
    missing = [name for name in expected if name not in checkpoint.weights]
    unexpected = [name for name in checkpoint.weights if name not in expected]
    misshapen = [
        f"{name} {list(tensor.shape)}, expected {list(expected[name].shape)}"
        for name, tensor in checkpoint.weights.items()
        if name in expected and tensor.shape != expected[name].shape
    ]
    problems = {"missing": missing, "unexpected": unexpected, "misshapen": misshapen}
    if any(problems.values()):
        raise BenchmarkError(
            f"{path}: the tensors do not fit the checkpoint's configuration. "
            + "; ".join(f"{len(names)} {kind}: {shorten(names, most=5)}" for kind, names in problems.items() if names)
        )
    weights = {name: tensor.float() for name, tensor in checkpoint.weights.items()}
    _check_values(Path(path), checkpoint.weights)
    model.load_state_dict(weights, strict=True, assign=True)
    return model.eval()


def _check_values(path: Path, weights: Mapping[str, Tensor]) -> None:
    """Raise on weights that are no floating-point numbers, or not finite, as training that diverged leaves them."""
    quantised = [name for name, tensor in weights.items() if not tensor.is_floating_point()]
    if quantised:
        raise BenchmarkError(
            f"{path}: {len(quantised)} tensors are not floating-point numbers, but quantised: "
            f"{shorten(quantised, most=5)}; take the checkpoint from before it was quantised"
        )
    broken = [name for name, tensor in weights.items() if not torch.isfinite(tensor).all()]
    if broken:
        raise BenchmarkError(
            f"{path}: {len(broken)} tensors have NaN or infinite values: {shorten(broken, most=5)}. The training that "
            "wrote it diverged, or its weights were converted to float16 out of range; take an earlier checkpoint"
        )


def read_checkpoint(path: str | Path) -> Checkpoint:
    """Read a checkpoint without running any code in it.

    Layouts: those of :func:`upstream.readers.fairseq.read_fairseq`, each also fine-tuned with CTC (the pre-trained
    model under ``w2v_encoder.w2v_model``, its configuration in ``w2v_args``).

    Raises:
        BenchmarkError: naming the file and what is wrong with it.
    """
    file = read_fairseq(path)
    path, model, task, tensors = file.path, file.model, file.task, file.tensors
    name = _model_name(model)
    if name not in MODEL_NAMES:
        raise BenchmarkError(f"{path} is a '{name}' model; supported: {', '.join(MODEL_NAMES)}")

    if name == "wav2vec_ctc" or any(key.startswith(CTC_PREFIX) for key in tensors):
        inner = mapping(model.get("w2v_args"), path, "the configuration of the fine-tuned model, 'w2v_args',")
        # a nested cfg with model and task, or old args that hold both
        model = mapping(inner.get("model", inner), path, "the configuration of the model in 'w2v_args'")
        inner_task = mapping(inner.get("task") or {}, path, "the task in 'w2v_args'") if "model" in inner else inner
        task = {**inner_task, **{key: value for key, value in task.items() if value is not None}}
        if _model_name(model) != "wav2vec2":
            raise BenchmarkError(f"{path} is a fine-tuned '{_model_name(model)}' model; supported: wav2vec2")
        tensors = {
            key.removeprefix(CTC_PREFIX): tensor for key, tensor in tensors.items() if not key.startswith(CTC_HEAD)
        }
    pretraining = {key: tensor for key, tensor in tensors.items() if key.split(".")[0] in PRETRAINING_MODULES}
    try:
        config = Wav2Vec2Config.from_fairseq(model, task)
    except BenchmarkError as error:
        raise BenchmarkError(f"{path}: {error}") from error
    return Checkpoint(
        config,
        weights={key: tensor for key, tensor in tensors.items() if key not in pretraining},
        pretraining=pretraining,
        pretraining_config={key: model[key] for key in PRETRAINING_FIELDS if model.get(key) is not None},
    )


def _model_name(model: Mapping[str, Any]) -> Any:
    """fairseq's name for the model; files without one (s3prl's) count as wav2vec 2.0 until their tensors disagree."""
    return model.get("_name") or model.get("arch") or "wav2vec2"
