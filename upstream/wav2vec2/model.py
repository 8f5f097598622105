"""A native wav2vec 2.0 whose parameters carry fairseq's names; also HuBERT, WavLM, data2vec-audio and w2v-BERT 2.0.

Follows fairseq's ``Wav2Vec2Model`` (https://github.com/facebookresearch/fairseq, models/wav2vec/wav2vec2.py) layer by
layer, with two differences: an utterance has the same states alone and in any batch (fairseq's GroupNorm and
positional convolution see the padding), and blocks above the last state asked for are not run. A batch is computed
without padding, its utterances end to end (:class:`upstream.packing.Packing`).

Notation in shapes: ``batch`` utterances, ``sample`` audio samples, ``frame`` frames, ``row`` frames of all utterances
of a batch one after the other, ``dim`` features.
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

from benchmark import draws
from benchmark.interfaces import HiddenStates, Upstream
from upstream.checks import check_input, check_keep
from upstream.conformer.block import ConformerBlock, ConformerPositions
from upstream.data2vec2.positions import Alibi
from upstream.packing import Packing, one_by_one
from upstream.products import Linear
from upstream.w2v_bert.frontend import FbankExtractor
from upstream.wav2vec2.config import Wav2Vec2Config
from upstream.wav2vec2.extractor import ConvFeatureExtractor
from upstream.wavlm.positions import PositionGate, RelativePositions, attend


class Wav2Vec2Model(Upstream):
    """wav2vec 2.0 as an upstream.

    Args:
        config: the architecture.
        pretraining: tensors that only pre-training uses (``quantizer``, ``final_proj`` …), kept so that the model can
            be written back to a fairseq checkpoint. They are not parameters, and stay on the CPU.
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

        self.sample_rate = config.sample_rate
        self.hidden_size = config.encoder_embed_dim
        self.num_states = config.encoder_layers + 1

        self.feature_extractor: ConvFeatureExtractor | FbankExtractor
        self.feature_extractor = FbankExtractor() if config.extractor_mode == "fbank" else ConvFeatureExtractor(config)
        self.frame_shift = self.feature_extractor.hop
        conv_dim = self.feature_extractor.dim
        self.layer_norm = nn.LayerNorm(conv_dim)
        project = config.always_project or conv_dim != config.encoder_embed_dim
        self.post_extract_proj = Linear(conv_dim, config.encoder_embed_dim) if project else None
        self.mask_emb = nn.Parameter(torch.empty(config.encoder_embed_dim).uniform_())
        self.encoder = TransformerEncoder(config)

    @property
    def extractor(self) -> nn.Module | None:
        """The convolutions over the waveform, where there are any."""
        return None if isinstance(self.feature_extractor, FbankExtractor) else self.feature_extractor

    @property
    def blocks(self) -> Sequence[nn.Module]:
        """The transformer blocks."""
        return list(self.encoder.layers)

    @property
    def min_samples(self) -> int:
        """The shortest waveform that gives a frame: 400 samples in every published model."""
        return self.feature_extractor.min_samples

    def output_lengths(self, wav_lens: Tensor) -> Tensor:
        """Valid frames (batch,) of waveforms of ``wav_lens`` (batch,) samples; 0 for one that is too short."""
        return self.feature_extractor.output_lengths(wav_lens)

    def parameter_count(self) -> int:
        """How many parameters the checkpoint has of the model."""
        return sum(parameter.numel() for parameter in self.parameters())

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
        kept = check_keep(keep, self.num_states)
        samples = check_input(wavs, wav_lens, self.min_samples, self.sample_rate)
        lengths = self.output_lengths(wav_lens)
        together = self.sharded or (self.training and draws.are_shared())
        if len(samples) > 1 and wavs.device.type == "cpu" and not torch.is_grad_enabled() and not together:
            return HiddenStates(self._forward_each(wavs, samples, lengths.tolist(), kept), lengths)
        return HiddenStates(self._forward_batch(wavs, samples, kept), lengths)

    def _forward_batch(self, wavs: Tensor, samples: list[int], keep: list[int]) -> list[Tensor]:
        features, packing = self.extract_features(wavs, samples)
        x = self.project(features)
        if self.training and self.config.apply_mask:
            x = self.apply_mask(x, packing)
        return [packing.pad(state) for state in self.encoder(x, packing, keep)]

    def _forward_each(self, wavs: Tensor, samples: list[int], frames: list[int], keep: list[int]) -> list[Tensor]:
        """One utterance at a time: on a CPU, activations then fit the caches."""
        states = [wavs.new_zeros(len(samples), max(frames), self.hidden_size) for _ in keep]
        for i, (n_samples, n_frames) in enumerate(zip(samples, frames, strict=True)):
            alone = self._forward_batch(wavs[i : i + 1, :n_samples], [n_samples], keep)
            for state, utterance_state in zip(states, alone, strict=True):
                state[i, :n_frames] = utterance_state[0]
        return states

    def extract_features(self, wavs: Tensor, samples: Sequence[int]) -> tuple[Tensor, Packing]:
        """Waveforms -> normalised convolutional features.

        Args:
            wavs: (batch, sample).
            samples: valid samples of each.

        Returns:
            (row, conv_dim) features, and which rows are whose.
        """
        dtype = self.layer_norm.weight.dtype
        alone = [wav[:n] for wav, n in zip(wavs, samples, strict=True)]
        if self.extractor is not None:
            alone = [wav.to(dtype) for wav in alone]
        if self.config.normalize:
            alone = [F.layer_norm(wav, wav.shape, eps=self.config.normalize_eps) for wav in alone]
        mult = self.config.feature_grad_mult
        with torch.set_grad_enabled(torch.is_grad_enabled() and mult > 0):
            features = self.feature_extractor(alone).to(dtype)
        if features.requires_grad and mult != 1.0:
            features.register_hook(lambda gradient: gradient * mult)
        frames = self.output_lengths(torch.tensor(samples)).tolist()
        return self.layer_norm(features), Packing(frames, wavs.device)

    def project(self, features: Tensor) -> Tensor:
        """(row, conv_dim) -> (row, dim), with ``dropout_input`` while training."""
        if self.post_extract_proj is not None:
            features = self.post_extract_proj(features)
        return F.dropout(features, self.config.dropout_input, self.training)

    def apply_mask(self, x: Tensor, packing: Packing) -> Tensor:
        """Replace random spans of frames by ``mask_emb`` and spans of channels by zeros (wav2vec 2.0, section 3.1,
        and SpecAugment).

        Args:
            x: (row, dim).
            packing: which rows are whose.
        """
        config, lengths = self.config, packing.lengths
        if config.mask_prob > 0:
            whole = draws.whole(lengths)
            time = draws.own(span_mask(whole, max(whole), config.mask_prob, config.mask_length, min_spans=2))
            masked = torch.cat([row[:n] for row, n in zip(time, lengths, strict=True)])
            x = torch.where(masked.to(x.device, non_blocking=True).unsqueeze(1), self.mask_emb.to(x.dtype), x)
        if config.mask_channel_prob > 0:
            sizes = [x.size(1)] * len(draws.whole(lengths))
            channel = draws.own(span_mask(sizes, x.size(1), config.mask_channel_prob, config.mask_channel_length))
            x = x.masked_fill(channel.to(x.device, non_blocking=True)[packing.utterance], 0.0)
        return x


