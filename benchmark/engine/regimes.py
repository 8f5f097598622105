"""Which parameters of the upstream are trained: the regimes that ``benchmark.engine.regime_entries`` lists."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from benchmark.config import TuneConfig
from benchmark.errors import BenchmarkError
from benchmark.interfaces import Regime, Upstream


def apply_regime(regime: Regime, upstream: Upstream, tune: TuneConfig) -> None:
    """Set which of the upstream's parameters get gradients.

    Raises:
        BenchmarkError: the upstream has nothing that the regime could train, or PEFT is needed and not installed.
    """
    if regime.trains_upstream and not upstream.trainable:
        raise BenchmarkError(
            f"upstream '{_name(upstream)}' cannot be trained as it was loaded: leave it frozen, or leave stream out"
        )
    upstream.requires_grad_(False)
    regime.apply(upstream, tune)
    if regime.trains_upstream and not any(parameter.requires_grad for parameter in upstream.parameters()):
        raise BenchmarkError(
            f"upstream '{_name(upstream)}' has no parameters that this regime could train; leave it frozen"
        )


def _name(upstream: Upstream) -> str:
    return str(getattr(upstream, "info", {}).get("name", type(upstream).__name__))


class Frozen(Regime):
    """The upstream is fixed; the head sees the learned weighted sum over layers."""

    trains_upstream = False

    def apply(self, upstream: Upstream, tune: TuneConfig) -> None:
        """Leave everything without gradient."""


class SingleLayerRegime(Frozen):
    """The upstream is fixed; the head sees one layer."""

    single_layer = True


class Partial(Regime):
    """The last ``tune.top_blocks`` transformer blocks are trained."""

    def check(self, tune: TuneConfig) -> None:
        """``tune.top_blocks`` must be given."""
        if tune.top_blocks is None:
            raise BenchmarkError("regime 'partial' needs --top-blocks K (tune.top_blocks): how many blocks are trained")

    def apply(self, upstream: Upstream, tune: TuneConfig) -> None:
        """Give the last blocks gradients."""
        count = tune.top_blocks or 0
        if count > len(upstream.blocks):
            raise BenchmarkError(
                f"tune.top_blocks is {count}, but upstream '{_name(upstream)}' has {len(upstream.blocks)} transformer "
                "blocks"
            )
        for block in upstream.blocks[-count:]:
            block.requires_grad_(True)


class Finetune(Regime):
    """All of the upstream is trained; the convolutional extractor only with ``tune.extractor``."""

    def apply(self, upstream: Upstream, tune: TuneConfig) -> None:
        """Give everything but the extractor gradients."""
        upstream.requires_grad_(True)
        if upstream.extractor is not None:
            upstream.extractor.requires_grad_(tune.extractor)


class BitFit(Regime):
    """The biases of the transformer blocks are trained (Ben Zaken, Ravfogel and Goldberg, ACL 2022)."""

    def apply(self, upstream: Upstream, tune: TuneConfig) -> None:
        """Give the biases gradients, those of LayerNorms too."""
        for block in upstream.blocks:
            for name, parameter in block.named_parameters():
                parameter.requires_grad_(name.rpartition(".")[2] == "bias")


class Adapter(nn.Module):
    """A linear layer followed by a bottleneck with a residual connection, which begins as nothing."""

    def __init__(self, linear: nn.Linear, size: int) -> None:
        super().__init__()
        self.linear = linear
        self.down = nn.Linear(linear.out_features, size, device=linear.weight.device, dtype=linear.weight.dtype)
        self.up = nn.Linear(size, linear.out_features, device=linear.weight.device, dtype=linear.weight.dtype)
        nn.init.normal_(self.down.weight, std=1e-2)
        nn.init.zeros_(self.down.bias)
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)

    def forward(self, x: Tensor) -> Tensor:
        """(…, in) -> (…, out)."""
        y: Tensor = self.linear(x)
        return y + cast(Tensor, self.up(nn.functional.gelu(self.down(y))))


class Houlsby(Regime):
    """Bottleneck adapters in each transformer block, and its LayerNorms, are trained (Houlsby et al., ICML 2019)."""

    def apply(self, upstream: Upstream, tune: TuneConfig) -> None:
        """Put an adapter behind the linear layers that ``tune.adapter_targets`` names."""
        count = 0
        for block in upstream.blocks:
            for name, module in list(block.named_modules()):
                if isinstance(module, nn.LayerNorm):
                    module.requires_grad_(True)
                parent, _, attribute = name.rpartition(".")
                if isinstance(module, nn.Linear) and attribute in tune.adapter_targets:
                    setattr(block.get_submodule(parent), attribute, Adapter(module, tune.adapter_size))
                    count += 1
        if not count:
            raise BenchmarkError(
                f"tune.adapter_targets {list(tune.adapter_targets)}: the blocks of upstream '{_name(upstream)}' "
                "have no linear layers of these names"
            )

    def merge(self, upstream: Upstream) -> None:
        """An adapter is no linear map: it cannot be merged."""
        raise BenchmarkError(
            "an upstream with Houlsby adapters cannot be exported: other libraries have no place for them"
        )


class KeysAndValues(nn.Module):
    """Keys and values of an attention layer that depend on nothing.

    Args:
        length: how many.
        heads: of the attention.
        like: its projection to keys: for sizes, type and device.
    """

    def __init__(self, length: int, heads: int, like: nn.Linear) -> None:
        super().__init__()
        shape, weight = (length, heads, like.out_features // heads), like.weight
        self.keys = nn.Parameter(torch.empty(shape, device=weight.device, dtype=weight.dtype))
        self.values = nn.Parameter(torch.empty(shape, device=weight.device, dtype=weight.dtype))
        nn.init.normal_(self.keys, std=0.02)
        nn.init.normal_(self.values, std=0.02)

    def forward(self, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Both, (place, head, dim / head)."""
        return self.keys.to(dtype), self.values.to(dtype)


