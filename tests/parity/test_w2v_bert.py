"""w2v-BERT 2.0: every hidden state equals that of transformers, its feature extractor included.

As in test_families: small models with random weights reach the native model as folders that transformers wrote. Its
states of padding are left out: with an odd number of windows there is a last frame, which its attention mask excludes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from test_families import scramble
from test_wav2vec2_parity import TOLERANCE, assert_states, batch, relative_error, waveforms
from torch import Tensor

from upstream.w2v_bert.frontend import FbankExtractor, log_mel
from upstream.wav2vec2.checkpoint import load_model

TINY = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 64}
MODELS: dict[str, dict[str, Any]] = {
    "as published": {},
    "other limits": {"left_max_position_embeddings": 5, "right_max_position_embeddings": 0,
                     "conv_depthwise_kernel_size": 7, "hidden_act": "silu"},
    "relative": {"position_embeddings_type": "relative"},
    "rotary": {"position_embeddings_type": "rotary", "conv_depthwise_kernel_size": 1},
}  # fmt: skip


def make(name: str, folder: Path, head: str = "Model", **more: Any) -> Any:
    """A model, written to a folder."""
    config = transformers.Wav2Vec2BertConfig(**{**TINY, **MODELS[name], **more})
    model = getattr(transformers, f"Wav2Vec2Bert{head}")(config).eval()
    scramble(model)
    model.save_pretrained(folder)
    preprocessor().save_pretrained(folder)
    return model


def preprocessor() -> Any:
    """With the padding of the published one."""
    return transformers.SeamlessM4TFeatureExtractor(padding_value=1)


@torch.no_grad()
def states(model: Any, wavs: list[Tensor]) -> list[list[Tensor]]:
    """Of each utterance of a batch, its valid frames."""
    inputs = preprocessor()([wav.numpy() for wav in wavs], sampling_rate=16000, return_tensors="pt")
    output = model(**inputs, output_hidden_states=True)
    valid = inputs["attention_mask"].sum(1).tolist()
    assert torch.equal(output.hidden_states[-1], output.last_hidden_state)
    return [[state[i : i + 1, :frames] for state in output.hidden_states] for i, frames in enumerate(valid)]


@pytest.mark.parametrize("name", MODELS)
def test_states(name: str, tmp_path: Path) -> None:
    """Of 1 to 2 s, with odd and even numbers of windows; transformers gives them alone and in a batch alike."""
    reference = make(name, tmp_path)
    model = load_model(tmp_path)
    alone = [states(reference, [wav])[0] for wav in waveforms()]
    assert_states(model, waveforms(), alone)
    for one, other in zip(alone, states(reference, waveforms()), strict=True):
        assert max(relative_error(a, b) for a, b in zip(other, one, strict=True)) < TOLERANCE


def test_a_long_utterance(tmp_path: Path) -> None:
    """Of more frames than the distances that the table tells apart, with a quiet and a loud part."""
    reference = make("as published", tmp_path)
    torch.manual_seed(0)
    wav = torch.cat([1e-4 * torch.randn(40_000), 0.3 * torch.randn(41_000), torch.zeros(20_000)])
    with torch.no_grad():
        found = load_model(tmp_path)(*batch([wav])).states
    assert max(relative_error(a, b) for a, b in zip(found, states(reference, [wav])[0], strict=True)) < TOLERANCE


@pytest.mark.parametrize("samples", [560, 719, 720, 879, 880, 16000, 16079])
def test_features(samples: int) -> None:
    """Quiet bands beside a loud one, and as many frames as are not half padding.

    Of two or three windows, transformers computes deviations in float32 of values that may be nearly the same; there,
    energies are compared.
    """
    torch.manual_seed(samples)
    time = torch.arange(samples)
    wav = 0.2 * torch.sin(time / 3) * torch.sin(time / 900) + 1e-4 * torch.randn(samples)
    inputs = preprocessor()(wav.numpy(), sampling_rate=16000, return_tensors="pt")
    frames = int(inputs["attention_mask"].sum())
    extractor = FbankExtractor()
    found = extractor([wav])
    assert extractor.output_lengths(torch.tensor([samples])).tolist() == [len(found)] == [frames]
    energies = torch.tensor(preprocessor()._extract_fbank_features(wav.numpy()))
    assert relative_error(log_mel(wav).float(), energies) < 1e-6
    if samples > 1000:
        assert relative_error(found, inputs["input_features"][0, :frames]) < TOLERANCE


def test_silence_has_finite_features() -> None:
    found = FbankExtractor()([torch.zeros(1600)])
    assert np.abs(found.numpy()).max() < 1e-3


@pytest.mark.parametrize(
    ("head", "more"),
    [
        ("ForCTC", {"vocab_size": 40}),
        ("ForCTC", {"vocab_size": 40, "add_adapter": True, "use_intermediate_ffn_before_adapter": True}),
        ("Model", {"add_adapter": True, "output_hidden_size": 16, "num_adapter_layers": 2}),
        ("ForXVector", {}),
        ("Model", {"mask_time_prob": 0.0}),
    ],
    ids=["CTC", "CTC, adapter", "adapter", "x-vector", "no mask"],
)
def test_what_follows_the_encoder_is_not_read(head: str, more: dict[str, Any], tmp_path: Path) -> None:
    whole = make("as published", tmp_path, head, **more)
    reference = getattr(whole, "wav2vec2_bert", whole)
    reference.adapter = None
    reference.intermediate_ffn = None
    expected = states(reference, waveforms()[:1])[0]
    with torch.no_grad():
        found = load_model(tmp_path)(*batch(waveforms()[:1])).states
    assert max(relative_error(a, b) for a, b in zip(found, expected, strict=True)) < TOLERANCE


def test_gradients(tmp_path: Path) -> None:
    reference = make("as published", tmp_path)
    model = load_model(tmp_path, options={"checkpoint_activations": True})
    wav = waveforms()[0]
    model([wav]).states[-1].square().mean().backward()
    inputs = preprocessor()(wav.numpy(), sampling_rate=16000, return_tensors="pt")
    frames = int(inputs["attention_mask"].sum())
    reference(**inputs).last_hidden_state[:, :frames].square().mean().backward()
    for ours, theirs in zip(model.encoder.layers, reference.encoder.layers, strict=True):
        for mine, other in (
            (ours.self_attn.distance_embedding.weight, theirs.self_attn.distance_embedding.weight),
            (ours.self_attn.q_proj.weight, theirs.self_attn.linear_q.weight),
            (ours.conv_module.depthwise_conv.weight, theirs.conv_module.depthwise_conv.weight),
            (ours.conv_module.depthwise_layer_norm.weight, theirs.conv_module.depthwise_layer_norm.weight),
        ):
            assert other.grad.abs().max() > 0
            assert relative_error(mine.grad, other.grad) < TOLERANCE
