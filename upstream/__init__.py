"""Waveform -> hidden states. Importing this imports no torch.

A new upstream is a module with a class (:class:`benchmark.interfaces.Upstream`) or a function that returns one, and a
line in :data:`TABLE`; a new fairseq checkpoint is a card in ``wav2vec2/cards.yaml``.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmark.errors import BenchmarkError
from benchmark.registry import Entry, suggest, upstreams
from upstream.wav2vec2.cards import read_cards

if TYPE_CHECKING:
    from benchmark.interfaces import Upstream

#: Upstreams that are no card.
TABLE = (Entry("fbank", "upstream.fbank:Fbank", "log mel filterbank with differences, no checkpoint"),)


def entries() -> Iterable[Entry]:
    """The project's own upstreams, for :data:`benchmark.registry.upstreams`."""
    yield from TABLE
    for card in read_cards().values():
        yield Entry(
            card.name,
            "upstream.wav2vec2:load_card",
            card.summary,
            card.aliases,
            kwargs={"card": card.name},
            needs="upstream.wav2vec2:missing",
        )


def list_upstreams() -> list[str]:
    """The names of all upstreams, sorted; plug-ins too."""
    return upstreams.names()


def load_upstream(name: str, *, checkpoint: str | Path | None = None, **options: Any) -> Upstream:
    """Load an upstream, in evaluation mode.

    Args:
        name: a name or alias: :func:`list_upstreams`.
        checkpoint: a local file, for upstreams that have one.
        options: what the upstream's factory takes; for wav2vec 2.0, :data:`upstream.wav2vec2.OPTIONS`.

    Returns:
        The upstream; its ``info`` says where it comes from, for ``result.json``.

    Raises:
        BenchmarkError: for an unknown name, checkpoint or option, or a factory that fails.
    """
    from benchmark.interfaces import Upstream

    entry = upstreams.get(name)
    factory = entry.load()
    arguments = dict(options) if checkpoint is None else {"checkpoint": checkpoint, **options}
    takes = inspect.signature(factory).parameters
    if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in takes.values()):
        for argument in arguments:
            if argument not in takes:
                what = "takes no checkpoint (-k)" if argument == "checkpoint" else f"has no option '{argument}'"
                raise BenchmarkError(f"upstream '{name}' {what}. " + suggest(argument, list(takes), noun="options"))
    try:
        model = factory(**arguments)
    except BenchmarkError:
        raise
    except Exception as error:  # whatever somebody's factory raises
        if entry.origin == "built in":
            raise
        raise BenchmarkError(
            f"upstream '{name}' (from {entry.origin}) failed with {type(error).__name__}: {error}"
        ) from error
    if not isinstance(model, Upstream):
        raise BenchmarkError(
            f"upstream '{name}' (from {entry.origin}) made a {type(model).__name__}; "
            "expected a benchmark.interfaces.Upstream"
        )
    info = getattr(model, "info", None)
    model.__dict__["info"] = {"origin": entry.origin, **(info if isinstance(info, dict) else {}), "name": entry.name}
    return model.eval()
