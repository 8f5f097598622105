"""What a study has still to run, and what became of its cells: the part of running one that all executors share."""

from __future__ import annotations

import time
from bisect import insort
from collections import Counter, deque
from collections.abc import Sequence
from typing import Protocol

from tqdm import tqdm

from benchmark.study import claims, runner
from benchmark.study.recipe import Cell, Study, finished
from benchmark.study.runner import Report, Unit, Work

POLL = 2.0
"""Seconds between looks at the cells that others run."""


class Board:
    """The units of a study that wait, and what became of its cells.

    Args:
        work: what is run.
        every: cells of the study, or of a shard of it, in the order of the recipe.
        units: what is to be done.
        join: leave cells to the processes that have them, once these have shown that they are alive.
    """

    def __init__(self, work: Work, every: Sequence[Cell], units: Sequence[Unit], *, join: bool = False) -> None:
        self.work, self.waiting, self.join = work, deque(units), join
        self.failed: dict[Cell, str] = {}
        self.left: set[Cell] = set()
        """Others run them."""
        self._place = {cell: number for number, cell in enumerate(every)}
        self._watch = claims.Claims(work.session)
        self._taken: set[Cell] = set()
        self._looked = 0.0
        self._idle: float | None = None
        todo = sum(len(unit.cells) for unit in units)
        self.progress = tqdm(total=len(every), initial=len(every) - todo, unit="cell", dynamic_ncols=True)
        if together := sum(len(unit.cells) for unit in units if unit.together):
            self.progress.write(f"the probes of {together} cells train together (--one-by-one: each by itself)")

    def report(self, unit: Unit, report: Report) -> None:
        """Take note of what became of a cell of a unit that was given out."""
        cell, outcome, reason = report
        if cell not in unit.cells:
            return
        unit.cells.remove(cell)
        if outcome == "taken":
            self._taken.add(cell)
        elif outcome == "alone":
            self._alone(cell)
        else:
            self._conclude(cell, reason if outcome == "failed" else None)

    def _alone(self, cell: Cell) -> None:
        """Let a cell wait by itself, in the order of the recipe."""
        insort(self.waiting, Unit([cell]), key=lambda unit: (not unit.together, self._place[unit.cells[0]]))

    def _conclude(self, cell: Cell, reason: str | None) -> None:
        self.progress.update()
        if reason is not None:
            self.failed[cell] = reason
            self.progress.write(f"failed: {cell.folder}: {reason}")

    def say_alone(self, reasons: Sequence[str]) -> None:
        """Say why cells that were to train together are run one by one."""
        for reason, number in Counter(reasons).items():
            self.progress.write(f"{number} cells are run one by one: {reason}")

    def died(self, unit: Unit, reason: str) -> None:
        """The process that had a unit died of it: a cell has failed; cells that train together go on one by one."""
        cells = [cell for cell in unit.cells if not self._done(unit, cell)]
        if unit.together:
            for cell in cells:
                self._alone(cell)
            self.say_alone([reason] * len(cells))
        for cell in () if unit.together else cells:
            claims.mark_failed(self.work.output / cell.folder)
            self._conclude(cell, reason)
        unit.cells.clear()

    def again(self, unit: Unit) -> None:
        """The machine that had a unit is gone: what is not done of it is given out again."""
        cells = [cell for cell in unit.cells if not self._done(unit, cell)]
        if cells:
            self.waiting.appendleft(Unit(cells, unit.together))
        unit.cells.clear()

    def _done(self, unit: Unit, cell: Cell) -> bool:
        """Whether a cell is done, though nobody was left to say so."""
        if finished(self.work.output / cell.folder) is None:
            return False
        self._conclude(cell, None)
        return True

    def look(self, running: int) -> bool:
        """Look after the cells that others run; returns whether there is, or may be, anything to do."""
        if self.waiting or running:
            self._idle = None
        elif self._idle is None:
            self._idle = time.monotonic()
        if self._taken and time.monotonic() - self._looked >= POLL:
            self._looked = time.monotonic()
            for cell in sorted(self._taken, key=str):
                self._look_at(cell)
        if self.join and self._taken and self._idle and time.monotonic() - self._idle > claims.SILENCE + claims.BEAT:
            self.progress.write(f"{len(self._taken)} cells are run by others, which are alive; they are left to them")
            self.left |= self._taken
            self._taken.clear()
        return bool(self.waiting or running or self._taken)

    def _look_at(self, cell: Cell) -> None:
        folder = self.work.output / cell.folder
        claim = claims.read(folder)
        if finished(folder) is not None:
            self._conclude(cell, None)
        elif claim is None or self._watch.may_take(claim):
            self.waiting.append(Unit([cell], silent={} if claim is None else {cell: claim.number}))
        elif claim.state == "failed":
            self._conclude(cell, runner.failure(folder))
        else:
            return
        self._taken.remove(cell)


class Executor(Protocol):
    """Runs the units of a study somewhere."""

    shared: bool
    """Other commands may run cells of the same folder at the same time."""

    def slots(self, study: Study) -> int:
        """In how many parts cells that train together are given out."""

    def run(self, board: Board) -> None:
        """Run what waits on the board, and report to it.

        Raises:
            KeyboardInterrupt: stopped; running cells have saved their state.
        """
