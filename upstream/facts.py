"""What cards say of upstreams, beside what their architectures add up to; no weights are read."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def wav2vec2(*, card: str) -> dict[str, Any]:
    """Of a card of :mod:`upstream.wav2vec2.cards`."""
    from upstream.wav2vec2 import load_card
    from upstream.wav2vec2.cards import read_cards

    about = read_cards()[card]
    known = {"licence": about.licence, "data": about.data}
    if about.file is not None:  # small, and part of this package
        return known | _sizes(lambda: load_card(card=card))
    if "encoder_layers" not in about.architecture:
        return known
    architecture = {name: value for name, value in about.architecture.items() if value is not None}

    def make() -> Any:
        from upstream.wav2vec2.config import Wav2Vec2Config
        from upstream.wav2vec2.model import Wav2Vec2Model

        return Wav2Vec2Model(Wav2Vec2Config(**architecture))

    complete = "encoder_ffn_embed_dim" in architecture  # else only the published sizes are known
    return known | _sizes(make, parameters=complete)


def whisper(*, card: str) -> dict[str, Any]:
    """Of a card of :mod:`upstream.whisper.cards`."""
    from upstream.whisper.cards import read_cards

    about = read_cards()[card]
    known = {"licence": about.licence, "data": about.data}
    architecture: dict[str, Any] = dict(about.architecture)

    def make() -> Any:
        from upstream.whisper.model import WhisperConfig, WhisperEncoder

        return WhisperEncoder(WhisperConfig(**architecture))

    return known | _sizes(make) if architecture else known


def bestrq(*, card: str) -> dict[str, Any]:
    """Of a card of :mod:`upstream.bestrq.cards`."""
    from upstream.bestrq import load_card
    from upstream.bestrq.cards import read_cards

    about = read_cards()[card]
    known = {"licence": about.licence, "data": about.data}
    return known if about.file is None else known | _sizes(lambda: load_card(card=card))


def _sizes(make: Callable[[], Any], *, parameters: bool = True) -> dict[str, Any]:
    """Of a model whose numbers are not allocated."""
    import torch

    with torch.device("meta"):
        model = make()
    sizes = {name: getattr(model, name) for name in ("num_states", "hidden_size", "sample_rate", "frame_shift")}
    count = sum(parameter.numel() for parameter in model.parameters())
    return sizes | ({"parameters": count} if parameters else {})
