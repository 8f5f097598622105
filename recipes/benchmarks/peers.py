"""One checkpoint as each library loads it: ours, fairseq, transformers, torchaudio and s3prl."""

from __future__ import annotations

import dataclasses
import importlib
import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from common import made
from torch import Tensor, nn

from upstream.wav2vec2.checkpoint import load_model
from upstream.wav2vec2.export import export_huggingface, save_checkpoint
from upstream.wav2vec2.model import Wav2Vec2Model

Forward = Callable[[Tensor, Tensor], Any]


@dataclasses.dataclass
class Way:
    """A model as one library loads it.

    Args:
        module: what is trained.
        states: a padded batch and its lengths -> all hidden states.
        last: the same while training -> the last one.
        note: what is not the same.
    """

    module: nn.Module
    states: Forward
    last: Forward
    note: str = ""


def write_checkpoint(folder: Path, architecture: Mapping[str, Any]) -> None:
    """A model with random weights in three formats: fairseq's, Hugging Face's and s3prl's conversion of fairseq's."""
    convert(made(dict(architecture), apply_mask=True, dropout=0.1, attention_dropout=0.1), folder)


def convert(model: Wav2Vec2Model, folder: Path) -> None:
    """A model in three formats."""
    save_checkpoint(model, folder / "fairseq.pt")
    export_huggingface(model, folder / "huggingface")
    written = torch.load(folder / "fairseq.pt")
    parts = {"task_cfg": written["cfg"]["task"], "model_cfg": written["cfg"]["model"], "model_weight": written["model"]}
    torch.save(parts, folder / "s3prl.pt")


def mask(wavs: Tensor, lens: Tensor) -> Tensor:
    """(batch, sample) bool: which are valid."""
    return torch.arange(wavs.size(1)) < lens[:, None]


def ours(folder: Path) -> Way:
    """This library."""
    model = load_model(folder / "fairseq.pt")
    assert model.extractor is not None
    model.extractor.requires_grad_(False)
    return Way(model, model, partial(last_state, model))


def last_state(model: Wav2Vec2Model, wavs: Tensor, lens: Tensor) -> Tensor:
    """The last hidden state."""
    return model(wavs, lens, keep=[model.num_states - 1]).states[0]


def fairseq(folder: Path) -> Way:
    """fairseq's own model, read by its own loader."""
    utilities = importlib.import_module("fairseq.checkpoint_utils")
    (model,), _, _ = utilities.load_model_ensemble_and_task([str(folder / "fairseq.pt")])
    model.feature_extractor.requires_grad_(False)
    model.feature_grad_mult = 0.0

    def states(wavs: Tensor, lens: Tensor) -> Any:
        return model.extract_features(wavs, padding_mask=~mask(wavs, lens), mask=False)["layer_results"]

    def last(wavs: Tensor, lens: Tensor) -> Any:
        return model(wavs, padding_mask=~mask(wavs, lens), mask=True, features_only=True)["x"]

    return Way(model, states, last)


def transformers(folder: Path) -> Way:
    """Hugging Face's model, attention by ``scaled_dot_product_attention``."""
    model = importlib.import_module("transformers").Wav2Vec2Model.from_pretrained(folder / "huggingface")
    model.freeze_feature_encoder()

    def call(wavs: Tensor, lens: Tensor, **more: Any) -> Any:
        return model(wavs, attention_mask=mask(wavs, lens).long(), **more)

    return Way(
        model,
        lambda wavs, lens: call(wavs, lens, output_hidden_states=True).hidden_states,
        lambda wavs, lens: call(wavs, lens).last_hidden_state,
    )


def torchaudio(folder: Path) -> Way:
    """torchaudio's model, imported from Hugging Face's."""
    original = importlib.import_module("transformers").Wav2Vec2Model.from_pretrained(folder / "huggingface")
    model = importlib.import_module("torchaudio.models.wav2vec2.utils").import_huggingface_model(original)
    model.feature_extractor.requires_grad_(False)
    return Way(
        model,
        lambda wavs, lens: model.extract_features(wavs, lens)[0],
        lambda wavs, lens: model(wavs, lens)[0],
        "it has no masking",
    )


def s3prl_support() -> Any:
    """s3prl with stand-ins for what it imports and does not need here."""
    sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests" / "parity"))
    return importlib.import_module("s3prl_support")


def s3prl(folder: Path) -> Way:
    """s3prl's expert, as ``run_downstream.py`` loads it."""
    support = s3prl_support()
    with support._stand_ins():
        expert = importlib.import_module("s3prl.upstream.wav2vec2.expert").UpstreamExpert(str(folder / "s3prl.pt"))
    expert.model.feature_extractor.requires_grad_(False)

    def states(wavs: Tensor, lens: Tensor) -> Any:
        return expert([wav[:n] for wav, n in zip(wavs, lens.tolist(), strict=True)])["hidden_states"]

    return Way(expert, states, lambda wavs, lens: states(wavs, lens)[-1], "its -f has no masking")


LOADERS: dict[str, Callable[[Path], Way]] = {
    "ours": ours, "fairseq": fairseq, "transformers": transformers, "torchaudio": torchaudio, "s3prl": s3prl,
}  # fmt: skip
