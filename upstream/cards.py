"""Cards of published checkpoints, and what ``result.json`` says of a model that was loaded. Imports no torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Card:
    """One published checkpoint."""

    name: str
    family: str
    architecture: Mapping[str, Any] = field(default_factory=dict)
    """Fields of the model's configuration that the file must agree with."""
    url: str | None = None
    """Of a file, or the page of a model of the Hugging Face hub."""
    filename: str | None = None
    """What the download is called in the cache, where the last part of the url is ambiguous."""
    sha256: str | None = None
    file: Path | None = None
    """A file of this package, in place of a url."""
    licence: str | None = None
    paper: str | None = None
    """arXiv number."""
    objective: str
    """What it was pre-trained (and fine-tuned) to do."""
    data: str | None = None
    pretrained_on: tuple[str, ...] = ()
    """Names of the corpora in ``data``, spelt alike on all cards; empty where none are published."""
    summary: str
    aliases: tuple[str, ...] = ()


def info(
    about: Card,
    path: Path,
    *,
    own: bool,
    random_weights: bool,
    sha256: Callable[[], str],
    architecture: Mapping[str, Any],
    options: Mapping[str, Any],
    **more: Any,
) -> dict[str, Any]:
    """A model's :attr:`benchmark.interfaces.Upstream.info`.

    Args:
        about: its card.
        path: the file or folder that was read.
        own: whether that was found by the card. What the card says of licence and data holds of no other file, unless
            its hash is the card's.
        random_weights: whether only the architecture was taken from it.
        sha256: computes that of what was read.
        architecture: what to say of it.
        options: those that the model was loaded with.
        more: further fields.
    """
    from upstream import hub  # listing cards asks no server

    digest = None if random_weights else sha256()
    own = own or (digest is not None and digest == about.sha256)
    return {
        "name": about.name,
        "checkpoint": str(path),
        "sha256": digest,
        "random_weights": random_weights,
        **more,
        "architecture": {"family": about.family, **architecture},
        "licence": about.licence if own else None,
        "url": about.url if own else None,
        **hub.provenance(path),
        "paper": about.paper,
        "objective": about.objective,
        "data": about.data if own and not random_weights else None,
        "pretrained_on": list(about.pretrained_on) if own and not random_weights else [],
        "options": dict(options),
    }


def differences(about: Card, config: Any) -> list[str]:
    """Where a configuration is not the card's, in words."""
    return [
        f"{name} is {getattr(config, name)!r}, the card says {value!r}"
        for name, value in about.architecture.items()
        if getattr(config, name) != value
    ]
