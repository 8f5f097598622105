"""s3prl 0.4.18 as it stands, for comparison: its experts, its Runner and its newer ``nn`` modules.

What is on PyPI as 0.4.18 is commit ec8064b5, the one that the protocol cards cite. It imports things that are gone
(``torchaudio.sox_effects``, ``huggingface_hub.HfFolder``) and optional packages (tensorboardX, editdistance, sox,
catalyst, librosa) for work that nothing here asks of it: reading audio, error rates, the hub of upstreams. While it is
imported, empty stand-ins take the place of these; then they are taken away again, so that nobody else meets them.

The experts are made by their own ``__init__`` from the values of SUPERB's configuration files (which the package leaves
out), at the sizes of a test, and the Runner by its own ``__init__`` too, around an upstream of ours.
"""

from __future__ import annotations

import importlib
import sys
from argparse import Namespace
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any
from unittest import mock

import huggingface_hub
import torch
from torch import Tensor, nn

STAND_INS = (
    "catalyst",
    "catalyst.data",
    "catalyst.data.sampler",
    "editdistance",
    "librosa",
    "librosa.util",
    "tensorboardX",
    "torchaudio.sox_effects",
    "s3prl.hub",
    "s3prl.downstream.asr.dataset",
    "s3prl.downstream.sv_voxceleb1.dataset",
    "s3prl.downstream.voxceleb1.dataset",
)
GONE_FROM_THE_HUB = ("HfFolder", "Repository")


@contextmanager
def _stand_ins() -> Iterator[None]:
    former = {name: sys.modules.get(name) for name in STAND_INS}
    gone = dict.fromkeys(GONE_FROM_THE_HUB)
    try:
        sys.modules.update({name: mock.MagicMock(name=name) for name in STAND_INS})
        with mock.patch.multiple(huggingface_hub, create=True, **gone):
            yield
    finally:
        for name, module in former.items():
            if module is None:
                del sys.modules[name]
            else:
                sys.modules[name] = module


def _module(name: str) -> ModuleType:
    return importlib.import_module(f"s3prl.{name}")


with _stand_ins():
    asr = _module("downstream.asr.expert")
    emotion = _module("downstream.emotion.expert")
    emotion_lists = _module("downstream.emotion.IEMOCAP_preprocess")
    intents = _module("downstream.fluent_commands.expert")
    keywords = _module("downstream.speech_commands.expert")
    heads = _module("downstream.model")
    sid = _module("downstream.voxceleb1.expert")
    sv = _module("downstream.sv_voxceleb1.expert")
    sv_model = _module("downstream.sv_voxceleb1.model")
    interfaces = _module("upstream.interfaces")
    runner = _module("downstream.runner")
    s3prl_nn = _module("nn")
    speech2text = _module("task.speech2text_ctc_task")
    tokenizer = _module("dataio.encoder.tokenizer")


# -- comparing ------------------------------------------------------------------------------------------------------


@contextmanager
def precision(dtype: torch.dtype) -> Iterator[None]:
    """Compute in ``dtype``: modules are made in it, and what our heads bring to float32 stays in float64 if it was.

    In float64 two ways to compute one thing agree to 13 digits and two things that are not the same do not.
    """
    former, plain = torch.get_default_dtype(), torch.Tensor.float
    torch.set_default_dtype(dtype)
    try:
        with mock.patch.object(
            torch.Tensor, "float", lambda self: self if self.dtype == torch.float64 else plain(self)
        ):
            yield
    finally:
        torch.set_default_dtype(former)


def error(ours: Tensor, theirs: Tensor) -> float:
    """Largest difference, relative to the largest of their values."""
    assert ours.shape == theirs.shape
    assert theirs.isfinite().all()
    scale = theirs.detach().abs().max().item()
    return (ours - theirs).detach().abs().max().item() / (scale or 1.0)


