"""The table of published checkpoints, ``cards.yaml``, as objects. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import yaml

FOLDER = Path(__file__).parent


@dataclass(frozen=True, kw_only=True)
class Card:
    """One published checkpoint."""

    name: str
    family: str
    architecture: Mapping[str, Any] = field(default_factory=dict)
    """Fields of ``Wav2Vec2Config`` that the file must agree with."""
    url: str | None = None
    filename: str | None = None
    """What the download is called in the cache, where the last part of the url is ambiguous."""
    sha256: str | None = None
    file: str | None = None
    """A file next to ``cards.yaml``, in place of a url."""
    licence: str | None = None
    paper: str | None = None
    """arXiv number."""
    objective: str
    """What it was pre-trained (and fine-tuned) to do."""
    data: str | None = None
    pretrained_on: tuple[str, ...] = ()
    """Names of the corpora in ``data``, spelt alike on all cards."""
    summary: str
    aliases: tuple[str, ...] = ()


@cache
def read_cards() -> dict[str, Card]:
    """All cards by name, in the file's order."""
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # 10 times as fast, where it is available
    table = yaml.load((FOLDER / "cards.yaml").read_text(encoding="utf-8"), Loader=loader)
    cards = {}
    for name, values in table["cards"].items():
        architecture = {"family": "wav2vec2", **table["families"][values["family"]]}
        if architecture["family"] is None:
            del architecture["family"]
        if "normalize" in values:
            architecture["normalize"] = values.pop("normalize")
        values |= {key: tuple(values.get(key, ())) for key in ("pretrained_on", "aliases")}
        cards[name] = Card(name=name, architecture=architecture, **values)
    return cards
