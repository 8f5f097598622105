"""wav2vec 2.0 and the families with its architecture: one native model with fairseq's parameter names, and its readers.

Importing this imports no torch; :func:`load_card` does.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from benchmark.errors import BenchmarkError
from benchmark.registry import suggest
from upstream.cards import differences, info
from upstream.wav2vec2.cards import read_cards

OPTIONS = (
    "dropout", "attention_dropout", "activation_dropout", "dropout_input", "encoder_layerdrop", "feature_grad_mult",
    "apply_mask", "mask_prob", "mask_length", "mask_channel_prob", "mask_channel_length",
    "checkpoint_activations",
)  # fmt: skip
"""Fields of ``Wav2Vec2Config`` that may be changed when a model is loaded: those that matter during training."""


def load_card(
    *,
    card: str,
    checkpoint: str | Path | None = None,
    random_weights: bool = False,
    stream: bool = False,
    **options: Any,
) -> Any:
    """Load the model of a card, in evaluation mode; the factory behind the registry's entries.

    Args:
        card: a name in ``cards.yaml``.
        checkpoint: a local file or Hugging Face folder to read in place of the card's own.
        random_weights: keep the checkpoint's architecture and draw new weights from torch's random state, as a
            baseline for the pre-trained model.
        stream: leave the transformer blocks in the file, and read them one at a time at each pass: for a model that is
            larger than the memory, and stays as it is.
        options: values for training, see :data:`OPTIONS`.

    Returns:
        A :class:`~upstream.wav2vec2.model.Wav2Vec2Model`.

    Raises:
        BenchmarkError: no file, a file that no reader knows, or one that does not match the card.
    """
    from upstream.checkpoints import locate
    from upstream.wav2vec2.checkpoint import load_model
    from upstream.wav2vec2.export import exports

    about = read_cards()[card]
    if stream and random_weights:
        raise BenchmarkError(
            f"'{card}' with random weights has none in a file that could be streamed; leave stream out"
        )
    for option in options:
        if option not in OPTIONS:
            raise BenchmarkError(
                f"'{card}' has no option '{option}'. " + suggest(option, ["random_weights", "stream", *OPTIONS])
            )

    hint = ". A model of the Hugging Face hub is given as owner/name" if card == "hf" else ""
    path, sha256 = locate(about, checkpoint, hint)
    model = load_model(path, options=options, random_weights=random_weights, stream=stream)
    config = model.config
    if wrong := differences(about, config):
        raise BenchmarkError(
            f"{path} is not '{card}': {'; '.join(wrong)}. -u {config.family}_local -k FILE takes any checkpoint of its "
            "kind"
        )
    model.exports = exports(config)
    model.info = info(
        about,
        path,
        own=checkpoint is None,
        random_weights=random_weights,
        sha256=lambda: sha256 or _digest(path),
        architecture={
            "method": config.family,
            "extractor_mode": config.extractor_mode,
            "layer_norm_first": config.layer_norm_first,
            "encoder_layers": config.encoder_layers,
            "encoder_embed_dim": config.encoder_embed_dim,
            "normalize": config.normalize,
            "parameters": model.parameter_count(),
        },
        options=options,
    )
    return model


def missing(*, card: str, checkpoint: str | Path | None = None) -> str | None:
    """What has to be fetched before the model of a card can be loaded, and how; ``None`` if its file is there."""
    from upstream import checkpoints

    return checkpoints.missing(read_cards()[card], checkpoint)


def _digest(path: Path) -> str:
    """SHA-256 of a file; of a folder, that of the lines ``<sha256>  <name>`` of the files that are read."""
    from upstream.download import sha256_of
    from upstream.readers import huggingface

    if not path.is_dir():
        return sha256_of(path)
    lines = "".join(f"{sha256_of(file)}  {file.name}\n" for file in huggingface.files(path))
    return hashlib.sha256(lines.encode()).hexdigest()
