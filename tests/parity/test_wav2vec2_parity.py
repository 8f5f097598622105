"""Every hidden state equals that of fairseq, of transformers and of torchaudio.

The models are made by fairseq itself, small, with random weights whose norms and biases are far from their defaults;
they reach the native model as checkpoint files. Inputs are 1 to 2 s (49 frames and more), of ragged lengths. The
references see one utterance at a time: fairseq's own batches differ from that in models with a GroupNorm.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from fairseq.models.wav2vec.wav2vec2 import Wav2Vec2Config as FairseqConfig
from fairseq.models.wav2vec.wav2vec2 import Wav2Vec2Model as FairseqModel
from omegaconf import OmegaConf
from torch import Tensor
from torchaudio.models.wav2vec2.utils import import_fairseq_model

from upstream.wav2vec2.checkpoint import load_model
from upstream.wav2vec2.model import Wav2Vec2Model

SAMPLES = (16000, 31997, 20483)
TOLERANCE = 1e-4  # of a state's largest value

CONV = "[(24, 10, 5)] + [(24, 3, 2)] * 4 + [(24,2,2)] + [(24,2,2)]"
SMALL = {"conv_feature_layers": CONV, "encoder_layers": 3, "encoder_embed_dim": 32, "encoder_ffn_embed_dim": 64,
         "encoder_attention_heads": 4, "conv_pos_groups": 4, "final_dim": 16}  # fmt: skip
BASE = {"extractor_mode": "default", "layer_norm_first": False, "conv_bias": False}
LL60K = {"extractor_mode": "layer_norm", "layer_norm_first": True, "conv_bias": True}

MODELS: dict[str, tuple[dict[str, Any], bool]] = {  # overrides, normalize
    "base": (BASE, False),
    "base, odd kernel, normalize": ({**BASE, "conv_pos": 15}, True),
    "base, pre-norm, bias": ({**BASE, "layer_norm_first": True, "conv_bias": True, "conv_pos": 16}, False),
    "base, deep positions, even": ({**BASE, "pos_conv_depth": 3, "conv_pos": 12}, False),
    "base, gelu_accurate": ({**BASE, "activation_fn": "gelu_accurate"}, False),
    "ll60k": ({**LL60K, "quantize_targets": True}, True),
    "ll60k, odd kernel": ({**LL60K, "conv_pos": 31}, True),
    "ll60k, post-norm, no bias": ({**LL60K, "layer_norm_first": False, "conv_bias": False, "conv_pos": 16}, True),
    "ll60k, deep positions, odd": ({**LL60K, "pos_conv_depth": 5, "conv_pos": 95}, True),
    "ll60k, relu, one layer, no projection": (
        {**LL60K, "activation_fn": "relu", "encoder_layers": 1, "encoder_embed_dim": 24, "conv_pos": 8}, True
    ),
}  # fmt: skip


def make_fairseq(overrides: dict[str, Any]) -> FairseqModel:
    config = OmegaConf.merge(OmegaConf.structured(FairseqConfig), {**SMALL, **overrides})
    torch.manual_seed(0)
    model = FairseqModel(config).eval()
    for name, parameter in model.named_parameters():
        torch.nn.init.normal_(parameter, std=0.3)
        if "norm" in name and name.endswith("weight"):
            parameter.data.add_(1.0)
        if name.endswith(("weight_g", "weight_v")):
            parameter.data.mul_(3.0)
        if "conv_layers" in name and parameter.dim() == 3:
            torch.nn.init.kaiming_normal_(parameter)
    return model


def save_fairseq(model: FairseqModel, normalize: bool, path: Path) -> None:
    """As fairseq's trainer writes it."""
    cfg = {"model": {**OmegaConf.to_container(model.cfg, enum_to_str=True), "_name": "wav2vec2"},
           "task": {"_name": "audio_pretraining", "normalize": normalize, "sample_rate": 16000}}  # fmt: skip
    torch.save({"args": None, "cfg": cfg, "model": model.state_dict(), "optimizer_history": []}, path)


