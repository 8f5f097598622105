"""The table of published encoders. Imports no torch."""

from __future__ import annotations

from functools import cache
from typing import Any

from upstream.cards import Card

PAPER = "2212.04356"
"""arXiv number."""
URL = "https://openaipublic.azureedge.net/main/whisper/models/{sha256}/{name}.pt"
"""Where OpenAI publishes a model; the hash is that of the file. Names, urls: openai-whisper 20250625, MIT licence."""

_SIZES = {
    "tiny": {"mels": 80, "dim": 384, "layers": 4, "heads": 6},
    "base": {"mels": 80, "dim": 512, "layers": 6, "heads": 8},
    "small": {"mels": 80, "dim": 768, "layers": 12, "heads": 12},
    "medium": {"mels": 80, "dim": 1024, "layers": 24, "heads": 16},
    "large": {"mels": 80, "dim": 1280, "layers": 32, "heads": 20},
    "large-v3": {"mels": 128, "dim": 1280, "layers": 32, "heads": 20},
}

_ENGLISH = "438,000 hours of English from the web with transcripts"
_MULTILINGUAL = "680,000 hours from the web with transcripts, 97 languages"
_V3 = "1 million hours from the web with transcripts, 4 million transcribed by Whisper large-v2"

_PUBLISHED = {
    "tiny.en": ("tiny", _ENGLISH, "d3dd57d32accea0b295c96e26691aa14d8822fac7d9d27d5dc00b4ca2826dd03"),
    "tiny": ("tiny", _MULTILINGUAL, "65147644a518d12f04e32d6f3b26facc3f8dd46e5390956a9424a650c0ce22b9"),
    "base.en": ("base", _ENGLISH, "25a8566e1d0c1e2231d1c762132cd20e0f96a85d16145c3a00adf5d1ac670ead"),
    "base": ("base", _MULTILINGUAL, "ed3a0b6b1c0edf879ad9b11b1af5a0e6ab5db9205f891f668f8b0e6c6326e34e"),
    "small.en": ("small", _ENGLISH, "f953ad0fd29cacd07d5a9eda5624af0f6bcf2258be67c92b79389873d91e0872"),
    "small": ("small", _MULTILINGUAL, "9ecf779972d90ba49c06d968637d720dd632c55bbf19d441fb42bf17a411e794"),
    "medium.en": ("medium", _ENGLISH, "d7440d1dc186f76616474e0ff0b3b6b879abc9d1a4926b7adfa41db2d497ab4f"),
    "medium": ("medium", _MULTILINGUAL, "345ae4da62f9b3d59415adc60127b97c714f32e89e936602e85993674d08dcb1"),
    "large-v1": ("large", _MULTILINGUAL, "e4b87e7e0bf463eb8e6956e646f1e277e901512310def2c24bf0e11bd3c28e9a"),
    "large-v2": ("large", _MULTILINGUAL, "81f7c96c852ee8fc832187b0132e569d6c3065a3252ed18e56effd0b6a73e524"),
    "large-v3": ("large-v3", _V3, "e5b1a55b89c1367dacf97e3e19bfd829a01529dbfdeefa8caeb59b3f1b81dadb"),
    "large-v3-turbo": ("large-v3", _V3, "aff26ae408abcba5fbf8813c21e62b0941638c5f6eebfb145be0c9839262a19a"),
}
"""OpenAI's name -> size, training data, sha256 of the file."""

_COMMON: dict[str, Any] = {
    "family": "whisper",
    "paper": PAPER,
    "objective": "transcription and translation, supervised",
}
"""What all cards say. ``pretrained_on`` is empty: OpenAI names no corpus, only what ``data`` says as the paper does."""
_ALIASES = {"large-v3": ("whisper_large",), "large-v3-turbo": ("whisper_turbo",)}


@cache
def read_cards() -> dict[str, Card]:
    """All cards by name."""
    cards = {
        "whisper_local": Card(
            name="whisper_local",
            **_COMMON,
            summary="the encoder of any Whisper, from -k: OpenAI's .pt, a Hugging Face or CTranslate2 folder",
        )
    }
    for published, (size, data, sha256) in _PUBLISHED.items():
        name = "whisper_" + published.replace(".", "_").replace("-", "_")
        cards[name] = Card(
            name=name,
            **_COMMON,
            architecture={**_SIZES[size], "ffn": 4 * _SIZES[size]["dim"], "positions": 1500},
            url=URL.format(sha256=sha256, name=published),
            filename=f"{name}.pt",
            sha256=sha256,
            licence="MIT",
            data=data,
            summary=f"encoder of Whisper {published}, {'English' if data == _ENGLISH else 'multilingual'}",
            aliases=_ALIASES.get(published, ()),
        )
    return cards
