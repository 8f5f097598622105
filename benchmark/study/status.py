"""How far a study is, from its folder alone: any machine that sees the folder can tell, while others run it."""

from __future__ import annotations

import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from benchmark.errors import BenchmarkError
from benchmark.study import claims

PLAN = "cells.txt"
"""In the study's folder: those of its cells, a line each."""
_TAIL = 4096
"""Bytes of a log that are looked at."""


class State(NamedTuple):
    """Of a cell."""

    folder: str
    what: str
    """``done``, ``running``, ``silent``, ``failed``, ``begun`` or ``waiting``."""
    about: str = ""
    """Why it failed; who runs it, and what it said last."""


def states(output: Path) -> list[State]:
    """The state of each cell, in the order of the study. Reads few files of each cell, many cells at a time.

    Raises:
        BenchmarkError: the folder holds no study.
    """
    try:
        folders = (output / PLAN).read_text(encoding="utf-8").split("\n")[:-1]
    except OSError as error:
        raise BenchmarkError(f"{output} holds no study that was begun (no {PLAN})") from error
    with ThreadPoolExecutor(16) as pool:  # a file server answers many at a time
        return list(pool.map(lambda folder: _state(output, folder), folders))


def _state(output: Path, name: str) -> State:
    folder = output / name
    if (folder / "cell.json").exists():
        return State(name, "done")
    claim = claims.read(folder)
    if claim is not None and claim.state == "running":
        quiet = time.time() - claim.beat / 1e9
        who = "another process" if claim.owner is None else f"{claim.owner.host}, process {claim.owner.pid}"
        if (claim.owner is not None and claim.owner.gone) or quiet > claims.SILENCE:
            return State(name, "silent", f"{who}, no sign of life for {quiet:.0f} s")
        return State(name, "running", f"{who}{_last_line(folder)}")
    try:
        return State(name, "failed", (folder / "error.txt").read_text(encoding="utf-8").strip())
    except OSError:
        pass
    if claim is not None and claim.state == "failed":
        return State(name, "failed", "its process died")
    return State(name, "waiting" if claim is None and not any(folder.glob("*")) else "begun")


def _last_line(folder: Path) -> str:
    """What the run of a cell that wrote last has said last."""
    try:
        newest = max(folder.glob("*/log.txt"), key=os.path.getmtime)
        with open(newest, "rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - _TAIL))
            line = file.read().decode(errors="replace").rstrip().rpartition("\n")[2]
    except (OSError, ValueError):
        return ""
    return f": {newest.parent.name}: {line}"


def describe(output: Path) -> str:
    """How far a study is, to be printed."""
    found = states(output)
    order = ("done", "running", "silent", "failed", "begun", "waiting")
    counts = {what: sum(state.what == what for state in found) for what in order}
    parts = [f"{number} {what}" for what, number in counts.items() if number or what == "done"]
    lines = [f"{output}: {len(found)} cells: {', '.join(parts)}"]
    lines += [f"  {state.what}: {state.folder}: {state.about}" for state in found if state.about]
    return "\n".join(lines)
