"""A native wav2vec 2.0 whose parameters carry fairseq's names.

Follows fairseq's ``Wav2Vec2Model`` (https://github.com/facebookresearch/fairseq, models/wav2vec/wav2vec2.py) layer by
layer, with two differences: an utterance has the same states alone and padded in any batch (fairseq's GroupNorm and
positional convolution see the padding), and blocks above the last state asked for are not run.

Notation in shapes: ``batch`` utterances, ``sample`` audio samples, ``frame`` frames, ``dim`` features.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from benchmark.errors import BenchmarkError
from benchmark.interfaces import HiddenStates, Upstream
from upstream.wav2vec2.config import Wav2Vec2Config

PRETRAINING_MODULES = ("quantizer", "project_q", "final_proj", "target_glu")
"""Modules of fairseq's model that only pre-training uses."""


class Wav2Vec2Model(Upstream):
    """wav2vec 2.0 as an upstream.

    Args:
        config: the architecture.
        pretraining: tensors that only pre-training uses (:data:`PRETRAINING_MODULES`), kept so that the model can be
            written back to a fairseq checkpoint. They are not parameters, and stay on the CPU.
        pretraining_config: fairseq's configuration of those.
    """

    def __init__(
        self,
        config: Wav2Vec2Config,
        *,
        pretraining: Mapping[str, Tensor] | None = None,
        pretraining_config: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.config = config
        self.pretraining = dict(pretraining or {})
        self.pretraining_config = dict(pretraining_config or {})
        self.info = {}
        conv_dim = config.conv_layers[-1][0]

        self.sample_rate = config.sample_rate
        self.hidden_size = config.encoder_embed_dim
        self.num_states = config.encoder_layers + 1
        self.frame_shift = math.prod(stride for _, _, stride in config.conv_layers)

        self.feature_extractor = ConvFeatureExtractor(config)
        self.layer_norm = nn.LayerNorm(conv_dim)
        self.post_extract_proj = (
            nn.Linear(conv_dim, config.encoder_embed_dim) if conv_dim != config.encoder_embed_dim else None
        )
        self.mask_emb = nn.Parameter(torch.empty(config.encoder_embed_dim).uniform_())
        self.encoder = TransformerEncoder(config)

    @property
    def extractor(self) -> nn.Module:
        """The convolutions over the waveform."""
        return self.feature_extractor

    @property
    def blocks(self) -> Sequence[nn.Module]:
        """The transformer blocks."""
        return list(self.encoder.layers)

    @property
    def min_samples(self) -> int:
        """The shortest waveform that gives a frame: 400 samples in every published model."""
        samples = 1
        for _, kernel_size, stride in reversed(self.config.conv_layers):
            samples = (samples - 1) * stride + kernel_size
        return samples

    def output_lengths(self, wav_lens: Tensor) -> Tensor:
        """Valid frames (batch,) of waveforms of ``wav_lens`` (batch,) samples: floor((n - kernel) / stride) + 1 at
        each convolution; 0 for a waveform that is too short."""
        lengths = wav_lens
        for _, kernel_size, stride in self.config.conv_layers:
            lengths = torch.div(lengths - kernel_size, stride, rounding_mode="floor") + 1
        return lengths.clamp(min=0)

    def forward(self, wavs: Tensor, wav_lens: Tensor, *, keep: Sequence[int] | None = None) -> HiddenStates:
        """Compute hidden states.

        Args:
            wavs: (batch, sample) float32. Samples beyond ``wav_lens`` are ignored.
            wav_lens: (batch,) valid samples.
            keep: which states to return, in increasing order; ``None`` for all. Blocks above the last are not run.

        Returns:
            State 0 is the input of block 0, state k the output of block k, the last one the encoder's output (after
            the final LayerNorm in pre-norm models).

        Raises:
            BenchmarkError: for a waveform shorter than :attr:`min_samples`, or states that do not exist.
        """
        kept = self._check_keep(keep)
        samples = self._check_input(wavs, wav_lens)
        lengths = self.output_lengths(wav_lens)
        if len(samples) > 1 and wavs.device.type == "cpu" and not torch.is_grad_enabled():
            return HiddenStates(self._forward_each(wavs, samples, lengths.tolist(), kept), lengths)
        return HiddenStates(self._forward_batch(wavs, samples, kept), lengths)

    def _forward_batch(self, wavs: Tensor, samples: list[int], keep: list[int]) -> list[Tensor]:
        features, frames = self.extract_features(wavs, samples)
        x = self.project(features)
        if self.training and self.config.apply_mask:
            x = self.apply_mask(x, frames)
        return cast(list[Tensor], self.encoder(x, frames, keep))

    def _forward_each(self, wavs: Tensor, samples: list[int], frames: list[int], keep: list[int]) -> list[Tensor]:
        """One utterance at a time, without padding.

        On a CPU this is faster than a batch, even of equal lengths: nothing is computed on padding, and activations
        fit the caches. One core, 4 s + 8 s of audio: tiny 0.24 s instead of 0.34 s, base 2.4 instead of 3.8, large 6.9
        instead of 9.5.
        """
        states = [wavs.new_zeros(len(samples), max(frames), self.hidden_size) for _ in keep]
        for i, (n_samples, n_frames) in enumerate(zip(samples, frames, strict=True)):
            alone = self._forward_batch(wavs[i : i + 1, :n_samples], [n_samples], keep)
            for state, utterance_state in zip(states, alone, strict=True):
                state[i, :n_frames] = utterance_state[0]
        return states

    def extract_features(self, wavs: Tensor, samples: Sequence[int]) -> tuple[Tensor, list[int]]:
        """Waveforms -> normalised convolutional features.

        Args:
            wavs: (batch, sample).
            samples: valid samples of each.

        Returns:
            (batch, frame, conv_dim) features, and the valid frames of each; frames beyond are arbitrary.
        """
        wavs = wavs[:, : max(samples)].to(self.layer_norm.weight.dtype)
        if self.config.normalize:
            wavs = normalize(wavs, samples)
        if self.config.feature_grad_mult > 0:
            features, frames = self.feature_extractor(wavs, samples)
            if features.requires_grad and self.config.feature_grad_mult != 1.0:
                features.register_hook(lambda gradient: gradient * self.config.feature_grad_mult)
        else:
            with torch.no_grad():
                features, frames = self.feature_extractor(wavs, samples)
        return self.layer_norm(features), frames

    def project(self, features: Tensor) -> Tensor:
        """(batch, frame, conv_dim) -> (batch, frame, dim), with ``dropout_input`` while training."""
        if self.post_extract_proj is not None:
            features = self.post_extract_proj(features)
        return F.dropout(features, self.config.dropout_input, self.training)

    def apply_mask(self, x: Tensor, lengths: Sequence[int]) -> Tensor:
        """Replace random spans of frames by ``mask_emb`` and spans of channels by zeros (wav2vec 2.0, section 3.1,
        and SpecAugment).

        Args:
            x: (batch, frame, dim).
            lengths: valid frames of each.
        """
        config = self.config
        if config.mask_prob > 0:
            time = span_mask(lengths, x.size(1), config.mask_prob, config.mask_length, min_spans=2).to(x.device)
            x = torch.where(time.unsqueeze(2), self.mask_emb.to(x.dtype), x)
        if config.mask_channel_prob > 0:
            sizes = [x.size(2)] * x.size(0)
            channel = span_mask(sizes, x.size(2), config.mask_channel_prob, config.mask_channel_length)
            x = x.masked_fill(channel.to(x.device).unsqueeze(1), 0.0)
        return x

    def _check_keep(self, keep: Sequence[int] | None) -> list[int]:
        if keep is None:
            return list(range(self.num_states))
        kept = list(keep)
        if not kept or kept != sorted(set(kept)) or kept[0] < 0 or kept[-1] >= self.num_states:
            raise BenchmarkError(
                f"keep = {kept}: expected increasing states from 0 to {self.num_states - 1}, at least one"
            )
        return kept

    def _check_input(self, wavs: Tensor, wav_lens: Tensor) -> list[int]:
        if wavs.dim() != 2 or wav_lens.shape != wavs.shape[:1] or wavs.size(0) == 0:
            raise BenchmarkError(
                "expected waveforms (batch, sample) and their lengths (batch,), "
                f"got {list(wavs.shape)} and {list(wav_lens.shape)}"
            )
        samples: list[int] = wav_lens.tolist()
        for i, n in enumerate(samples):
            if n > wavs.size(1):
                raise BenchmarkError(f"item {i} of the batch: length {n} in a batch of {wavs.size(1)} samples")
            if n < self.min_samples:
                raise BenchmarkError(
                    f"item {i} of the batch has {n} samples; "
                    f"the model needs at least {self.min_samples} ({1000 * self.min_samples / self.sample_rate:g} ms)"
                )
        return samples


class ConvFeatureExtractor(nn.Module):
    """The stack of convolutions, without padding: (batch, sample) -> (batch, frame, conv_dim).

    A block is a convolution at key "0" and its norm at key "2" (a LayerNorm at "2.1"): their positions in fairseq's
    ``nn.Sequential``.
    """

    def __init__(self, config: Wav2Vec2Config) -> None:
        super().__init__()
        self.layers = config.conv_layers
        self.conv_layers = nn.ModuleList()
        in_dim = 1
        for i, (dim, kernel_size, stride) in enumerate(self.layers):
            conv = nn.Conv1d(in_dim, dim, kernel_size, stride=stride, bias=config.conv_bias)
            nn.init.kaiming_normal_(conv.weight)
            block: dict[str, nn.Module] = {"0": conv}
            if config.extractor_mode == "layer_norm":
                block["2"] = nn.ModuleDict({"1": nn.LayerNorm(dim)})
            elif i == 0:
                block["2"] = nn.GroupNorm(dim, dim)
            self.conv_layers.append(nn.ModuleDict(block))
            in_dim = dim

    def forward(self, wavs: Tensor, samples: Sequence[int]) -> tuple[Tensor, list[int]]:
        """(batch, sample), valid samples -> (batch, frame, conv_dim), valid frames."""
        x = wavs.unsqueeze(1)  # (batch, channel, frame) from here
        lengths = list(samples)
        for block, (_, kernel_size, stride) in zip(self.conv_layers, self.layers, strict=True):
            parts = dict(block.named_modules())
            x = parts["0"](x)
            lengths = [(n - kernel_size) // stride + 1 for n in lengths]
            if "2.1" in parts:
                x = layer_norm(x.transpose(1, 2), cast(nn.LayerNorm, parts["2.1"])).transpose(1, 2)
            elif "2" in parts:
                x = group_norm(x, lengths, cast(nn.GroupNorm, parts["2"]))
            x = F.gelu(x)
        return x.transpose(1, 2), lengths


class TransformerEncoder(nn.Module):
    """Positional convolution and transformer blocks."""

    def __init__(self, config: Wav2Vec2Config) -> None:
        super().__init__()
        self.config = config
        dim = config.encoder_embed_dim
        self.pos_conv: nn.Sequential
        if config.pos_conv_depth == 1:
            self.pos_conv = nn.Sequential(WeightNormConv(dim, config.conv_pos, config.conv_pos_groups))
        else:
            kernel_size = max(3, config.conv_pos // config.pos_conv_depth)
            self.pos_conv = nn.Sequential(*(
                nn.Sequential(
                    nn.Conv1d(dim, dim, kernel_size, padding=kernel_size // 2, groups=config.conv_pos_groups)
                )
                for _ in range(config.pos_conv_depth)
            ))  # fmt: skip
        self.layers = nn.ModuleList(TransformerBlock(config) for _ in range(config.encoder_layers))
        self.layer_norm = nn.LayerNorm(dim)
        for module in self.layers.modules():  # BERT's initialisation, as in fairseq
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)

    def forward(self, x: Tensor, lengths: Sequence[int], keep: Sequence[int]) -> list[Tensor]:
        """(batch, frame, dim) projected features, valid frames of each -> the states in ``keep``."""
        padding: Tensor | None = None  # (batch, frame), True beyond an utterance's end; None where there is none
        if min(lengths) < x.size(1):
            ends = torch.tensor(lengths, device=x.device).unsqueeze(1)
            padding = torch.arange(x.size(1), device=x.device) >= ends
        x = zero_padding(x, padding)
        x = x + self._positions(x, padding)
        if not self.config.layer_norm_first:
            x = self.layer_norm(x)
        x = F.dropout(x, self.config.dropout, self.training)

        # (batch, head, query, key), True where attention may look
        attention_mask = None if padding is None else ~padding[:, None, None, :]
        wanted = set(keep)
        states = []
        if 0 in wanted:
            states.append(zero_padding(x, padding))
        for k, layer in enumerate(self.layers[: max(keep)], start=1):
            dropped = self.training and self.config.encoder_layerdrop > 0
            if not (dropped and torch.rand(()).item() < self.config.encoder_layerdrop):
                if self.config.checkpoint_activations and torch.is_grad_enabled():
                    x = checkpoint(layer, x, attention_mask, use_reentrant=False)
                else:
                    x = layer(x, attention_mask)
            if k in wanted:
                last = k == len(self.layers) and self.config.layer_norm_first
                states.append(zero_padding(self.layer_norm(x) if last else x, padding))
        return states

    def _positions(self, x: Tensor, padding: Tensor | None) -> Tensor:
        """Positional embedding of (batch, frame, dim) features that are zero where there is padding."""
        frames = x.size(1)
        if self.config.pos_conv_depth == 1:
            # An even kernel adds a frame at the end, which fairseq's SamePad removes.
            return F.gelu(self.pos_conv[0](x.transpose(1, 2))[..., :frames]).transpose(1, 2)
        for block in self.pos_conv:
            y = cast(nn.Sequential, block)[0](x.transpose(1, 2))[..., :frames].transpose(1, 2)
            x = zero_padding(F.gelu(F.layer_norm(y, y.shape[-1:])), padding)
        return x


class WeightNormConv(nn.Module):
    """A grouped convolution (batch, dim, frame) -> the same, its weight normalised over all but the kernel's axis.

    Holds ``weight_g`` and ``weight_v`` as fairseq's checkpoints do (``weight_norm`` with ``dim=2``).
    """

    def __init__(self, dim: int, kernel_size: int, groups: int) -> None:
        super().__init__()
        self.padding = kernel_size // 2
        self.groups = groups
        self.weight_v = nn.Parameter(torch.empty(dim, dim // groups, kernel_size))
        nn.init.normal_(self.weight_v, std=math.sqrt(4.0 / (kernel_size * dim)))
        self.weight_g = nn.Parameter(self.weight_v.detach().norm(dim=(0, 1), keepdim=True))
        self.bias = nn.Parameter(torch.zeros(dim))

    def forward(self, x: Tensor) -> Tensor:
        """(batch, dim, frame) -> the same; one more frame for even kernels."""
        weight = torch._weight_norm(self.weight_v, self.weight_g, 2)
        return F.conv1d(x, weight, self.bias, padding=self.padding, groups=self.groups)


class SelfAttention(nn.Module):
    """Multi-head self-attention."""

    def __init__(self, config: Wav2Vec2Config) -> None:
        super().__init__()
        dim = config.encoder_embed_dim
        self.heads = config.encoder_attention_heads
        self.dropout = config.attention_dropout
        self.k_proj = nn.Linear(dim, dim)
        self.v_proj = nn.Linear(dim, dim)
        self.q_proj = nn.Linear(dim, dim)
        self.out_proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """(batch, frame, dim) -> the same; ``mask`` (batch, 1, 1, frame) is True where attention may look."""
        q, k, v = (
            projection(x).unflatten(2, (self.heads, -1)).transpose(1, 2)  # (batch, head, frame, dim / head)
            for projection in (self.q_proj, self.k_proj, self.v_proj)
        )
        x = F.scaled_dot_product_attention(q, k, v, mask, dropout_p=self.dropout if self.training else 0.0)
        return cast(Tensor, self.out_proj(x.transpose(1, 2).flatten(2)))


class TransformerBlock(nn.Module):
    """Self-attention and feed-forward layers, normalised before (``layer_norm_first``) or after."""

    def __init__(self, config: Wav2Vec2Config) -> None:
        super().__init__()
        dim = config.encoder_embed_dim
        self.config = config
        self.activation = ACTIVATION_FNS[config.activation_fn]
        self.self_attn = SelfAttention(config)
        self.self_attn_layer_norm = nn.LayerNorm(dim)
        self.fc1 = nn.Linear(dim, config.encoder_ffn_embed_dim)
        self.fc2 = nn.Linear(config.encoder_ffn_embed_dim, dim)
        self.final_layer_norm = nn.LayerNorm(dim)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """(batch, frame, dim) -> the same; ``mask`` as in :class:`SelfAttention`."""
        if self.config.layer_norm_first:
            x = x + self._drop(self.self_attn(self.self_attn_layer_norm(x), mask))
            return x + self._feed_forward(self.final_layer_norm(x))
        x = self.self_attn_layer_norm(x + self._drop(self.self_attn(x, mask)))
        return cast(Tensor, self.final_layer_norm(x + self._feed_forward(x)))

    def _feed_forward(self, x: Tensor) -> Tensor:
        x = F.dropout(self.activation(self.fc1(x)), self.config.activation_dropout, self.training)
        return self._drop(self.fc2(x))

    def _drop(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.config.dropout, self.training)


def relu_squared(x: Tensor) -> Tensor:
    """The square of ReLU."""
    return F.relu(x).square()


def linear(x: Tensor) -> Tensor:
    """No activation."""
    return x


ACTIVATION_FNS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu,
    "relu": F.relu,
    "relu_squared": relu_squared,
    "gelu_fast": partial(F.gelu, approximate="tanh"),
    "gelu_accurate": partial(F.gelu, approximate="tanh"),
    "tanh": torch.tanh,
    "linear": linear,
    "swish": F.silu,
}
"""fairseq's activation functions by name."""


def zero_padding(x: Tensor, padding: Tensor | None) -> Tensor:
    """(batch, frame, dim) with zeros where ``padding`` (batch, frame) is True."""
    return x if padding is None else x.masked_fill(padding.unsqueeze(2), 0.0)


def normalize(wavs: Tensor, samples: Sequence[int]) -> Tensor:
    """Zero mean and unit variance over the valid samples of (batch, sample) waveforms; zeros beyond."""
    if min(samples) == wavs.size(1):
        return F.layer_norm(wavs, wavs.shape[1:])
    rows = [F.layer_norm(wav[:n], (n,)) for wav, n in zip(wavs, samples, strict=True)]
    return nn.utils.rnn.pad_sequence(rows, batch_first=True)


def layer_norm(x: Tensor, norm: nn.LayerNorm) -> Tensor:
    """``norm`` in float32, as fairseq's extractor computes it."""
    return F.layer_norm(x.float(), norm.normalized_shape, norm.weight.float(), norm.bias.float(), norm.eps).to(x.dtype)


def group_norm(x: Tensor, lengths: Sequence[int], norm: nn.GroupNorm) -> Tensor:
    """``norm`` of (batch, channel, frame) in float32 with statistics over valid frames only; zeros beyond."""

    def unpadded(x: Tensor) -> Tensor:
        return F.group_norm(x.float(), norm.num_groups, norm.weight.float(), norm.bias.float(), norm.eps).to(x.dtype)

    if min(lengths) == x.size(2):
        return unpadded(x)
    return torch.cat([F.pad(unpadded(x[i : i + 1, :, :n]), (0, x.size(2) - n)) for i, n in enumerate(lengths)])


def span_mask(lengths: Sequence[int], frames: int, prob: float, span: int, *, min_spans: int = 0) -> Tensor:
    """Random spans, as drawn by fairseq's ``compute_mask_indices`` with static lengths and overlap allowed.

    Args:
        lengths: how much of each row may be masked.
        frames: size of a row.
        prob: share of a row that the spans would cover if they did not overlap.
        span: length of a span.

    Returns:
        (row, frame) bool on the CPU, drawn from torch's CPU generator whatever the device, so that a resumed run
        draws the same.
    """
    mask = torch.zeros(len(lengths), frames, dtype=torch.bool)
    for row, n in zip(mask, lengths, strict=True):
        spans = max(min_spans, int(prob * n / span + torch.rand(()).item()))
        starts = torch.randperm(max(1, n - span + 1))[:spans]
        for start in starts.tolist():
            row[start : min(start + span, n)] = True
        if n and bool(row[:n].all()):  # shorter than a span: leave some frames unmasked
            row[: (n + 1) // 2] = False
    return mask