def waveforms() -> list[Tensor]:
    """Not white, not centred, of different levels."""
    torch.manual_seed(1)
    return [0.1 * (i + 1) * (torch.randn(n).cumsum(0) / 30 + torch.randn(n)) + 0.05 for i, n in enumerate(SAMPLES)]


def prepared(wav: Tensor, normalize: bool) -> Tensor:
    """(1, sample), as fairseq's data set hands it over."""
    return torch.nn.functional.layer_norm(wav, wav.shape).unsqueeze(0) if normalize else wav.unsqueeze(0)


@torch.no_grad()
def fairseq_states(model: FairseqModel, wav: Tensor, padding_mask: Tensor | None = None) -> list[Tensor]:
    """SUPERB's states: the input of each block, and the encoder's output."""
    inputs: list[Tensor] = []
    hooks = [layer.register_forward_pre_hook(lambda _, args: inputs.append(args[0])) for layer in model.encoder.layers]
    output = model.extract_features(wav, padding_mask=padding_mask, mask=False)["x"]
    for hook in hooks:
        hook.remove()
    return [x.transpose(0, 1)[:, : output.size(1)] for x in inputs] + [output]


def relative_error(found: Tensor, expected: Tensor) -> float:
    assert found.shape == expected.shape
    return ((found - expected).abs().max() / expected.abs().max()).item()


def batch(wavs: list[Tensor]) -> tuple[Tensor, Tensor]:
    padded = torch.nn.utils.rnn.pad_sequence(wavs, batch_first=True)
    return padded, torch.tensor([len(wav) for wav in wavs])


def assert_states(model: Wav2Vec2Model, wavs: list[Tensor], references: list[list[Tensor]]) -> None:
    """``model`` gives ``references`` alone, one by one in a batch, and padded in a batch."""
    for gradients in (False, True):  # with gradients, a batch is padded; without, a CPU goes one by one
        with torch.set_grad_enabled(gradients):
            together = model(*batch(wavs))
        for i, (wav, reference) in enumerate(zip(wavs, references, strict=True)):
            with torch.set_grad_enabled(gradients):
                alone = model(*batch([wav]))
            assert len(alone.states) == len(together.states) == len(reference)
            frames = reference[0].size(1)
            assert alone.lengths.item() == together.lengths[i].item() == frames
            for state, in_batch, expected in zip(alone.states, together.states, reference, strict=True):
                assert relative_error(state, expected) < TOLERANCE
                assert relative_error(in_batch[i : i + 1, :frames], expected) < TOLERANCE
                assert not in_batch[i, frames:].any()


