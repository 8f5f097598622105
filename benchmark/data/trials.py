"""Lists of verification trials in VoxCeleb's format, a line ``label enrolment test`` each."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable
from pathlib import Path

from benchmark import text
from benchmark.errors import BenchmarkError, raise_problems, shorten
from benchmark.files import write_text
from benchmark.interfaces import Trial


def read_trials(path: Path | str, ids: Collection[str], *, source: str = "", where: str = "") -> list[Trial]:
    """Read a list of ``label enrolment test`` lines (1 same speaker, 0 different), in its order.

    Fields are separated by white space; ids that have any themselves are written with ``%20``, or between tabs, or as
    they are where only one reading names utterances that exist.

    Args:
        path: the list, in VoxCeleb's format.
        ids: the utterances that exist; a set or a dictionary for long lists.
        source: where to get a proper list; shown when this one is missing, empty or malformed.
        where: where the utterances should be; shown when some are not among ``ids``.

    Raises:
        BenchmarkError: the list is missing or empty, lines are malformed, or utterances are not among ``ids``.
    """
    path = Path(path)
    source = source or "Expected one trial per line: 1 (same speaker) or 0, and the ids of two utterances"
    if not os.path.isfile(path):  # Path.is_file raises for names that are too long
        raise BenchmarkError(f"trial list {path} not found. {source}")
    trials: list[Trial] = []
    problems: list[str] = []
    unreadable: text.Problems = []
    names = text.Names(ids)
    for number, line in text.lines(path, unreadable):
        fields = text.trial(line, names)
        if fields is not None and fields[0] in ("0", "1"):
            trials.append(Trial(int(fields[0]), fields[1], fields[2]))
            continue
        words = text.words(line)
        advice = ""
        if words[-1] in ("target", "nontarget"):
            advice = " (Kaldi's order: write 1 or 0 for target or nontarget, and write it first)"
        elif len(words) > 3:
            advice = ". Ids with spaces: separate the three fields by tabs, or write %20 for a space"
        problems.append(f"{path}:{number}: expected '<1 or 0> <enrolment> <test>', got {line.strip()[:120]!r}{advice}")
    problems = [f"{path}{f':{number}' if number else ''}: {problem}" for number, problem in unreadable] + problems
    if problems:
        raise_problems(f"trial list {path}", problems, source)
    if not trials:
        raise BenchmarkError(f"trial list {path} is empty. {source}")
    named = dict.fromkeys(name for trial in trials for name in (trial.enrolment, trial.test))
    absent = [name for name in named if name not in names]
    if absent:
        raise BenchmarkError(
            f"trial list {path} names {len(absent):,} utterances (of {len(named):,}) that do not exist: "
            f"{shorten(absent)}. "
            + (where or "Trials name utterances by their ids in the test manifest, such as " + shorten(names))
        )
    return trials


def write_trials(path: Path, trials: Iterable[Trial]) -> None:
    """Write a list that :func:`read_trials` reads; white space in ids is written as in URLs (``%20``)."""
    lines = (f"{trial.label} {text.escape(trial.enrolment)} {text.escape(trial.test)}\n" for trial in trials)
    write_text(path, "".join(lines))
