"""BEST-RQ's Conformer encoder, from what SpeechBrain's recipe saves.

USM (2303.01037) is this method at scale. Its second stage, which matches speech and text, is left out: it takes text
and a text encoder in training, and the benchmark compares what audio alone teaches.

Importing this imports no torch; :func:`load_card` does.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from upstream.bestrq.cards import read_cards
from upstream.cards import info


def load_card(
    *,
    card: str,
    checkpoint: str | Path | None = None,
    random_weights: bool = False,
    dropout: float = 0.0,
    attention_dropout: float = 0.0,
    activation_dropout: float = 0.0,
    encoder_layerdrop: float = 0.0,
    checkpoint_activations: bool = False,
) -> Any:
    """Load the encoder of a card, in evaluation mode; the factory behind the registry's BEST-RQ entries.

    Args:
        card: a name in :func:`upstream.bestrq.cards.read_cards`.
        checkpoint: a local file or folder to read in place of the card's own.
        random_weights: keep the checkpoint's architecture and draw new weights from torch's random state.
        dropout: after the projection, feed-forward layers and convolutions, while training.
        attention_dropout: of attention weights, while training.
        activation_dropout: inside the feed-forward layers, while training.
        encoder_layerdrop: probability of skipping a block, while training.
        checkpoint_activations: recompute blocks in the backward pass: less memory, more time.

    Returns:
        A :class:`~upstream.bestrq.model.BestRQEncoder`.

    Raises:
        BenchmarkError: no file, or one that holds no such encoder.
    """
    from upstream.bestrq.checkpoint import export, load_model
    from upstream.checkpoints import locate
    from upstream.download import sha256_of

    about = read_cards()[card]
    options = {
        "dropout": float(dropout),
        "attention_dropout": float(attention_dropout),
        "activation_dropout": float(activation_dropout),
        "encoder_layerdrop": float(encoder_layerdrop),
        "checkpoint_activations": bool(checkpoint_activations),
    }
    path, _ = locate(about, checkpoint, " -k takes SpeechBrain's output folder")
    model, found = load_model(path, options=options, random_weights=random_weights)
    config = found.config
    model.exports = {"speechbrain": export}
    model.info = info(
        about,
        found.file,
        own=checkpoint is None,
        random_weights=random_weights,
        sha256=lambda: sha256_of(found.file),
        architecture={
            "mels": config.mels,
            "subsampling": model.frame_shift // 160,
            "norm": config.norm,
            "encoder_layers": config.layers,
            "encoder_embed_dim": config.dim,
            "parameters": sum(parameter.numel() for parameter in model.parameters()),
        },
        options=options,
    )
    return model


def missing(*, card: str, checkpoint: str | Path | None = None) -> str | None:
    """What has to be fetched before the encoder of a card can be loaded, and how; ``None`` if its file is there."""
    from upstream import checkpoints

    return checkpoints.missing(read_cards()[card], checkpoint)
