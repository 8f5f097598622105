"""The native wav2vec 2.0 by itself. That it computes what fairseq does is shown in ``tests/parity``."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from benchmark.errors import BenchmarkError
from upstream.packing import Packing
from upstream.wav2vec2.config import STANDARD_CONV, Wav2Vec2Config, parse_conv_layers
from upstream.wav2vec2.extractor import convolve
from upstream.wav2vec2.model import Wav2Vec2Model, span_mask

CONV = "[(16, 10, 5)] + [(16, 3, 2)] * 4 + [(16,2,2)] * 2"
SMALL: dict[str, Any] = {"conv_feature_layers": CONV, "encoder_layers": 3, "encoder_embed_dim": 24,
                         "encoder_ffn_embed_dim": 48, "encoder_attention_heads": 4, "conv_pos": 16,
                         "conv_pos_groups": 4}  # fmt: skip
FAMILIES: dict[str, dict[str, Any]] = {
    "base": {},
    "ll60k": {"extractor_mode": "layer_norm", "layer_norm_first": True, "conv_bias": True, "normalize": True},
    "wavlm": {"relative_position_embedding": True, "gru_rel_pos": True, "num_buckets": 16, "max_distance": 40},
    "conformer": {"layer_type": "conformer", "pos_enc_type": "rel_pos", "depthwise_conv_kernel_size": 7},
    "rotary": {"layer_type": "conformer", "pos_enc_type": "rope", "depthwise_conv_kernel_size": 3},
    "w2v-BERT": {"family": "w2v_bert", "extractor_mode": "fbank", "layer_type": "conformer", "always_project": True,
                 "pos_enc_type": "relative_key", "left_max_position_embeddings": 9, "causal_conv": True,
                 "right_max_position_embeddings": 2, "depthwise_conv_kernel_size": 5, "encoder_layer_norm": False},
    "data2vec 2.0": {"family": "data2vec2", "pos_conv_depth": 2, "conv_pos": 12, "extractor_mode": "layer_norm",
                     "always_project": True, "alibi": True},
    "deep positions": {"pos_conv_depth": 3, "conv_pos": 12, "normalize": True},
}  # fmt: skip


def small_model(family: str = "base", **overrides: Any) -> Wav2Vec2Model:
    """In evaluation mode, with random weights whose norms and biases are not the defaults."""
    torch.manual_seed(0)
    model = Wav2Vec2Model(Wav2Vec2Config(**{**SMALL, **FAMILIES[family], **overrides}))
    for name, parameter in model.named_parameters():
        if name.endswith("bias") or "norm" in name:
            torch.nn.init.normal_(parameter, mean=float("norm" in name and name.endswith("weight")), std=0.3)
        elif "layers" in name and parameter.dim() == 2:
            torch.nn.init.normal_(parameter, std=0.3)
    return model.eval()


def ragged(samples: list[int], padding: float = 0.0) -> tuple[Tensor, Tensor]:
    """Noise around a level of its own; ``padding`` is what stands beyond the ends."""
    torch.manual_seed(1)
    wavs = [0.3 * torch.randn(n) + 0.1 * i for i, n in enumerate(samples)]
    return torch.nn.utils.rnn.pad_sequence(wavs, batch_first=True, padding_value=padding), torch.tensor(samples)


def largest_difference(a: Tensor, b: Tensor) -> float:
    """Relative to the largest value."""
    return ((a - b).abs().max() / b.abs().max()).item()


@pytest.mark.parametrize("family", FAMILIES)
@settings(max_examples=15, deadline=None)
@given(
    samples=st.lists(st.integers(560, 20000), min_size=2, max_size=4),
    padding=st.sampled_from([0.0, 7.0, float("nan")]),
)
def test_states_do_not_depend_on_the_batch(family: str, samples: list[int], padding: float) -> None:
    model = small_model(family)
    wavs, wav_lens = ragged(samples, padding)
    one_by_one = torch.no_grad()(model)(wavs, wav_lens)  # what a CPU does without gradients
    padded = model(wavs, wav_lens)
    assert padded.lengths.tolist() == one_by_one.lengths.tolist() == model.output_lengths(wav_lens).tolist()
    for i, n in enumerate(samples):
        alone = model(wavs[i : i + 1, :n], wav_lens[i : i + 1])
        frames = alone.lengths.item()
        for batched in (padded, one_by_one):
            for state, expected in zip(batched.states, alone.states, strict=True):
                assert expected.shape == (1, frames, model.hidden_size)
                assert largest_difference(state[i, :frames], expected[0]) < 1e-5
                assert not state[i, frames:].any()


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("keep", [[0], [2], [3], [0, 3], [1, 2], [0, 1, 2, 3]])
def test_keep_returns_those_states_and_runs_no_block_above(family: str, keep: list[int]) -> None:
    model = small_model(family)
    wavs, wav_lens = ragged([8000, 5000])
    everything = model(wavs, wav_lens).states
    ran: list[int] = []
    for k, layer in enumerate(model.encoder.layers, start=1):
        layer.register_forward_hook(lambda *_, k=k: ran.append(k))
    kept = model(wavs, wav_lens, keep=keep).states
    assert len(kept) == len(keep)
    assert all(torch.equal(state, everything[k]) for state, k in zip(kept, keep, strict=True))
    assert ran == list(range(1, keep[-1] + 1))


@pytest.mark.parametrize("keep", [[], [4], [-1], [1, 0], [1, 1]])
def test_states_that_do_not_exist_are_refused(keep: list[int]) -> None:
    with pytest.raises(BenchmarkError, match=r"keep = .*from 0 to 3"):
        small_model()(*ragged([1000]), keep=keep)


def test_only_the_last_state_of_a_prenorm_model_is_normalised() -> None:
    model = small_model("ll60k")
    states = model(*ragged([8000])).states
    normalised = (states[-1] - model.encoder.layer_norm.bias) / model.encoder.layer_norm.weight
    torch.testing.assert_close(normalised.std(dim=2, correction=0), torch.ones(1, 24), rtol=1e-3, atol=1e-3)
    assert (states[-2].std(dim=2) - 1).abs().min() > 0.05


@pytest.mark.parametrize("samples", [400, 719, 720, 16000, 250001])
def test_output_lengths_are_those_of_the_convolutions(samples: int) -> None:
    model = small_model(encoder_layers=1)
    states = model(*ragged([samples]), keep=[0])
    assert states.states[0].size(1) == states.lengths.item() == (samples - 400) // 320 + 1
    assert (model.frame_shift, model.min_samples) == (320, 400)


@pytest.mark.parametrize("samples", [0, 1, 399])
def test_too_short_waveforms_are_named(samples: int) -> None:
    wavs, _ = ragged([1000, 1000])
    with pytest.raises(BenchmarkError, match=rf"item 1 of the batch has {samples} samples.*at least 400"):
        small_model()(wavs, torch.tensor([1000, samples]))
    assert small_model().output_lengths(torch.tensor([samples])).item() == 0


def test_lengths_beyond_the_batch_and_wrong_shapes_are_refused() -> None:
    with pytest.raises(BenchmarkError, match="item 0 of the batch: length 2000 in a batch of 1000"):
        small_model()(torch.zeros(1, 1000), torch.tensor([2000]))
    for shape in [(1000,), (1, 1, 1000), (0, 1000)]:
        with pytest.raises(BenchmarkError, match=r"expected waveforms \(batch, sample\)"):
            small_model()(torch.zeros(shape), torch.tensor([1000]))


@pytest.mark.parametrize("family", FAMILIES)
def test_gradients_reach_every_parameter(family: str) -> None:
    model = small_model(family, apply_mask=True, mask_prob=0.5, mask_length=2, dropout_input=0.1).train()
    sum(state.square().mean() for state in model(*ragged([16000, 9000])).states).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.any() or name.endswith("k_proj.bias"), name  # a softmax does not see the keys' bias


def test_channels_that_lie_side_by_side_stay_so_and_give_the_same_convolution() -> None:
    """As LayerNorm leaves them; else every convolution and every norm would copy all it gets."""
    torch.manual_seed(0)
    conv = torch.nn.Conv1d(16, 24, 3, stride=2)
    x = torch.randn(1, 16, 101)
    for laid_out in (x, x.transpose(1, 2).contiguous().transpose(1, 2)):
        found = convolve(laid_out, conv)
        torch.testing.assert_close(found, conv(x), rtol=1e-5, atol=1e-6)
        gradients = [torch.autograd.grad(y.pow(2).sum(), conv.weight)[0] for y in (found, conv(x))]
        torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-4)
    assert found.transpose(1, 2).is_contiguous()


@pytest.mark.parametrize("scale", [0.0, 0.1])
def test_feature_grad_mult_scales_the_extractors_gradient(scale: float) -> None:
    def gradients(feature_grad_mult: float) -> list[Tensor | None]:
        model = small_model(feature_grad_mult=feature_grad_mult)
        model(*ragged([4000])).states[-1].square().mean().backward()
        return [parameter.grad for parameter in model.feature_extractor.parameters()]

    for scaled, whole in zip(gradients(scale), gradients(1.0), strict=True):
        assert whole is not None
        if scale == 0.0:
            assert scaled is None
        else:
            torch.testing.assert_close(scaled, scale * whole)


def test_layerdrop_skips_blocks_and_still_gives_all_states() -> None:
    model = small_model(encoder_layerdrop=0.5, dropout=0.0, attention_dropout=0.0).train()
    skipped = 0
    for seed in range(10):
        torch.manual_seed(seed)
        states = model(*ragged([4000])).states
        assert len(states) == model.num_states
        skipped += sum(torch.equal(a, b) for a, b in itertools.pairwise(states))
    assert 5 < skipped < 25
    assert not any(torch.equal(a, b) for a, b in zip(states, model.eval()(*ragged([4000])).states[1:], strict=False))


def test_dropout_and_masks_act_only_while_training() -> None:
    model = small_model(apply_mask=True, mask_prob=0.5, mask_length=4, mask_channel_prob=0.5, mask_channel_length=4)
    batch = ragged([16000, 12000])
    assert torch.equal(model(*batch).states[-1], model(*batch).states[-1])
    model.train()
    assert not torch.equal(model(*batch).states[-1], model(*batch).states[-1])


def test_masked_frames_are_the_mask_embedding() -> None:
    model = small_model(apply_mask=True, mask_prob=0.5, mask_length=4)
    x = torch.zeros(70, 24)
    masked = (model.apply_mask(x, Packing([50, 20], x.device)) == model.mask_emb).all(dim=1)
    for utterance in (masked[:50], masked[50:]):
        assert utterance.any()
        assert not utterance.all()


@given(st.lists(st.integers(1, 200), min_size=1, max_size=4), st.floats(0.05, 1.0), st.integers(1, 20))
def test_span_masks(lengths: list[int], prob: float, span: int) -> None:
    mask = span_mask(lengths, max(lengths), prob, span, min_spans=2)
    for row, n in zip(mask, lengths, strict=True):
        assert not row[n:].any()
        assert not row[:n].all()


def test_span_masks_cover_about_what_was_asked_for() -> None:
    torch.manual_seed(0)
    share = span_mask([1000] * 20, 1000, 0.65, 10).float().mean().item()
    assert abs(share - 0.48) < 0.03  # 1 - (1 - 0.065)^10, as the paper says: "approximately 49%"


@pytest.mark.parametrize(
    ("family", "parameters"),
    # fairseq's counts less quantizer, project_q, final_proj; transformers' for the same architectures are equal
    [({}, 94_371_712), ({"encoder_layers": 24, "encoder_embed_dim": 1024, "encoder_ffn_embed_dim": 4096,
      "encoder_attention_heads": 16, "extractor_mode": "layer_norm", "conv_bias": True, "layer_norm_first": True},
      315_438_720)],
)  # fmt: skip
def test_parameter_counts(family: dict[str, Any], parameters: int) -> None:
    with torch.device("meta"):
        assert sum(p.numel() for p in Wav2Vec2Model(Wav2Vec2Config(**family)).parameters()) == parameters


def test_conv_layers_are_read_as_python_reads_them() -> None:
    for expression in (STANDARD_CONV, "[(512, 10, 5)] + [(512, 3, 2)] * 4 + [(512,2,2)] * 2", " [[8,3,2],(8,1,1)] "):
        assert parse_conv_layers(expression) == tuple(tuple(layer) for layer in eval(expression))


@pytest.mark.parametrize("expression", [
    "", "[]", "[(512, 10)]", "[(512, 10, 0)]", "[(512, -10, 5)]", "[(512, 10, 5)] * 10**9", "[(512, 10, 5)] * n",
    "__import__('os').system('true')", "[(lambda: 1, 2, 3)]", "[(512, 10, 5)] if 1 else []", "[(True, 1, 1)]",
    "[(512, 10, 5)" + " * 2" * 9999, "(" * 900, "[(1.0, 2, 3)]",
])  # fmt: skip
def test_anything_else_in_conv_layers_is_refused(expression: str) -> None:
    with pytest.raises(BenchmarkError, match="conv_feature_layers"):
        parse_conv_layers(expression)


@pytest.mark.parametrize(("field", "value"), [
    ("layer_type", "trf_adp"), ("layer_type", "adapter"), ("quantize_input", True), ("conv_pos_batch_norm", True),
    ("crop_seq_to_multiple", 2), ("extractor_mode", "conv2d"), ("activation_fn", "mish"), ("encoder_layers", 0),
    ("encoder_layers", "12"), ("encoder_layers", True), ("layer_norm_first", 1), ("encoder_attention_heads", 7),
    ("dropout", 1.5), ("dropout", "0.1"), ("conv_pos_groups", 5),
])  # fmt: skip
def test_unsupported_configurations_are_named(field: str, value: Any) -> None:
    with pytest.raises(BenchmarkError, match=f"{field} = {value!r}"):
        Wav2Vec2Config.from_fairseq({field: value}, {})


def test_configurations_survive_the_way_to_fairseq_and_back() -> None:
    config = Wav2Vec2Config(encoder_layers=3, normalize=True, sample_rate=8000, dropout=0.3)
    assert Wav2Vec2Config.from_fairseq(*config.to_fairseq()) == config
