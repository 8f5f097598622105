"""Hidden states -> a score: the tables of benchmarks (protocol cards), tasks and corpora.

Imports nothing heavy: ``--list`` reads these tables. A new task or corpus is one line here; a new benchmark is one card
in ``downstream/protocols/``.
"""

from __future__ import annotations

from pathlib import Path

from benchmark.errors import BenchmarkError
from benchmark.registry import Entry

_TASKS = {
    "sv": ("downstream.sv.task:SpeakerVerification", "speaker verification: do two utterances have one speaker?"),
}

_CORPORA = {
    "voxceleb1": ("downstream.corpora.voxceleb1:prepare", "VoxCeleb1, official layout and trial lists"),
}


def entries() -> list[Entry]:
    """One entry a protocol card; loading and calling it gives the card as a dictionary."""
    from downstream.protocols import read_card

    found = []
    for path in sorted((Path(__file__).parent / "protocols").glob("*.yaml")):
        target = "downstream.protocols:read_card"
        try:
            card = read_card(path)
        except BenchmarkError as error:  # one broken card must not take the others down
            found.append(Entry(path.stem, target, origin=f"card {path}", problem=str(error)))
            continue
        found.append(
            Entry(card["name"], target, summary=card["summary"], aliases=tuple(card["aliases"]), kwargs={"path": path})
        )
    return found


def task_entries() -> list[Entry]:
    """Task names -> :class:`benchmark.interfaces.Task` classes."""
    return [Entry(name, target, summary=summary) for name, (target, summary) in _TASKS.items()]


def corpus_entries() -> list[Entry]:
    """Corpus names -> ``prepare(root: Path) -> Corpus``."""
    return [Entry(name, target, summary=summary) for name, (target, summary) in _CORPORA.items()]
