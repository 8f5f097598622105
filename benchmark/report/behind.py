"""The trials and utterances behind a group's influence, as HTML. Whatever comes from data is escaped."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from html import escape

import numpy as np
from numpy.typing import NDArray

from benchmark.evaluation import Classes, Edits, Items, Trials
from benchmark.statistics.influence import equal_error_threshold, item_errors
from benchmark.tables import number_text, plural

Player = Callable[[str], str]
"""Utterance id -> HTML that plays it, or nothing."""


def shown(text: str) -> str:
    """A text from data: escaped, and in its own direction of writing."""
    return f'<bdi dir="auto">{escape(text)}</bdi>'


class Behind:
    """The items of one system, or of two whose difference (second - first) is explained.

    Args:
        systems: name and items of each, all of one kind and of the same test set.
        characters: edits are of characters, not of words.
    """

    def __init__(self, systems: Sequence[tuple[str, Items]], *, characters: bool = False) -> None:
        self.systems = systems
        self.characters = characters
        self._thresholds = [equal_error_threshold(items) if isinstance(items, Trials) else 0.0 for _, items in systems]
        self._errors = [item_errors(items, characters=characters)[0] for _, items in systems]
        self._margins = [self._margin(k) for k in range(len(systems))]

    def examples(self, of: NDArray[np.int64], sign: float, player: Player, most: int) -> list[str]:
        """The items of a group that say most about its influence, as HTML.

        Args:
            of: indices of the group's items.
            sign: of two systems: 1, what speaks against the second: its errors, first those that the first does not
                make; -1, what speaks for it: errors of the first that it does not make. Of one system: its errors.
            player: of utterances.
            most: items.
        """
        side = 0 if len(self.systems) == 1 or sign < 0 else 1
        errors, margins = self._errors[side][of], self._margins[side][of]
        more = errors if len(self.systems) == 1 else errors - self._errors[1 - side][of]
        order = np.lexsort((-margins, -more))
        wanted = (errors > 0) & ((more > 0) | (side == 1))
        chosen = [int(index) for index in of[order[wanted[order]]][:most]]
        show = {"trials": self._trial, "edits": self._transcript, "classes": self._class}[self.systems[0][1].kind]
        return [show(index, player) for index in chosen]

    def _margin(self, system: int) -> NDArray[np.float64]:
        """(item,) how bad an error is among items with as many errors: of trials, how far the score is on the wrong
        side of the threshold; of classes, how far the wrong one is ahead of the true one."""
        items, errors = self.systems[system][1], self._errors[system]
        if isinstance(items, Trials):
            return np.where(items.labels == 1, 1.0, -1.0) * (self._thresholds[system] - items.scores)
        margins = np.zeros(len(items))
        if isinstance(items, Classes) and items.log_posteriors is not None:
            logs = items.log_posteriors
            rows = np.flatnonzero((errors > 0) & (np.maximum(items.references, items.predictions) < logs.shape[1]))
            margins[rows] = logs[rows, items.predictions[rows]] - logs[rows, items.references[rows]]
        return margins

    def _trial(self, index: int, player: Player) -> str:
        decisions = []
        for (name, items), threshold in zip(self.systems, self._thresholds, strict=True):
            assert isinstance(items, Trials)
            accepted, target = items.scores[index] >= threshold, items.labels[index] == 1
            verdict = f"{'accepted' if accepted else 'rejected'}, {'right' if accepted == target else 'wrong'}"
            score = f"score {number_text(float(items.scores[index]))}, threshold {number_text(threshold)}"
            decisions.append(f'<span class="decision">{self._which(name)}{verdict} ({score})</span>')
        assert isinstance(items, Trials)
        kind = "Same speaker" if items.labels[index] == 1 else "Different speakers"
        pair = "".join(_utterance(items.ids[side[index]], player) for side in (items.enrolment, items.test))
        return f'<b>{kind}</b>{"".join(decisions)}<span class="pair">{pair}</span>'

    def _transcript(self, index: int, player: Player) -> str:
        lines = []
        for name, items in self.systems:
            assert isinstance(items, Edits)
            edits = (items.characters if self.characters else items.words)[index]
            unit = "characters" if self.characters else "words"
            told = f"{self._which(name)}{plural(sum(edits[:3]), 'error')} in {edits.length:,} {unit}"
            aligned = alignment(items.references[index], items.hypotheses[index], characters=self.characters)
            lines.append(f'<span class="decision">{told}</span><span class="transcript">{aligned}</span>')
        return _utterance(self.systems[0][1].ids[index], player) + "".join(lines)

    def _class(self, index: int, player: Player) -> str:
        told = []
        for name, items in self.systems:
            assert isinstance(items, Classes)
            right = "right" if items.references[index] == items.predictions[index] else "wrong"
            which = self._which(name) or "recognised as "
            prediction = shown(items.names[items.predictions[index]])
            told.append(f'<span class="decision">{which}{prediction}, {right}</span>')
        assert isinstance(items, Classes)
        reference = shown(items.names[items.references[index]])
        return f"<b>{reference}</b>{''.join(told)}{_utterance(items.ids[index], player)}"

    def _which(self, name: str) -> str:
        return f"{escape(name)}: " if len(self.systems) > 1 else ""


def _utterance(name: str, player: Player) -> str:
    return f'<span class="utterance">{shown(name)}{player(name)}</span>'


def alignment(reference: str, hypothesis: str, *, characters: bool = False) -> str:
    """The reference, with what the hypothesis leaves out struck and what it adds marked, as HTML.

    >>> alignment("a <b> c", "a d c")
    '<bdi dir="auto">a</bdi> <del><bdi dir="auto">&lt;b&gt;</bdi></del> <ins><bdi dir="auto">d</bdi></ins> <bdi \
dir="auto">c</bdi>'
    """
    import jiwer

    process = jiwer.process_characters if characters else jiwer.process_words
    aligned = process(" ".join(reference.split()), " ".join(hypothesis.split()))
    (said,), (heard,), (chunks,) = aligned.references, aligned.hypotheses, aligned.alignments
    join = "" if characters else " "
    parts = []
    for chunk in chunks:
        was = shown(join.join(said[chunk.ref_start_idx : chunk.ref_end_idx]))
        now = shown(join.join(heard[chunk.hyp_start_idx : chunk.hyp_end_idx]))
        if chunk.type == "equal":
            parts.append(was)
        else:
            parts += [f"<del>{was}</del>"] if chunk.type != "insert" else []
            parts += [f"<ins>{now}</ins>"] if chunk.type != "delete" else []
    return join.join(parts)


def confusions(items: Classes, of: NDArray[np.int64] | None = None) -> list[tuple[str, str, int]]:
    """(reference, prediction, utterances) of wrong predictions, the most frequent first."""
    chosen = np.arange(len(items)) if of is None else of
    wrong = chosen[items.references[chosen] != items.predictions[chosen]]
    pairs = Counter(zip(items.references[wrong].tolist(), items.predictions[wrong].tolist(), strict=True))
    named = [(items.names[said], items.names[heard], count) for (said, heard), count in pairs.items()]
    return sorted(named, key=lambda row: (-row[2], row[0], row[1]))
