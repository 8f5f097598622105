"""Whisper's encoder, from OpenAI's ``.pt``, a Hugging Face folder or a CTranslate2 folder.

Importing this imports no torch; :func:`load_card` does.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmark.errors import BenchmarkError
from benchmark.registry import suggest
from upstream.cards import differences, info
from upstream.whisper.cards import read_cards


def load_card(
    *,
    card: str,
    checkpoint: str | Path | None = None,
    random_weights: bool = False,
    length: str = "window",
    dropout: float = 0.0,
    attention_dropout: float = 0.0,
    activation_dropout: float = 0.0,
    encoder_layerdrop: float = 0.0,
    checkpoint_activations: bool = False,
) -> Any:
    """Load the encoder of a card, in evaluation mode; the factory behind the registry's Whisper entries.

    Args:
        card: a name in :func:`upstream.whisper.cards.read_cards`.
        checkpoint: a local file or folder to read in place of the card's own.
        random_weights: keep the checkpoint's architecture and draw new weights from torch's random state.
        length: ``window`` or ``valid``, see :mod:`upstream.whisper.model`.
        dropout: after the positions, attention and feed-forward layers, while training.
        attention_dropout: of attention weights, while training.
        activation_dropout: inside the feed-forward layers, while training.
        encoder_layerdrop: probability of skipping a block, while training.
        checkpoint_activations: recompute blocks in the backward pass: less memory, more time.

    Returns:
        A :class:`~upstream.whisper.model.WhisperEncoder`.

    Raises:
        BenchmarkError: no file, a file that holds no Whisper, or one that does not match the card.
    """
    from upstream.checkpoints import locate
    from upstream.download import sha256_of
    from upstream.whisper.checkpoint import load_model
    from upstream.whisper.model import LENGTHS

    about = read_cards()[card]
    if length not in LENGTHS:
        raise BenchmarkError(f"length = {length!r} of '{card}'. " + suggest(str(length), list(LENGTHS)))
    options = {
        "length": length,
        "dropout": float(dropout),
        "attention_dropout": float(attention_dropout),
        "activation_dropout": float(activation_dropout),
        "encoder_layerdrop": float(encoder_layerdrop),
        "checkpoint_activations": bool(checkpoint_activations),
    }

    path, sha256 = locate(about, checkpoint)
    model, found = load_model(path, options=options, random_weights=random_weights)
    config = found.config
    if wrong := differences(about, config):
        raise BenchmarkError(f"{path} is not '{card}': {'; '.join(wrong)}. -u whisper_local -k FILE takes any")
    model.info = info(
        about,
        path,
        own=checkpoint is None,
        random_weights=random_weights,
        sha256=lambda: sha256 or sha256_of(found.file),
        architecture={
            "mels": config.mels,
            "encoder_layers": config.layers,
            "encoder_embed_dim": config.dim,
            "parameters": sum(parameter.numel() for parameter in model.parameters()),
        },
        options=options,
        format=found.format,
        length=length,
    )
    return model


def missing(*, card: str, checkpoint: str | Path | None = None) -> str | None:
    """What has to be fetched before the encoder of a card can be loaded, and how; ``None`` if its file is there."""
    from upstream import checkpoints

    return checkpoints.missing(read_cards()[card], checkpoint)
