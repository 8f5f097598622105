"""Which parameters of the upstream are trained: the regimes that ``benchmark.engine.regime_entries`` lists."""

from __future__ import annotations

from benchmark.config import TuneConfig
from benchmark.errors import BenchmarkError
from benchmark.interfaces import Regime, Upstream


def apply_regime(regime: Regime, upstream: Upstream, tune: TuneConfig) -> None:
    """Set which of the upstream's parameters get gradients.

    Raises:
        BenchmarkError: the upstream has nothing that the regime could train, or PEFT is needed and not installed.
    """
    upstream.requires_grad_(False)
    regime.apply(upstream, tune)
    if regime.trains_upstream and not any(parameter.requires_grad for parameter in upstream.parameters()):
        raise BenchmarkError(
            f"upstream '{_name(upstream)}' has no parameters that {type(regime).__name__} could train; leave it frozen"
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
