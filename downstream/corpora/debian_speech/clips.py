"""What is known of each recording after it was decoded, and what of its text can be used."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from downstream.corpora.debian_speech.texts import normalise

FASTEST = 25.0
"""Characters a second, above which a recording cannot say its text; 99 of 100 have fewer than 20."""


@dataclass(frozen=True)
class Clip:
    """What is known of a recording after it was decoded."""

    source: str
    name: str
    speaker: str
    language: str
    session: str
    text: str | None
    """As the source writes it."""
    gender: str | None
    labels: Mapping[str, str]
    seconds: float
    dropped: str
    """Why there is no audio file; empty: there is one."""

    @property
    def id(self) -> str:
        """Unique in the corpus."""
        return f"{self.source}/{self.name}"

    @property
    def path(self) -> str:
        """Below the corpus folder."""
        return f"audio/{self.id}.flac"

    @property
    def narrow_path(self) -> str:
        """Of the version that is limited to 4 kHz."""
        return f"audio-4kHz/{self.id}.flac"


def by_source(clips: Iterable[Clip]) -> dict[str, list[Clip]]:
    """Source -> its clips, sorted by source."""
    sources: defaultdict[str, list[Clip]] = defaultdict(list)
    for clip in clips:
        sources[clip.source].append(clip)
    return dict(sorted(sources.items()))


def excluded() -> frozenset[str]:
    """ids of clips that say something else than their text; see :mod:`.check`."""
    listed = Path(__file__).with_name("wrong_texts.txt").read_text(encoding="utf-8").splitlines()
    return frozenset(line.split("\t")[0] for line in listed if line and not line.startswith("#"))


def transcript(clip: Clip, wrong: frozenset[str]) -> tuple[str | None, str]:
    """The normalised text of a clip, or why there is none."""
    if clip.text is None:
        return None, "no text"
    if clip.id in wrong:
        return None, "says something else"
    text, reason = normalise(clip.text, clip.language)
    if text is not None and len(text) > FASTEST * clip.seconds:
        return None, "too long for its time"
    if text is not None and clip.labels.get("kind") == "letters" and len(text) == 1:
        return None, "one letter"
    return text, reason