def largest_error(ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> float:
    """The largest :func:`error` among tensors of the same names."""
    assert ours.keys() == theirs.keys()
    return max(error(ours[name], theirs[name]) for name in ours)


def gradients(loss: Tensor, parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Of a scalar, by name."""
    return dict(zip(parameters, torch.autograd.grad(loss, list(parameters.values())), strict=True))


XVECTOR_NAMES = {
    "model.framelevel_feature_extractor.module.": "embedder.tdnn.",
    "model.utterancelevel_feature_extractor.": "embedder.",
    "connector.": "embedder.connector.",
    "tdnns.module.": "embedder.tdnn.",
    "affine.": "embedder.",
}
"""The x-vector's parameters: in the SV expert, in ``nn.SuperbXvector`` -> in our classifier."""
SID_NAMES = {
    "model.post_net.linear.": "objective.fc.",
    "final_proj.": "objective.fc.",
    "hidden_layers.0.": "embedder.connector.",
}
ASR_NAMES = {"model.rnns.": "rnns.", "model.linear.": "linear."}
PROJECTOR = {"projector.": "embedder.connector."}
UTTERANCE_NAMES = SID_NAMES | PROJECTOR
"""Of the experts of SID, emotions, keywords and intents."""


def as_ours(theirs: Mapping[str, Tensor], names: Mapping[str, str]) -> dict[str, Tensor]:
    """Their parameters, or gradients of them, under our names and in our shapes."""
    return {_our_name(name, names): _our_shape(name, value) for name, value in theirs.items()}


def _our_name(name: str, names: Mapping[str, str]) -> str:
    for prefix, ours in names.items():
        if name.startswith(prefix):
            return ours + name.removeprefix(prefix).replace("kernel.", "").replace(".layer.", ".")
    return {"objective.weight": "objective.W"}.get(name, name)


def _our_shape(name: str, value: Tensor) -> Tensor:
    if name.endswith("kernel.weight"):  # (output, context * input), context outermost -> (output, input, context)
        layer = int(name.split(".")[-3])
        context = (5, 3, 3, 1, 1)[layer]
        return value.view(len(value), context, -1).transpose(1, 2)
    return value.T if name == "objective.weight" else value  # AAMSoftmaxLoss: (class, size)


# -- experts, from SUPERB's configuration files at ec8064b5 ---------------------------------------------------------

LETTERS = "|ETAONIHSRDLUMCWFGYPBVK'XJQZ"
"""downstream/asr/char.dict: the order of the ASR expert's alphabet, after ``<s> <pad> </s> <unk>``."""


def sv_config(size: int, pooled: int, loss: str = "AMSoftmaxLoss", agg_module: str = "SP") -> dict[str, Any]:
    """downstream/sv_voxceleb1/configs/amsoftmax.yaml, with other sizes."""
    return {
        "datarc": mock.MagicMock(),
        "modelrc": {
            "module": "XVector",
            "input_dim": size,
            "agg_module": agg_module,
            "utter_module": "UtteranceExtractor",
            "module_config": {"XVector": {"agg_dim": pooled, "dropout_p": 0.0, "batch_norm": False}},
            "ObjectiveLoss": loss,
            "LossConfig": {
                "SoftmaxLoss": {"no_args": True},
                "AMSoftmaxLoss": {"s": 30.0, "m": 0.4},
                "AAMSoftmaxLoss": {"s": 15, "m": 0.3, "easy_margin": False},
            },
        },
    }


def sid_config(size: int) -> dict[str, Any]:
    """downstream/voxceleb1/config.yaml, with another size."""
    return {
        "datarc": mock.MagicMock(),
        "modelrc": {
            "projector_dim": size,
            "select": "UtteranceLevel",
            "UtteranceLevel": {"pooling": "MeanPooling"},
        },
    }


def emotion_config(size: int, root: Path, lists: Path, fold: int) -> dict[str, Any]:
    """downstream/emotion/config.yaml, with another size; audio is not read beforehand."""
    values = {"root": str(root), "meta_data": str(lists), "test_fold": f"fold{fold}", "pre_load": False}
    return sid_config(size) | {"datarc": {**values, "valid_ratio": 0.2}}


def keyword_config(size: int, root: Path, test: Path) -> dict[str, Any]:
    """downstream/speech_commands/config.yaml, with another size."""
    return sid_config(size) | {"datarc": {"speech_commands_root": str(root), "speech_commands_test_root": str(test)}}


def intent_config(size: int, root: Path) -> dict[str, Any]:
    """downstream/fluent_commands/config.yaml, with another size."""
    return sid_config(size) | {"datarc": {"file_path": str(root)}}


def asr_config(size: int, folder: Path) -> dict[str, Any]:
    """downstream/asr/config.yaml, with another size; writes the alphabet into ``folder``."""
    alphabet = folder / "char.dict"
    alphabet.write_text("".join(f"{letter} 1\n" for letter in LETTERS), encoding="utf-8")
    return {
        "datarc": {"dict_path": str(alphabet), "zero_infinity": True, "decoder_args": {"decoder_type": "None"}},
        "modelrc": {
            "project_dim": size,
            "select": "RNNs",
            "RNNs": {
                "total_rate": -1,
                "module": "LSTM",
                "bidirection": True,
                "dim": [size, size],
                "dropout": [0.2, 0.2],
                "layer_norm": [False, False],
                "proj": [False, False],
                "sample_rate": [1, 1],
                "sample_style": "concat",
            },
        },
    }


@contextmanager
def classes(count: int) -> Iterator[None]:
    """The experts find a training set of this many speakers; the SV expert's ``.cuda()`` stays on the CPU."""
    dataset = mock.MagicMock(return_value=SimpleNamespace(speaker_num=count))
    with (
        mock.patch.object(sv, "SpeakerVerifi_train", dataset),
        mock.patch.object(sid, "SpeakerClassifiDataset", dataset),
        mock.patch.object(torch.Tensor, "cuda", lambda self: self),
    ):
        yield


class Same(nn.Module):
    """A model for a task of the newer stack: its input is its output."""

    def forward(self, x: Tensor, x_len: Tensor) -> tuple[Tensor, Tensor]:
        return x, x_len


def records() -> Any:
    """What an expert's forward appends to."""
    return defaultdict(list)


def make_expert(module: ModuleType, config: Mapping[str, Any], dim: int, count: int = 1) -> Any:
    """An expert of ``count`` classes for features of ``dim``."""
    with classes(count):
        made = module.DownstreamExpert(upstream_dim=dim, upstream_rate=320, downstream_expert=config, expdir="nowhere")
    return made.to(torch.get_default_dtype())  # AAMSoftmaxLoss makes a FloatTensor


# -- the Runner ---------------------------------------------------------------------------------------------------


class WrappedUpstream(nn.Module):
    """An upstream of s3prl's interface: a list of waveforms -> hidden states, padded.

    Args:
        states: (wavs (batch, sample), wav_lens (batch,)) -> list of (batch, frame, dim).
        rate: samples a frame.
    """

    def __init__(self, states: Callable[[Tensor, Tensor], Sequence[Tensor]], rate: int) -> None:
        super().__init__()
        self.states, self.rate = states, rate

    def get_downsample_rates(self, key: str) -> int:
        return self.rate

    def forward(self, wavs: list[Tensor]) -> dict[str, list[Tensor]]:
        padded = nn.utils.rnn.pad_sequence(wavs, batch_first=True)
        return {"hidden_states": list(self.states(padded, torch.tensor([len(wav) for wav in wavs])))}


def make_runner(
    upstream: nn.Module,
    downstream: str,
    config: Mapping[str, Any],
    *,
    count: int,
    optimizer: Mapping[str, Any],
    steps: int,
    accumulate: int,
    clip: float,
    folder: Path,
) -> Any:
    """A Runner as ``run_downstream.py -m train`` makes one, frozen and with the weighted sum."""
    args = Namespace(
        mode="train",
        downstream=downstream,
        upstream="ours",
        upstream_ckpt=None,
        upstream_model_config=None,
        upstream_refresh=False,
        upstream_trainable=False,
        upstream_feature_selection="hidden_states",
        upstream_layer_selection=None,
        upstream_feature_normalize=False,
        init_ckpt=None,
        device="cpu",
        expdir=str(folder),
        push_to_hf_hub=False,
    )
    values = {
        "runner": {
            "total_steps": steps,
            "gradient_clipping": clip,
            "gradient_accumulate_steps": accumulate,
            "log_step": 1,
            "eval_step": steps + 1,
            "save_step": steps + 1,
            "max_keep": 1,
            "eval_dataloaders": [],
        },
        "optimizer": dict(optimizer),
        "downstream_expert": dict(config),
    }
    hub = SimpleNamespace(ours=lambda **_: upstream)
    with classes(count), mock.patch.object(runner, "hub", hub):
        return runner.Runner(args, values)


def train(made: Any, batches: Sequence[tuple[Any, ...]]) -> list[float]:
    """The Runner's own training over ``batches`` ((waveforms, what the expert's forward takes …), …).

    Returns:
        The loss of each update: the mean over what it accumulated.
    """
    losses: list[float] = []

    def log_records(mode: str, records: Mapping[str, list[float]], **_: Any) -> None:
        losses.append(sum(records["loss"]) / len(records["loss"]))

    expert = made.downstream.model
    expert.get_dataloader = lambda mode: list(batches)
    expert.log_records = log_records
    with classes(0):
        made.train()
    return losses
