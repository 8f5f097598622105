"""A native wav2vec 2.0 whose parameters carry fairseq's names.

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

from benchmark.errors import BenchmarkError
from benchmark.interfaces import HiddenStates, Upstream
from upstream.packing import Packing
from upstream.wav2vec2.config import Wav2Vec2Config

PRETRAINING_MODULES = ("quantizer", "project_q", "final_proj", "target_glu")
"""Modules of fairseq's model that only pre-training uses."""

MOST_SAMPLES = 2**24
"""Of the waveforms that a GPU's convolutions see at once: cuDNN counts the numbers of a tensor in 32 bits."""


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
        alone = [wav[:n].to(dtype) for wav, n in zip(wavs, samples, strict=True)]
        if self.config.normalize:
            alone = [F.layer_norm(wav, wav.shape) for wav in alone]
        mult = self.config.feature_grad_mult
        with torch.set_grad_enabled(torch.is_grad_enabled() and mult > 0):
            features = self.feature_extractor(alone)
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
            time = span_mask(lengths, packing.longest, config.mask_prob, config.mask_length, min_spans=2)
            masked = torch.cat([row[:n] for row, n in zip(time, lengths, strict=True)])
            x = torch.where(masked.to(x.device, non_blocking=True).unsqueeze(1), self.mask_emb.to(x.dtype), x)
        if config.mask_channel_prob > 0:
            sizes = [x.size(1)] * len(lengths)
            channel = span_mask(sizes, x.size(1), config.mask_channel_prob, config.mask_channel_length)
            x = x.masked_fill(channel.to(x.device, non_blocking=True)[packing.utterance], 0.0)
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
    """The stack of convolutions, without padding: waveforms -> (row, conv_dim).

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

    def forward(self, wavs: Sequence[Tensor]) -> Tensor:
        """(sample,) waveforms -> (row, conv_dim): their valid frames one after the other."""
        if one_by_one(wavs[0].device):
            return torch.cat([self._convolve(wav[None, None], [len(wav)])[0].t() for wav in wavs])
        hop = math.prod(stride for _, _, stride in self.layers)
        groups: list[list[Tensor]] = [[]]
        total = 0
        for wav in wavs:
            if groups[-1] and total + len(wav) > MOST_SAMPLES:
                groups.append([])
                total = 0
            groups[-1].append(wav)
            total += len(wav) + hop
        return torch.cat([self._convolve_together(group, hop) for group in groups])

    def _convolve_together(self, wavs: Sequence[Tensor], hop: int) -> Tensor:
        """Waveforms end to end, each from a multiple of ``hop`` on: frame k of one that starts at n * hop is frame
        n + k of them all, and the frames that hear two waveforms are left out."""
        samples = [len(wav) for wav in wavs]
        slots = [-(-n // hop) for n in samples]
        joined = torch.cat([F.pad(wav, (0, slot * hop - len(wav))) for wav, slot in zip(wavs, slots, strict=True)])
        x = self._convolve(joined[None, None], samples, hop)[0].t()
        frames = [self._frames(n) for n in samples]
        starts = [sum(slots[:i]) for i in range(len(slots))]
        return torch.cat([x[start : start + n] for start, n in zip(starts, frames, strict=True)])

    def _frames(self, samples: int) -> int:
        for _, kernel_size, stride in self.layers:
            samples = (samples - kernel_size) // stride + 1
        return samples

    def _convolve(self, x: Tensor, samples: Sequence[int], hop: int | None = None) -> Tensor:
        """(1, 1, sample) -> (1, conv_dim, frame), of one waveform, or of several in slots of multiples of ``hop``."""
        for block, (_, kernel_size, stride) in zip(self.conv_layers, self.layers, strict=True):
            parts = dict(block.named_modules())
            x = convolve(x, cast(nn.Conv1d, parts["0"]))
            if "2.1" in parts:
                x = layer_norm(x.transpose(1, 2), cast(nn.LayerNorm, parts["2.1"])).transpose(1, 2)
            elif "2" in parts:  # after the first convolution only
                norm = cast(nn.GroupNorm, parts["2"])
                if hop is None:
                    x = group_norm(x, norm)
                else:
                    x = self._group_norm_each(x, norm, samples, hop, kernel_size, stride)
            x = F.gelu(x)
        return x

    @staticmethod
    def _group_norm_each(
        x: Tensor, norm: nn.GroupNorm, samples: Sequence[int], hop: int, kernel_size: int, stride: int
    ) -> Tensor:
        """``norm`` over the frames of each waveform alone."""
        parts, start = [], 0
        for n in samples:
            width, valid = -(-n // hop) * hop // stride, (n - kernel_size) // stride + 1
            part = x[..., start : start + width]
            parts.append(F.pad(group_norm(part[..., :valid], norm), (0, part.size(2) - valid)))
            start += width
        return torch.cat(parts, dim=2)


class TransformerEncoder(nn.Module):
    """Positional convolution and transformer blocks."""

    def __init__(self, config: Wav2Vec2Config) -> None:
        super().__init__()
        self.config = config
        dim = config.encoder_embed_dim
        self.pos_conv: nn.Sequential
        if config.pos_conv_depth == 1:
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
        self.layers = nn.ModuleList(TransformerBlock(config) for _ in range(config.encoder_layers))
        self.layer_norm = nn.LayerNorm(dim)
        for module in self.layers.modules():  # BERT's initialisation, as in fairseq
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)

    def forward(self, x: Tensor, packing: Packing, keep: Sequence[int]) -> list[Tensor]:
        """(row, dim) projected features -> the states in ``keep``, (row, dim) each."""
        x = x + self._positions(x, packing)
        if not self.config.layer_norm_first:
            x = self.layer_norm(x)
        x = F.dropout(x, self.config.dropout, self.training)

        wanted = set(keep)
        states = []
        if 0 in wanted:
            states.append(x)
        for k, layer in enumerate(self.layers[: max(keep)], start=1):
            dropped = self.training and self.config.encoder_layerdrop > 0
            if not (dropped and torch.rand(()).item() < self.config.encoder_layerdrop):
                if self.config.checkpoint_activations and torch.is_grad_enabled():
                    x = checkpoint(layer, x, packing, use_reentrant=False)
                else:
                    x = layer(x, packing)
            if k in wanted:
                last = k == len(self.layers) and self.config.layer_norm_first
                states.append(self.layer_norm(x) if last else x)
        return states

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
        self.k_proj = nn.Linear(dim, dim)
        self.v_proj = nn.Linear(dim, dim)
        self.q_proj = nn.Linear(dim, dim)
        self.out_proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor, packing: Packing) -> Tensor:
        """(row, dim) -> the same; attention stays within an utterance."""
        if torch.is_autocast_enabled(x.device.type):  # once, not for each of the three
            x = x.to(torch.get_autocast_dtype(x.device.type))
        q, k, v = (
            projection(x).unflatten(1, (self.heads, -1))  # (row, head, dim / head)
            for projection in (self.q_proj, self.k_proj, self.v_proj)
        )
        x = packing.attend(q, k, v, self.dropout if self.training else 0.0)
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
        self.fc1 = nn.Linear(dim, config.encoder_ffn_embed_dim)
        self.fc2 = nn.Linear(config.encoder_ffn_embed_dim, dim)
        self.final_layer_norm = nn.LayerNorm(dim)

    def forward(self, x: Tensor, packing: Packing) -> Tensor:
        """(row, dim) -> the same."""
        if self.config.layer_norm_first:
            x = x + self._drop(self.self_attn(self.self_attn_layer_norm(x), packing))
            return x + self._feed_forward(self.final_layer_norm(x))
        x = self.self_attn_layer_norm(x + self._drop(self.self_attn(x, packing)))
        return cast(Tensor, self.final_layer_norm(x + self._feed_forward(x)))

    def _feed_forward(self, x: Tensor) -> Tensor:
        x = F.dropout(self.activation(self.fc1(x)), self.config.activation_dropout, self.training)
        return self._drop(self.fc2(x))

    def _drop(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.config.dropout, self.training)


def one_by_one(device: torch.device) -> bool:
    """Whether utterances go through the convolutions one after the other: activations then fit a CPU's caches."""
    return device.type != "cuda"


def convolve(x: Tensor, conv: nn.Conv1d) -> Tensor:
    """``conv`` of (1, channel, frame); in half precision on a GPU with a frame's channels side by side in memory, as
    tensor cores and LayerNorm want them."""
    if one_by_one(x.device) or not torch.is_autocast_enabled(x.device.type):
        return cast(Tensor, conv(x))
    if x.size(1) > 1:
        x = x.transpose(1, 2).contiguous().transpose(1, 2)  # nothing to do after the second convolution
    return F.conv2d(x.unsqueeze(2), conv.weight.unsqueeze(2), conv.bias, (1, conv.stride[0])).squeeze(2)


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


def layer_norm(x: Tensor, norm: nn.LayerNorm) -> Tensor:
    """``norm`` in float32, as fairseq's extractor computes it."""
    return F.layer_norm(x.float(), norm.normalized_shape, norm.weight.float(), norm.bias.float(), norm.eps).to(x.dtype)


def group_norm(x: Tensor, norm: nn.GroupNorm) -> Tensor:
    """``norm`` of (1, channel, frame) in float32."""
    return F.group_norm(x.float(), norm.num_groups, norm.weight.float(), norm.bias.float(), norm.eps).to(x.dtype)


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
