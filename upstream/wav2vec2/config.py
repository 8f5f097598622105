"""The configuration of a wav2vec 2.0 model and of the families with its architecture, under fairseq's names.

Only what inference and fine-tuning need. Names and defaults are those of fairseq's ``Wav2Vec2Config``
(https://github.com/facebookresearch/fairseq/blob/3d262bb/fairseq/models/wav2vec/wav2vec2.py), except ``normalize`` and
``sample_rate``, which fairseq keeps in the task, and ``apply_mask``, which it keeps in the fine-tuned model. Relative
positions have the names and defaults of WavLM's configuration, those of w2v-BERT 2.0 transformers'.
"""

from __future__ import annotations

import ast
import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from benchmark.errors import BenchmarkError

STANDARD_CONV = "[(512, 10, 5)] + [(512, 3, 2)] * 4 + [(512,2,2)] + [(512,2,2)]"

UNSUPPORTED: dict[str, Any] = {
    "quantize_input": False,
    "conv_pos_batch_norm": False,
    "crop_seq_to_multiple": 1,
}
"""Fields of fairseq's configuration that change the architecture, and the only value that is implemented."""

FAMILIES = ("wav2vec2", "hubert", "wavlm", "data2vec", "data2vec2", "w2v_bert")
"""wav2vec 2.0, HuBERT, WavLM, data2vec-audio 1.0 and 2.0, w2v-BERT 2.0: one architecture, but for WavLM's and data2vec
2.0's positions and w2v-BERT's input and blocks."""

MOST = {"encoder_layers": 1000, "pos_conv_depth": 1000}
MOST_NUMBER = 2**20
"""What a configuration may ask for: a damaged one must not fill the memory before its tensors are compared with it."""

ACTIVATIONS = ("gelu", "relu", "relu_squared", "gelu_fast", "gelu_accurate", "tanh", "linear", "swish")


