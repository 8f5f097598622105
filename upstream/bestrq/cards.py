"""The table of encoders. Imports no torch.

SpeechBrain publishes the recipe; no published checkpoint is known to us, so that there is nothing to download.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from upstream.cards import Card

FOLDER = Path(__file__).parent
PAPER = "2202.01855"
"""arXiv number; several codebooks: USM, 2303.01037."""


_COMMON: dict[str, Any] = {
    "family": "bestrq",
    "paper": PAPER,
    "objective": "masked prediction of random-projection codes (BEST-RQ)",
}
"""What all cards say."""


@cache
def read_cards() -> dict[str, Card]:
    """All cards by name."""
    cards = (
        Card(
            name="bestrq",
            **_COMMON,
            aliases=("bestrq_local",),
            summary="any BEST-RQ encoder of SpeechBrain's recipe, from -k FOLDER",
        ),
        Card(
            name="bestrq_tiny",
            **_COMMON,
            file=FOLDER / "bestrq_tiny.pt",
            licence="Apache-2.0",
            data="synthetic speech of this project, 11.8 h; human speech of Debian's archive, 4.9 h",
            pretrained_on=("DebianSpeech",),
            summary="small bundled Conformer on log mels for demos and tests",
        ),
    )
    return {card.name: card for card in cards}
