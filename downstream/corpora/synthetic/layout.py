"""What describes a synthetic corpus."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from downstream.corpora.synthetic.recording import Clip
from downstream.corpora.synthetic.sizes import Size

Texts = dict[str, str | bytes]
"""Lists and tables: path relative to the corpus folder -> content; text is written in UTF-8."""


@dataclass(frozen=True)
class Layout:
    """A corpus folder in its official layout."""

    folder: str
    """In the data root, under its publisher's name."""
    corpora: tuple[str, ...]
    """The corpora of :data:`benchmark.registry.corpora` that are read from the folder."""
    fields: tuple[str, ...]
    """Prefixes of the fields of :class:`.sizes.Size` that the folder depends on."""
    plan: Callable[[Size, int], tuple[list[Clip], Texts]]
    """Size and seed -> what lies in the folder."""