@dataclass(frozen=True)
class Wav2Vec2Config:
    """What a model is made of, and how it is fine-tuned."""

    family: str = "wav2vec2"
    """How it was pre-trained: one of :data:`FAMILIES`."""
    extractor_mode: str = "default"
    """``default``: one GroupNorm after the first convolution; ``layer_norm``: a LayerNorm after each; ``fbank``: no
    convolutions, but the log mel energies of :mod:`upstream.w2v_bert.frontend`."""
    conv_feature_layers: str = STANDARD_CONV
    """A Python list expression of ``(dim, kernel_size, stride)``; :attr:`conv_layers` parses it, without ``eval``."""
    conv_bias: bool = False
    """Whether the extractor's convolutions have a bias."""
    encoder_layers: int = 12
    encoder_embed_dim: int = 768
    encoder_ffn_embed_dim: int = 3072
    encoder_attention_heads: int = 12
    activation_fn: str = "gelu"
    """Of the feed-forward layers: one of :data:`ACTIVATIONS`."""
    layer_norm_first: bool = False
    """True: pre-norm blocks, a LayerNorm after the last; False: post-norm blocks, a LayerNorm before the first."""
    encoder_layer_norm: bool = True
    """Whether there is a LayerNorm before or after the blocks; w2v-BERT has none."""
    conv_pos: int = 128
    """Kernel size of the positional convolution; with ``pos_conv_depth`` > 1, divided between the layers."""
    conv_pos_groups: int = 16
    pos_conv_depth: int = 1
    layer_type: str = "transformer"
    """Or ``conformer``: blocks of :mod:`upstream.conformer.block`, and no positional convolution."""
    pos_enc_type: str = "abs"
    """Of a Conformer: ``rel_pos``, ``rope`` or ``relative_key``."""
    left_max_position_embeddings: int = 64
    """``relative_key``: frames before the query from which on all share a vector."""
    right_max_position_embeddings: int = 8
    """The same of frames after the query."""
    depthwise_conv_kernel_size: int = 31
    """Of a Conformer, in frames; odd."""
    causal_conv: bool = False
    """Of a Conformer: its convolution hears no later frame and is followed by LayerNorm, not BatchNorm."""
    always_project: bool = False
    """Project the convolutional features even where they are as wide as the blocks, as data2vec and Hugging Face do."""
    relative_position_embedding: bool = False
    """WavLM: attention logits have a bias by distance, in ``num_buckets`` buckets."""
    num_buckets: int = 320
    """Half of them for keys before the query; half of those for one distance each, the others logarithmic."""
    max_distance: int = 1280
    """Frames from which on all distances share a bucket."""
    gru_rel_pos: bool = False
    """WavLM: the bias is scaled by a gate of the query's frame."""
    alibi: bool = False
    """data2vec 2.0: attention logits have a penalty by distance (:mod:`upstream.data2vec2.positions`)."""

    dropout: float = 0.1
    """After the positional convolution, attention and feed-forward layers."""
    attention_dropout: float = 0.1
    activation_dropout: float = 0.0
    dropout_input: float = 0.0
    """On the projected features."""
    encoder_layerdrop: float = 0.0
    """Probability of skipping a block while training. A skipped block's state is its input."""
    feature_grad_mult: float = 1.0
    """Scale of the gradient into the feature extractor; 0 runs it without gradient."""

    apply_mask: bool = False
    """Mask time steps and channels during training. Off by default: a checkpoint's ``mask_*`` values are those of its
    pre-training."""
    mask_prob: float = 0.65
    """Share of time steps that start a span, times ``mask_length`` (as in fairseq)."""
    mask_length: int = 10
    """Frames."""
    mask_channel_prob: float = 0.0
    mask_channel_length: int = 10
    """Channels."""

    checkpoint_activations: bool = False
    """Recompute each block in the backward pass instead of keeping its activations: less memory, more time. Off by
    default, whatever pre-training did."""

    normalize: bool = False
    """Whether waveforms are normalised to zero mean and unit variance; fairseq's ``task.normalize``."""
    normalize_eps: float = 1e-5
    """Added to the variance: fairseq's. Hugging Face's preprocessor adds 1e-7."""
    sample_rate: int = 16000
    """Hz; fairseq's ``task.sample_rate``."""

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = _typed(field.name, getattr(self, field.name), str(field.type))
            object.__setattr__(self, field.name, value)
        if self.extractor_mode not in ("default", "layer_norm", "fbank"):
            raise _unsupported("extractor_mode", self.extractor_mode, "'default', 'layer_norm' or 'fbank'")
        if self.extractor_mode == "fbank" and (self.sample_rate != 16000 or self.normalize):
            raise _unsupported("extractor_mode", "fbank", "with waveforms of 16 kHz that are not normalised")
        if self.family not in FAMILIES:
            raise _unsupported("family", self.family, "one of " + ", ".join(FAMILIES))
        if self.activation_fn not in ACTIVATIONS:
            raise _unsupported("activation_fn", self.activation_fn, "one of " + ", ".join(ACTIVATIONS))
        for name in ("encoder_layers", "encoder_embed_dim", "encoder_ffn_embed_dim", "encoder_attention_heads",
                     "conv_pos", "conv_pos_groups", "pos_conv_depth", "mask_length", "mask_channel_length",
                     "sample_rate"):  # fmt: skip
            if not 1 <= getattr(self, name) <= MOST.get(name, MOST_NUMBER):
                raise _unsupported(name, getattr(self, name), f"from 1 to {MOST.get(name, MOST_NUMBER)}")
        for name in ("dropout", "attention_dropout", "activation_dropout", "dropout_input", "encoder_layerdrop"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise _unsupported(name, getattr(self, name), "between 0 and 1")
        for name, divisor in (("encoder_attention_heads", self.encoder_attention_heads),
                              ("conv_pos_groups", self.conv_pos_groups)):  # fmt: skip
            used = name != "conv_pos_groups" or self.layer_type == "transformer"
            if used and self.encoder_embed_dim % divisor:
                raise _unsupported(name, divisor, f"a divisor of encoder_embed_dim = {self.encoder_embed_dim}")
        if self.layer_type not in ("transformer", "conformer"):
            raise _unsupported("layer_type", self.layer_type, "'transformer' or 'conformer'")
        if self.layer_type == "conformer":
            self._check_conformer()
        elif self.pos_enc_type == "relative_key" or self.causal_conv:
            raise _unsupported("layer_type", self.layer_type, "'conformer', with relative_key and causal_conv")
        if self.alibi and (self.layer_type == "conformer" or self.relative_position_embedding):
            raise _unsupported("alibi", True, "without other positions in attention")
        if self.relative_position_embedding and not 4 <= self.num_buckets < 4 * self.max_distance:
            raise _unsupported("num_buckets", self.num_buckets, "4 or more, and fewer than 4 times max_distance")
        if self.gru_rel_pos and not self.relative_position_embedding:
            raise _unsupported("gru_rel_pos", True, "with relative_position_embedding only")
        parse_conv_layers(self.conv_feature_layers)

    def _check_conformer(self) -> None:
        kernel, heads = self.depthwise_conv_kernel_size, self.encoder_attention_heads
        if self.pos_enc_type not in ("rel_pos", "rope", "relative_key"):
            raise _unsupported("pos_enc_type", self.pos_enc_type, "'rel_pos', 'rope' or 'relative_key'")
        for name in ("left_max_position_embeddings", "right_max_position_embeddings"):
            if not 0 <= getattr(self, name) <= MOST_NUMBER:
                raise _unsupported(name, getattr(self, name), f"from 0 to {MOST_NUMBER}")
        if not 1 <= kernel <= MOST_NUMBER or kernel % 2 == 0:
            raise _unsupported("depthwise_conv_kernel_size", kernel, "an odd number")
        size = {"rel_pos": self.encoder_embed_dim, "rope": self.encoder_embed_dim // heads}.get(self.pos_enc_type, 0)
        if size % 2:
            raise _unsupported("encoder_embed_dim", self.encoder_embed_dim, "an even number, in each head for rope")
        if self.relative_position_embedding:
            raise _unsupported("relative_position_embedding", True, "with layer_type = 'transformer'")

    @property
    def conv_layers(self) -> tuple[tuple[int, int, int], ...]:
        """``(dim, kernel_size, stride)`` of each convolution of the extractor."""
        return parse_conv_layers(self.conv_feature_layers)

    @classmethod
    def from_fairseq(
        cls, model: Mapping[str, Any], task: Mapping[str, Any], family: str = "wav2vec2"
    ) -> Wav2Vec2Config:
        """Read fairseq's model and task configuration (plain data).

        Args:
            model: ``cfg.model``, or the ``args`` of an old checkpoint; unknown fields are ignored, missing ones
                take fairseq's defaults.
            task: ``cfg.task``, or the same ``args``.
            family: one of :data:`FAMILIES`.

        Raises:
            BenchmarkError: for an architecture that is not implemented, naming the field and its value.
        """
        for name, supported in UNSUPPORTED.items():
            value = model.get(name, supported)
            if value != supported and value is not None:
                raise _unsupported(name, value, repr(supported))
        names = {field.name for field in dataclasses.fields(cls)} - _NOT_IN_MODEL
        values = {name: model[name] for name in names if model.get(name) is not None}
        values |= {"family": family, "always_project": family == "data2vec"}
        if values.get("layer_type") == "conformer":
            if model.get("attn_type") != "espnet":
                raise _unsupported("attn_type", model.get("attn_type"), "'espnet'")
            for name in ("attention_dropout", "activation_dropout"):  # fairseq's Conformer has one dropout
                values[name] = values.get("dropout", cls.dropout)
        for name in ("normalize", "sample_rate"):
            if task.get(name) is not None:
                values[name] = task[name]
        return cls(**values)

    def to_fairseq(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """``cfg.model`` and ``cfg.task`` of fairseq's wav2vec 2.0; the inverse of :meth:`from_fairseq`."""
        model = {name: value for name, value in dataclasses.asdict(self).items() if name not in _NOT_IN_FAIRSEQ}
        task = {"_name": "audio_pretraining", "data": "", "normalize": self.normalize, "sample_rate": self.sample_rate}
        return {"_name": "wav2vec2", **model}, task


_NOT_IN_MODEL = {"family", "always_project", "apply_mask", "checkpoint_activations",
                 "normalize", "normalize_eps", "sample_rate"}  # fmt: skip
"""Fields that fairseq's configuration of a model has not: said by its name, options of ours, or in the task."""
_NOT_IN_FAIRSEQ = _NOT_IN_MODEL | {
    "encoder_layer_norm",
    "layer_type",
    "pos_enc_type",
    "left_max_position_embeddings",
    "right_max_position_embeddings",
    "depthwise_conv_kernel_size",
    "causal_conv",
    "relative_position_embedding",
    "num_buckets",
    "max_distance",
    "gru_rel_pos",
    "alibi",
}


def parse_conv_layers(expression: str) -> tuple[tuple[int, int, int], ...]:
    """Read fairseq's ``conv_feature_layers`` without evaluating it.

    >>> parse_conv_layers("[(512, 10, 5)] + [(512, 3, 2)] * 2")
    ((512, 10, 5), (512, 3, 2), (512, 3, 2))

    Raises:
        BenchmarkError: for anything but lists of three positive integers, ``+`` and ``* integer``.
    """

    def read(node: ast.expr) -> list[tuple[int, int, int]]:
        match node:
            case ast.List(elts=items):
                return [layer(item) for item in items]
            case ast.BinOp(left=left, op=ast.Add(), right=right):
                return [*read(left), *read(right)]
            case ast.BinOp(left=ast.List() as left, op=ast.Mult(), right=ast.Constant(value=int(times))):
                if not 0 <= times <= 100:
                    raise ValueError(f"* {times}")
                return read(left) * times
        raise ValueError(ast.unparse(node))

    def layer(node: ast.expr) -> tuple[int, int, int]:
        match node:
            case ast.Tuple(elts=items) | ast.List(elts=items) if len(items) == 3:
                numbers = [item.value for item in items if isinstance(item, ast.Constant)]
                if len(numbers) == 3 and all(type(number) is int and 0 < number <= MOST_NUMBER for number in numbers):
                    return numbers[0], numbers[1], numbers[2]  # type: ignore[return-value]
        raise ValueError(ast.unparse(node))

    try:
        layers = read(ast.parse(expression.strip(), mode="eval").body) if len(expression) < 2000 else []
        if not layers:
            raise ValueError("no layer")
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise BenchmarkError(
            f"conv_feature_layers = {expression[:200]!r} cannot be read ({error}); "
            f"expected lists of (dim, kernel_size, stride) with + and *, as in {STANDARD_CONV!r}"
        ) from None
    return tuple(layers)


def _typed(name: str, value: Any, kind: str) -> Any:
    """``value`` as the field's type; command lines and old checkpoints give some numbers as other types."""
    if kind == "float" and isinstance(value, (int, float)) and not isinstance(value, bool):
        return float(value)
    if kind == "int" and isinstance(value, int) and not isinstance(value, bool):
        return int(value)
    if kind == "bool" and isinstance(value, bool):
        return value
    if kind == "str" and isinstance(value, str):
        return str(value)
    if name == "conv_feature_layers" and isinstance(value, (list, tuple)):
        return repr([tuple(layer) if isinstance(layer, (list, tuple)) else layer for layer in value])
    raise BenchmarkError(f"configuration: {name} = {value!r} is a {type(value).__name__}, expected {kind}")


def _unsupported(name: str, value: Any, supported: str) -> BenchmarkError:
    return BenchmarkError(f"configuration: {name} = {value!r} is not supported; supported: {supported}")