class Prefix(Regime):
    """Keys and values that each attention layer has beside those of the frames are trained (Li and Liang: Prefix-
    Tuning, ACL 2021, 2101.00190), by themselves: without the network that makes them there while training.

    Attention that can take them has an attribute ``prefix``, ``None`` until then, beside ``heads`` and ``k_proj``.
    """

    def apply(self, upstream: Upstream, tune: TuneConfig) -> None:
        """Give each attention layer ``tune.prefix_length`` keys and values."""
        taking = [module for block in upstream.blocks for module in block.modules() if hasattr(module, "prefix")]
        if not taking:
            raise BenchmarkError(
                f"regime 'prefix': the attention of upstream '{_name(upstream)}' takes no further keys and values "
                "(Conformers' does not, nor that of upstreams of other libraries); choose another regime"
            )
        for attention in taking:
            heads, like = cast(int, attention.heads), cast(nn.Linear, attention.k_proj)
            attention.prefix = KeysAndValues(tune.prefix_length, heads, like)

    def merge(self, upstream: Upstream) -> None:
        """Keys and values are no part of any layer's weights."""
        raise BenchmarkError("an upstream with prefixes cannot be exported: other libraries have no place for them")


class LoRA(Regime):
    """Low-rank adapters are trained (Hu et al., 2021), by PEFT."""

    def apply(self, upstream: Upstream, tune: TuneConfig) -> None:
        """Add adapters to the linear layers that ``tune.lora_targets`` names."""
        try:
            from peft import LoraConfig, inject_adapter_in_model
        except ImportError as error:
            raise BenchmarkError("regime 'lora' needs PEFT: pip install -e '.[lora]'") from error
        config = LoraConfig(
            r=tune.lora_rank,
            lora_alpha=tune.lora_alpha,  # PEFT divides by the rank; a float is as good
            lora_dropout=tune.lora_dropout,
            target_modules=list(tune.lora_targets),
            bias="none",
        )
        try:
            inject_adapter_in_model(config, upstream)
        except ValueError as error:  # no layer of these names
            raise BenchmarkError(f"tune.lora_targets {list(tune.lora_targets)}: {error}") from error

    def merge(self, upstream: Upstream) -> None:
        """Add what the adapters have learned to the weights that they adapt, and remove the adapters."""
        from peft.tuners.tuners_utils import BaseTunerLayer

        for name, module in list(upstream.named_modules()):
            if isinstance(module, BaseTunerLayer):
                module.merge(safe_merge=True)
                parent, _, attribute = name.rpartition(".")
                setattr(upstream.get_submodule(parent), attribute, module.get_base_layer())
