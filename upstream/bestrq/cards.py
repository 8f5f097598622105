"""The table of encoders. Imports no torch.

SpeechBrain publishes the recipe; no published checkpoint is known to us, so that there is nothing to download.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path

FOLDER = Path(__file__).parent
PAPER = "2202.01855"
"""arXiv number; several codebooks: USM, 2303.01037."""


@dataclass(frozen=True, kw_only=True)
class Card:
    """One encoder."""

    name: str
    file: str | None = None
    """A file next to this module."""
    url: str | None = None
    filename: str | None = None
    sha256: str | None = None
    licence: str | None = None
    objective: str = "masked prediction of random-projection codes (BEST-RQ)"
    data: str | None = None
    pretrained_on: tuple[str, ...] = ()
    """Names of the corpora in ``data``, spelt as on wav2vec 2.0's cards."""
    summary: str
    aliases: tuple[str, ...] = ()


@cache
def read_cards() -> dict[str, Card]:
    """All cards by name."""
    cards = (
        Card(
            name="bestrq",
            aliases=("bestrq_local",),
            summary="any BEST-RQ encoder of SpeechBrain's recipe, from -k FOLDER",
        ),
        Card(
            name="bestrq_tiny",
            file="bestrq_tiny.pt",
            licence="Apache-2.0",
            data="synthetic speech of this project, 11.8 h; human speech of Debian's archive, 4.9 h",
            pretrained_on=("DebianSpeech",),
            summary="small bundled Conformer on log mels for demos and tests",
        ),
    )
    return {card.name: card for card in cards}
