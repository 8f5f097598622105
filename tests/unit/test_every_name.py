"""Every name of ``wavbench list`` loads without network, from a file of its own format at the place where it is looked
for; or the listing says what it needs.

Published models are too large for this: their cards are scaled down, and everything else is as it is.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from every_upstream import NAMES, NEED_A_FILE, SOURCES, check, load, offline, published_at, write

from benchmark.commands.list import listing
from benchmark.registry import upstreams
from upstream import download, load_upstream
from upstream.cards import Card

pytestmark = pytest.mark.medium


@pytest.fixture
def cards(tmp_path: Path) -> Iterator[dict[str, Card]]:
    """All cards, scaled down; no network, and an empty cache."""
    with offline(tmp_path) as found:
        yield found


def works(model: Any) -> None:
    with torch.no_grad():
        states = model([0.1 * torch.randn(5000)]).states
    assert len(states) == model.num_states
    assert all(state.isfinite().all() and state.shape[2] == model.hidden_size for state in states)


@pytest.mark.parametrize("name", [name for name in NAMES if name not in (*SOURCES, *NEED_A_FILE)])
def test_a_published_model(name: str, cards: dict[str, Card], tmp_path: Path) -> None:
    card = cards.get(name)
    bundled = card is None or card.url is None
    assert (upstreams.get(name).missing(None) is None) == bundled
    model, _ = load(name, cards, tmp_path)
    assert upstreams.get(name).missing(None) is None
    if card is not None and not bundled:
        assert model.info["checkpoint"] == str(published_at(card))
        assert model.info["pretrained_on"] == list(card.pretrained_on)
        assert model.info["licence"] == card.licence
    works(model)


@pytest.mark.parametrize("name", [*NEED_A_FILE, *SOURCES])
def test_a_file_of_ones_own(name: str, cards: dict[str, Card], tmp_path: Path) -> None:
    needed = str(upstreams.get(name).missing(None))
    if name in SOURCES:
        assert "-o upstream.options.source=" in needed
    else:
        assert f"'{name}' needs a checkpoint too: give it with -k FILE" in needed or name == "hf_auto"
    model, _ = load(name, cards, tmp_path)
    assert model.info.get("pretrained_on", []) == []
    works(model)


def test_a_cards_file_given_by_hand(cards: dict[str, Card], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the card says of its data holds of it, and of no other file."""
    card = cards["wav2vec2_base"]
    write(card, path := tmp_path / "file.pt")
    for sha256, data in ((download.sha256_of(path), ["LibriSpeech"]), ("0" * 64, []), (None, [])):
        monkeypatch.setattr("upstream.wav2vec2.read_cards", lambda s=sha256: {card.name: replace(card, sha256=s)})
        assert load_upstream(card.name, checkpoint=path).info["pretrained_on"] == data
        drawn = load_upstream(card.name, checkpoint=path, random_weights=True)
        assert drawn.info["pretrained_on"] == []


def test_the_listing_says_what_others_need() -> None:
    """One line each, with what is to be given."""
    lines = {line.split()[0]: line for line in listing().splitlines() if line.strip()}
    for name in NEED_A_FILE:
        assert "from -k" in lines[name]
    for name in SOURCES:
        assert "-o upstream.options.source=" in lines[name]
        assert "-o upstream.options.source=" in str(upstreams.get(name).missing(None))


@pytest.mark.slow
def test_promises(tmp_path: Path) -> None:
    """``check-upstream`` finds nothing wrong with any name."""
    rows = check(tmp_path)
    assert {name for row in rows for name in row.names} >= set(NAMES)
    assert {row.names[0]: row.wrong for row in rows if row.wrong} == {}
    assert all(row.kept >= 10 for row in rows)
