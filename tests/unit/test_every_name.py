"""Every name of ``wavbench list`` loads without network, from a file of its own format at the place where it is looked
for; or the listing says what it needs.

Published models are too large for this: their cards are scaled down, and everything else is as it is.
"""

from __future__ import annotations

import urllib.request
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import upstream_files
import whisper_files
from test_upstream_wav2vec2 import CONV

from benchmark.commands.list import listing
from benchmark.engine.conformance import examine
from benchmark.registry import upstreams
from upstream import download, hub, load_upstream
from upstream.cards import Card
from upstream.wav2vec2.cards import read_cards
from upstream.wav2vec2.config import Wav2Vec2Config
from upstream.wav2vec2.model import Wav2Vec2Model
from upstream.whisper.cards import read_cards as read_whisper_cards

SMALL: dict[str, Any] = {"encoder_layers": 2, "encoder_embed_dim": 32, "encoder_ffn_embed_dim": 48, "conv_pos": 15,
                         "encoder_attention_heads": 16, "depthwise_conv_kernel_size": 3}  # fmt: skip
REST: dict[str, Any] = {"conv_feature_layers": CONV, "conv_pos_groups": 4}
"""What cards do not say."""
SMALL_WHISPER = {"mels": 80, "dim": 32, "layers": 3, "heads": 4, "ffn": 128, "positions": whisper_files.POSITIONS}
NEED_A_SOURCE = ("s3prl", "xares")
"""Adapters of other libraries' encoders."""
NEED_A_FILE = {"hf": "wav2vec2", "wav2vec2_local": "wav2vec2", "hubert_local": "hubert", "wavlm_local": "wavlm",
               "data2vec_local": "data2vec", "data2vec2_local": "data2vec2", "w2v_bert_local": "w2v_bert",
               "whisper_local": "whisper", "bestrq": "bestrq", "hf_auto": "transformers"}  # fmt: skip
"""Names for files of one's own -> the family of the file."""
ELSEWHERE = ("bestrq", "hf_auto")
"""Whose files are loaded in ``test_bestrq.py`` and ``test_transformers_adapter.py``."""

pytestmark = pytest.mark.medium

CARDS = read_cards()
NAMES = [entry.name for entry in upstreams if entry.origin == "built in"]


def scaled(card: Card) -> Card:
    """The same in all but sizes."""
    return replace(card, architecture={name: SMALL.get(name, value) for name, value in card.architecture.items()})


def make(card: Card) -> Wav2Vec2Model:
    torch.manual_seed(0)
    said = {name: value for name, value in card.architecture.items() if value is not None}
    kind = {"pos_enc_type": "rel_pos"} if said.get("layer_type") == "conformer" else {}
    deep = {"pos_conv_depth": 2, "extractor_mode": "layer_norm", "always_project": True}
    kind |= deep if str(said.get("family")).startswith("data2vec") else {}
    config = {**SMALL, **REST, **kind, **said}
    if config.get("relative_position_embedding") is None and said.get("family") == "wavlm":
        config |= {"relative_position_embedding": True, "gru_rel_pos": True, "max_distance": 800}
    return Wav2Vec2Model(Wav2Vec2Config(**config))


def write(card: Card, path: Path) -> None:
    """The file that a card is of, in the format in which it is published."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if card.family == "whisper":
        torch.save(whisper_files.openai_state(whisper_files.whisper_model()), path)
    elif card.name.startswith("omnilingual"):
        upstream_files.save_fairseq2(make(card), path)
    else:
        upstream_files.save(make(card), path, fine_tuned=card.objective.endswith("then CTC"))


def published_at(card: Card) -> Path:
    """Where its file is looked for."""
    if (name := hub.name_of(card.url)) is None:
        return download.place(str(card.url), card.filename)
    folder = hub._own() / f"models--{name.replace('/', '--')}"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text("0" * 40)
    return folder / "snapshots" / ("0" * 40)


@pytest.fixture
def cards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Card]:
    """All cards, scaled down; no network, and an empty cache."""

    def nothing(*_: Any, **__: Any) -> None:
        raise AssertionError("no network")

    monkeypatch.setattr(urllib.request, "urlopen", nothing)
    monkeypatch.setenv("BENCHMARK_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    monkeypatch.delenv("HF_HUB_CACHE", raising=False)
    own = {name: card if card.file else scaled(card) for name, card in CARDS.items()}
    whisper = {
        name: replace(card, architecture=SMALL_WHISPER if card.url else {}, sha256=None)
        for name, card in read_whisper_cards().items()
    }
    monkeypatch.setattr("upstream.wav2vec2.read_cards", lambda: own)
    monkeypatch.setattr("upstream.whisper.read_cards", lambda: whisper)
    return own | whisper


def works(model: Any) -> None:
    with torch.no_grad():
        states = model([0.1 * torch.randn(5000)]).states
    assert len(states) == model.num_states
    assert all(state.isfinite().all() and state.shape[2] == model.hidden_size for state in states)


@pytest.mark.parametrize("name", [name for name in NAMES if name not in (*NEED_A_SOURCE, *NEED_A_FILE)])
def test_a_published_model(name: str, cards: dict[str, Card]) -> None:
    card = cards.get(name)
    if card is None or card.url is None:  # bundled, or without a file
        assert upstreams.get(name).missing(None) is None
        return works(load_upstream(name))
    assert upstreams.get(name).missing(None) is not None
    path = published_at(card)
    write(card, path)
    assert upstreams.get(name).missing(None) is None
    model = load_upstream(name)
    assert model.info["checkpoint"] == str(path)
    assert model.info["pretrained_on"] == list(card.pretrained_on)
    assert model.info["licence"] == card.licence
    return works(model)


@pytest.mark.parametrize("name", [name for name in NEED_A_FILE if name not in ELSEWHERE])
def test_a_file_of_ones_own(name: str, cards: dict[str, Card], tmp_path: Path) -> None:
    assert f"'{name}' needs a checkpoint too: give it with -k FILE" in str(upstreams.get(name).missing(None))
    family = NEED_A_FILE[name]
    card = cards[{"whisper": "whisper_tiny", "w2v_bert": "w2v_bert_2"}.get(family, f"{family}_local")]
    path = tmp_path / "file"
    upstream_files.save_folder(make(card), path) if name == "hf" else write(card, path)
    model = load_upstream(name, checkpoint=path)
    assert model.info["pretrained_on"] == []
    works(model)


def test_the_listing_says_what_others_need() -> None:
    """One line each, with what is to be given."""
    lines = {line.split()[0]: line for line in listing().splitlines() if line.strip()}
    for name in NEED_A_FILE:
        assert "from -k" in lines[name]
    for name in NEED_A_SOURCE:
        assert "-o upstream.options.source=" in lines[name]
        assert "-o upstream.options.source=" in str(upstreams.get(name).missing(None))


@pytest.mark.parametrize("name", ["wav2vec2_conformer_relpos", "data2vec2_large", "w2v_bert_2"])
def test_promises(name: str) -> None:
    """``check-upstream`` finds nothing wrong, and leaves the model as it was: BatchNorm counts in training mode."""
    model = make(scaled(CARDS[name])).eval()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    findings = examine(model)
    assert not [finding for finding in findings if finding.outcome == "wrong"]
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