@pytest.fixture
def models(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[FairseqModel, Wav2Vec2Model, bool]:
    overrides, normalize = MODELS[request.param]
    reference = make_fairseq(overrides)
    save_fairseq(reference, normalize, tmp_path / "checkpoint.pt")
    return reference, load_model(tmp_path / "checkpoint.pt"), normalize


def on(names: list[str]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("models", names, indirect=True)


@on(list(MODELS))
def test_fairseq(models: tuple[FairseqModel, Wav2Vec2Model, bool]) -> None:
    reference, model, normalize = models
    wavs = waveforms()
    assert_states(model, wavs, [fairseq_states(reference, prepared(wav, normalize)) for wav in wavs])


@on([name for name in MODELS if name.startswith("ll60k") and "deep" not in name])
def test_fairseq_in_a_batch(models: tuple[FairseqModel, Wav2Vec2Model, bool]) -> None:
    """Models without GroupNorm and with one positional convolution: fairseq's padded batch is right too."""
    reference, model, normalize = models
    wavs = waveforms()
    padded, wav_lens = batch([prepared(wav, normalize)[0] for wav in wavs])
    expected = fairseq_states(reference, padded, torch.arange(padded.size(1)) >= wav_lens.unsqueeze(1))
    found = model(*batch(wavs))
    for state, other in zip(found.states, expected, strict=True):
        for i, frames in enumerate(found.lengths.tolist()):
            assert relative_error(state[i, :frames], other[i, :frames]) < TOLERANCE


TRANSFORMERS_NAMES = {
    r"^feature_extractor\.conv_layers\.(\d+)\.0\.": r"feature_extractor.conv_layers.\1.conv.",
    r"^feature_extractor\.conv_layers\.(\d+)\.2(\.1)?\.": r"feature_extractor.conv_layers.\1.layer_norm.",
    r"^layer_norm\.": "feature_projection.layer_norm.",
    r"^post_extract_proj\.": "feature_projection.projection.",
    r"^mask_emb$": "masked_spec_embed",
    r"^encoder\.pos_conv\.0\.weight_g": "encoder.pos_conv_embed.conv.parametrizations.weight.original0",
    r"^encoder\.pos_conv\.0\.weight_v": "encoder.pos_conv_embed.conv.parametrizations.weight.original1",
    r"^encoder\.pos_conv\.0\.bias": "encoder.pos_conv_embed.conv.bias",
    r"\.self_attn_layer_norm\.": ".layer_norm.",
    r"\.self_attn\.": ".attention.",
    r"\.fc1\.": ".feed_forward.intermediate_dense.",
    r"\.fc2\.": ".feed_forward.output_dense.",
}


def make_transformers(model: Wav2Vec2Model) -> transformers.Wav2Vec2Model:
    config = model.config
    dims, kernels, strides = zip(*config.conv_layers, strict=True)
    reference = transformers.Wav2Vec2Model(transformers.Wav2Vec2Config(
        hidden_size=config.encoder_embed_dim, num_hidden_layers=config.encoder_layers,
        num_attention_heads=config.encoder_attention_heads, intermediate_size=config.encoder_ffn_embed_dim,
        hidden_act=config.activation_fn, conv_dim=dims, conv_kernel=kernels, conv_stride=strides,
        conv_bias=config.conv_bias, num_conv_pos_embeddings=config.conv_pos,
        num_conv_pos_embedding_groups=config.conv_pos_groups,
        feat_extract_norm="layer" if config.extractor_mode == "layer_norm" else "group",
        do_stable_layer_norm=config.layer_norm_first,
    )).eval()  # fmt: skip
    weights = {}
    for name, tensor in model.state_dict().items():
        for pattern, replacement in TRANSFORMERS_NAMES.items():
            name = re.sub(pattern, replacement, name)
        weights[name] = tensor
    reference.load_state_dict(weights, strict=True)
    return reference


@on([name for name in MODELS if not re.search("deep|gelu_accurate|no projection", name)])
def test_transformers(models: tuple[FairseqModel, Wav2Vec2Model, bool]) -> None:
    """transformers has one positional convolution, and always projects."""
    _, model, normalize = models
    reference = make_transformers(model)
    wavs, expected = waveforms(), []
    for wav in wavs:
        with torch.no_grad():
            output = reference(prepared(wav, normalize), output_hidden_states=True)
        expected.append([*output.hidden_states[:-1], output.last_hidden_state])  # since 5.0 the last is not normalised
    assert_states(model, wavs, expected)


@on([name for name in MODELS if not re.search("deep|gelu_accurate|no projection", name)])
def test_torchaudio(models: tuple[FairseqModel, Wav2Vec2Model, bool]) -> None:
    """torchaudio gives the outputs of the blocks, and the encoder's; not state 0. It knows what transformers does."""
    original, model, normalize = models
    reference = import_fairseq_model(original).eval()
    wavs = waveforms()
    with torch.no_grad():
        found = model(*batch(wavs), keep=range(1, model.num_states)).states
        for i, wav in enumerate(wavs):
            blocks = reference.extract_features(prepared(wav, normalize))[0]
            blocks[-1] = reference(prepared(wav, normalize))[0]
            for state, expected in zip(found, blocks, strict=True):
                assert relative_error(state[i : i + 1, : expected.size(1)], expected) < TOLERANCE