class TransformerEncoder(nn.Module):
    """Positional convolution and transformer blocks."""

    def __init__(self, config: Wav2Vec2Config) -> None:
        super().__init__()
        self.config = config
        dim = config.encoder_embed_dim
        conformer = config.layer_type == "conformer"
        self.pos_conv: nn.Sequential
        if conformer:
            self.pos_conv = nn.Sequential()
        elif config.pos_conv_depth == 1:
            self.pos_conv = nn.Sequential(WeightNormConv(dim, config.conv_pos, config.conv_pos_groups))
            self._reach = config.conv_pos // 2
        else:
            kernel_size = max(3, config.conv_pos // config.pos_conv_depth)
            self._reach = kernel_size // 2
            self.pos_conv = nn.Sequential(*(
                nn.Sequential(
                    nn.Conv1d(dim, dim, kernel_size, padding=kernel_size // 2, groups=config.conv_pos_groups)
                )
                for _ in range(config.pos_conv_depth)
            ))  # fmt: skip
        self.relative_positions: nn.Module | None = None
        if conformer:
            self.relative_positions = ConformerPositions(config)
        elif config.alibi:
            self.relative_positions = Alibi(config.encoder_attention_heads)
        elif config.relative_position_embedding:
            heads = config.encoder_attention_heads
            self.relative_positions = RelativePositions(heads, config.num_buckets, config.max_distance)
        block = ConformerBlock if conformer else TransformerBlock
        self.layers = nn.ModuleList(block(config) for _ in range(config.encoder_layers))
        self.layer_norm = nn.LayerNorm(dim) if config.encoder_layer_norm else None
        for module in self.layers.modules():  # BERT's initialisation, as in fairseq
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, x: Tensor, packing: Packing, keep: Sequence[int]) -> list[Tensor]:
        """(row, dim) projected features -> the states in ``keep``, (row, dim) each."""
        x = self.embed(x, packing)
        positions = self.positions(packing, x.device)
        wanted = set(keep)
        states = []
        if 0 in wanted:
            states.append(x)
        for k, layer in enumerate(self.layers[: max(keep)], start=1):
            dropped = self.training and self.config.encoder_layerdrop > 0
            if not (dropped and torch.rand((), generator=draws.generator()).item() < self.config.encoder_layerdrop):
                if self.config.checkpoint_activations and torch.is_grad_enabled():
                    x = checkpoint(layer, x, packing, positions, use_reentrant=False)
                else:
                    x = layer(x, packing, positions)
            if k in wanted:
                states.append(self.state(x, k))
        return states

    def embed(self, x: Tensor, packing: Packing) -> Tensor:
        """(row, dim) projected features -> the input of block 0, (row, dim)."""
        if len(self.pos_conv):
            x = x + self._positions(x, packing)
        if not self.config.layer_norm_first and self.layer_norm is not None:
            x = self.layer_norm(x)
        return F.dropout(x, self.config.dropout, self.training)

    def positions(self, packing: Packing, device: torch.device) -> Tensor | None:
        """What blocks know of positions, where they do."""
        return None if self.relative_positions is None else self.relative_positions(packing.longest, device)

    def state(self, x: Tensor, k: int) -> Tensor:
        """State k of what came out of k blocks, (row, dim) both."""
        last = k == self.config.encoder_layers and self.config.layer_norm_first
        return self.layer_norm(x) if last and self.layer_norm is not None else x

    def _positions(self, x: Tensor, packing: Packing) -> Tensor:
        """Positional embedding of (row, dim) features."""
        for block in self.pos_conv:
            conv = block if self.config.pos_conv_depth == 1 else cast(nn.Sequential, block)[0]

            def convolve(x: Tensor, conv: nn.Module = conv) -> Tensor:
                # An even kernel adds a frame at the end, which fairseq's SamePad removes.
                y: Tensor = conv(x.transpose(1, 2))[..., : x.size(1)]
                return y.transpose(1, 2)

            x = packing.apart(x, self._reach, convolve)
            if self.config.pos_conv_depth > 1:
                x = F.layer_norm(x, x.shape[-1:])
            x = F.gelu(x)
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
        if one_by_one(x.device):
            return F.conv1d(x, weight, self.bias, padding=self.padding, groups=self.groups)
        return fft_conv(x, weight, self.bias, self.padding, self.groups)


class SelfAttention(nn.Module):
    """Multi-head self-attention."""

    def __init__(self, config: Wav2Vec2Config) -> None:
        super().__init__()
        dim = config.encoder_embed_dim
        self.heads = config.encoder_attention_heads
        self.dropout = config.attention_dropout
        self.k_proj = Linear(dim, dim)
        self.v_proj = Linear(dim, dim)
        self.q_proj = Linear(dim, dim)
        self.out_proj = Linear(dim, dim)
        self.gate = PositionGate(dim, self.heads) if config.gru_rel_pos else None
        self.prefix: nn.Module | None = None
        """Gives keys and values (place, head, dim / head) of a type, which every utterance has beside its own: regime
        ``prefix``."""

    def forward(self, x: Tensor, packing: Packing, positions: Tensor | None = None) -> Tensor:
        """(row, dim) -> the same; attention stays within an utterance.

        ``positions`` (head, longest, longest): see :mod:`upstream.wavlm.positions`.
        """
        gates = None if self.gate is None else self.gate(x)
        if torch.is_autocast_enabled(x.device.type):  # once, not for each of the three
            x = x.to(torch.get_autocast_dtype(x.device.type))
        q, k, v = (
            projection(x).unflatten(1, (self.heads, -1))  # (row, head, dim / head)
            for projection in (self.q_proj, self.k_proj, self.v_proj)
        )
        dropout = self.dropout if self.training else 0.0
        prefix = None if self.prefix is None else self.prefix(q.dtype)
        if positions is None:
            x = packing.attend(q, k, v, dropout, prefix)
        else:
            x = attend(packing, q, k, v, positions, gates, dropout, prefix)
        return cast(Tensor, self.out_proj(x.flatten(1)))


class TransformerBlock(nn.Module):
    """Self-attention and feed-forward layers, normalised before (``layer_norm_first``) or after."""

    def __init__(self, config: Wav2Vec2Config) -> None:
        super().__init__()
        dim = config.encoder_embed_dim
        self.config = config
        self.activation = ACTIVATION_FNS[config.activation_fn]
        self.self_attn = SelfAttention(config)
        self.self_attn_layer_norm = nn.LayerNorm(dim)
        self.fc1 = Linear(dim, config.encoder_ffn_embed_dim)
        self.fc2 = Linear(config.encoder_ffn_embed_dim, dim)
        self.final_layer_norm = nn.LayerNorm(dim)

    def forward(self, x: Tensor, packing: Packing, positions: Tensor | None = None) -> Tensor:
        """(row, dim) -> the same."""
        if self.config.layer_norm_first:
            x = x + self._drop(self.self_attn(self.self_attn_layer_norm(x), packing, positions))
            return x + self._feed_forward(self.final_layer_norm(x))
        x = self.self_attn_layer_norm(x + self._drop(self.self_attn(x, packing, positions)))
        return cast(Tensor, self.final_layer_norm(x + self._feed_forward(x)))

    def _feed_forward(self, x: Tensor) -> Tensor:
        if self.activation is F.gelu and isinstance(self.fc1, Linear):  # LoRA wraps it
            x = self.fc1.gelu(x)
        else:
            x = self.activation(self.fc1(x))
        return self._drop(self.fc2(F.dropout(x, self.config.activation_dropout, self.training)))

    def _drop(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.config.dropout, self.training)


def fft_conv(x: Tensor, weight: Tensor, bias: Tensor, padding: int, groups: int) -> Tensor:
    """``F.conv1d`` with a long kernel, by the discrete Fourier transform of overlapping stretches ("overlap-save"), in
    float32. cuDNN has no fast kernel for the positional convolution of Base: 71 % of a pass in bf16 on an H100.

    Args:
        x: (1, dim, frame).
        weight: (dim, dim / groups, kernel).
        bias: (dim,).
        padding: zeros at either end.
        groups: of channels.

    Returns:
        (1, dim, frame + 2 * padding - kernel + 1), of the type of ``x``.
    """
    kernel, frames = weight.size(2), x.size(2) + 2 * padding - weight.size(2) + 1
    size = 4 * kernel
    step = size - kernel + 1
    count = -(-frames // step)
    signal = F.pad(x[0].float(), (padding, count * step + kernel - 1 - x.size(2) - padding))
    spectrum = torch.fft.rfft(signal.unfold(1, size, step))  # (dim, stretch, frequency)
    response = torch.fft.rfft(weight.float(), size).conj()  # (dim, dim / groups, frequency)
    product: Tensor = torch.matmul(
        spectrum.unflatten(0, (groups, -1)).permute(3, 0, 2, 1),  # (frequency, group, stretch, input)
        response.unflatten(0, (groups, -1)).permute(3, 0, 2, 1),  # (frequency, group, input, output)
    )
    y: Tensor = torch.fft.irfft(product.permute(1, 3, 2, 0), size)[..., :step]  # (group, output, stretch, frame)
    return (y.reshape(x.size(1), -1)[None, :, :frames] + bias.float()[:, None]).to(x.dtype)


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
    generator = draws.generator()
    mask = torch.zeros(len(lengths), frames, dtype=torch.bool)
    for row, n in zip(mask, lengths, strict=True):
        spans = max(min_spans, int(prob * n / span + torch.rand((), generator=generator).item()))
        starts = torch.randperm(max(1, n - span + 1), generator=generator)[:spans]
        for start in starts.tolist():
            row[start : min(start + span, n)] = True
        if n and bool(row[:n].all()):  # shorter than a span: leave some frames unmasked
            row[: (n + 1) // 2] = False
    return mask
