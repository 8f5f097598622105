"""One run: from its configuration to its result."""

from __future__ import annotations

from benchmark.registry import Entry

_REGIMES = (
    ("frozen", "Frozen", "the upstream is fixed; head and layer weights are trained (SUPERB)", ()),
    ("single_layer", "SingleLayerRegime", "the upstream is fixed; the head is trained on one layer (-l K)", ("probe",)),
    ("partial", "Partial", "the last tune.top_blocks transformer blocks are trained too (--top-blocks K)", ()),
    ("finetune", "Finetune", "everything is trained, the convolutional extractor only with tune.extractor (-f)", ()),
    ("bitfit", "BitFit", "the biases of the transformer blocks are trained (Ben Zaken et al., 2022)", ()),
    ("houlsby", "Houlsby", "bottleneck adapters within the blocks are trained (Houlsby et al., 2019)", ("adapters",)),
    ("prefix", "Prefix", "keys and values before those of the frames are trained (Li and Liang, 2021)", ()),
    ("lora", "LoRA", "low-rank adapters of the attention are trained (Hu et al., 2021), by PEFT", ()),
)


def regime_entries() -> list[Entry]:
    """The project's own regimes, for :data:`benchmark.registry.regimes`."""
    return [
        Entry(name, f"benchmark.engine.regimes:{attribute}", summary, aliases)
        for name, attribute, summary, aliases in _REGIMES
    ]
