"""Errors that a user can fix, and how lists of things are shown in messages."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import NoReturn

_MOST_PROBLEMS = 10


class BenchmarkError(Exception):
    """A problem that the user can fix; the message says how. The command line prints it without a traceback."""


class MissingData(BenchmarkError):
    """Data that are not where they are looked for; ``-m evaluate`` can do without those that a run was trained on.

    Args:
        message: what is missing.
        split: the name of the split that is.
    """

    def __init__(self, message: str, split: str | None = None) -> None:
        super().__init__(message)
        self.split = split


def shorten(items: Iterable[object], most: int = 3) -> str:
    """``a, b, c and 4 more``."""
    names = [str(item) for item in items]
    return ", ".join(names[:most]) + (f" and {len(names) - most:,} more" if len(names) > most else "")


def show(value: object, most: int = 60) -> str:
    """Any value for a message, as JSON or else as Python writes it, cut to ``most`` characters."""
    try:
        text = json.dumps(value, ensure_ascii=False)
    except (TypeError, ValueError, RecursionError):
        try:
            text = repr(value)
        except Exception:  # whatever a foreign class raises; the message is about something else
            text = f"a {type(value).__name__}"
    return text if len(text) <= most else text[: most - 1] + "…"


def raise_problems(subject: str, problems: Sequence[str], advice: str = "") -> NoReturn:
    """Raise one :class:`BenchmarkError` for all problems: the first ten, and how many more there are."""
    lines = [f"{subject}: {len(problems):,} problem{'s' if len(problems) > 1 else ''}:"]
    lines += [f"  {problem}" for problem in problems[:_MOST_PROBLEMS]]
    if len(problems) > _MOST_PROBLEMS:
        lines.append(f"  … and {len(problems) - _MOST_PROBLEMS:,} more")
    raise BenchmarkError("\n".join([*lines, advice] if advice else lines))
