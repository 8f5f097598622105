"""Waveform -> hidden states. Importing this imports no torch.

A new upstream is a module with a class (:class:`benchmark.interfaces.Upstream`) or a function that returns one, and a
line in :data:`TABLE`; a new fairseq checkpoint is a card in ``wav2vec2/cards.yaml``.
"""

from __future__ import annotations

from collections.abc import Iterable

from benchmark.registry import Entry, list_upstreams, load_upstream
from upstream.bestrq.cards import read_cards as read_bestrq_cards
from upstream.wav2vec2.cards import read_cards
from upstream.whisper.cards import read_cards as read_whisper_cards

__all__ = ["entries", "list_upstreams", "load_upstream"]

TABLE = (
    Entry("fbank", "upstream.fbank:Fbank", "log mel filterbank with deltas, no checkpoint"),
    Entry(
        "s3prl",
        "upstream.adapters.s3prl:S3prl",
        "any upstream of s3prl, from -o upstream.options.source=…",
        needs="upstream.adapters:needs_source",
    ),
    Entry(
        "hf_auto",
        "upstream.adapters.transformers:Transformers",
        "any speech encoder of transformers that is not read natively, from -k FOLDER or owner/name",
        needs="upstream.adapters.transformers:missing",
    ),
    Entry(
        "xares",
        "upstream.adapters.xares:Xares",
        "any encoder of XARES, from -o upstream.options.source=…",
        needs="upstream.adapters:needs_source",
    ),
)
"""Upstreams without a card."""


def entries() -> Iterable[Entry]:
    """The project's own upstreams, for :data:`benchmark.registry.upstreams`."""
    yield from TABLE
    for card in read_cards().values():
        yield Entry(
            card.name,
            "upstream.wav2vec2:load_card",
            card.summary,
            card.aliases,
            kwargs={"card": card.name},
            needs="upstream.wav2vec2:missing",
            about="upstream.facts:wav2vec2",
        )
    for about in read_whisper_cards().values():
        yield Entry(
            about.name,
            "upstream.whisper:load_card",
            about.summary,
            about.aliases,
            kwargs={"card": about.name},
            needs="upstream.whisper:missing",
            about="upstream.facts:whisper",
        )
    for encoder in read_bestrq_cards().values():
        yield Entry(
            encoder.name,
            "upstream.bestrq:load_card",
            encoder.summary,
            encoder.aliases,
            kwargs={"card": encoder.name},
            needs="upstream.bestrq:missing",
            about="upstream.facts:bestrq",
        )
