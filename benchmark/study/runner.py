"""Running the cells of a study in this process, each in a folder of its own.

A cell resumes where it was stopped, and is never run again once it is done. Which process runs which cells, and where,
is up to :mod:`benchmark.study.executors`.
"""

from __future__ import annotations

import contextlib
import copy
import itertools
import json
import traceback
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from benchmark import config
from benchmark.errors import BenchmarkError
from benchmark.files import remove_partial, write_text
from benchmark.study.claims import Claims
from benchmark.study.claims import read as read_claim
from benchmark.study.recipe import Cell, Study, candidate_name, candidates, finished, run_config

if TYPE_CHECKING:
    from benchmark.engine.prepare import Preparer


def run_cell(
    study: Study, cell: Cell, output: Path, data_root: str | None, preparer: Preparer | None = None
) -> dict[str, Any]:
    """Train every candidate of a cell, choose on dev, score test once; returns what ``cell.json`` keeps.

    Raises:
        BenchmarkError: whatever a run raises.
        Interrupted: the run was asked to stop and has saved its state.
    """
    from benchmark.engine.prepare import Preparer  # imports torch
    from benchmark.engine.run import run

    preparer = preparer or Preparer()
    tried = []
    for one in _runs(study, cell, output, data_root):
        probe_run = _trained_so(study, cell, output, one.settings)
        best = run(
            one.settings, one.folder, mode="fit", resume=True, preparer=preparer, group=one.group, probe_run=probe_run
        ).best
        tried.append(_tried(one, best))
    chosen = _chosen(tried)
    one = _runs(study, cell, output, data_root)[chosen]
    run(one.settings, one.folder, mode="evaluate", preparer=preparer, group=one.group, figures=False)
    return _conclude(study, cell, output / cell.folder, tried, one.settings.trainer.keep)


def _trained_so(study: Study, cell: Cell, output: Path, settings: config.RunConfig) -> Path | None:
    """The run of a cell that is done, and was trained on the frozen upstream as ``tune.probe`` asks for."""
    from benchmark.engine.checkpoint import path  # imports torch

    if not settings.tune.probe:
        return None
    wanted = config.probing(settings)
    for regime, layer in itertools.product(study.regimes, dict.fromkeys([None, settings.featurizer.layer])):
        other = replace(cell, regime=regime, layer=layer)
        if (done := finished(output / other.folder)) is not None:
            folder = output / other.folder / str(done["chosen"])
            kept = path(folder, "last").exists() and path(folder, "best").exists()
            if not kept:
                continue
            saved = config.read_yaml(folder / "config.yaml")
            if not config.differences(saved, wanted) and not config.moved(saved, wanted):
                return folder
    return None


def run_cells(
    study: Study,
    together: Sequence[Cell],
    output: Path,
    data_root: str | None,
    preparer: Preparer | None = None,
    done: Callable[[Cell], object] = lambda cell: None,
) -> dict[Cell, str]:
    """What :func:`run_cell` does, for cells of one upstream and task whose probes train together.

    Args:
        study: the recipe.
        together: the cells.
        output: the study's folder.
        data_root: holds the corpora; ``None``: as the recipe says.
        preparer: what it has found for earlier runs is not looked up again.
        done: called with each cell that is done.

    Returns:
        the cells that have to be run one by one, and why: their heads cannot be stacked, or something is wrong.

    Raises:
        Interrupted: asked to stop; cells that are done are kept.
    """
    left: dict[Cell, str] = {}
    for cell, reason in _together(study, together, output, data_root, preparer):
        if reason is None:
            done(cell)
        else:
            left[cell] = reason
    return left


def _together(
    study: Study, together: Sequence[Cell], output: Path, data_root: str | None, preparer: Preparer | None
) -> Iterator[tuple[Cell, str | None]]:
    """:func:`run_cells`; yields each cell when it is done, or with the reason why it has to be run by itself."""
    from benchmark.engine.prepare import Preparer  # imports torch
    from benchmark.engine.probes import CannotStack, Probe
    from benchmark.engine.stacked import Probes
    from benchmark.engine.stopping import Interrupted, StopRequest

    probes = Probes(preparer or Preparer())
    alike: dict[Any, config.RunConfig] = {}
    runs: dict[Cell, list[_Run]] = {}
    added: dict[Cell, list[Probe]] = {}
    with StopRequest() as stop:
        for cell in together:
            try:
                runs[cell] = _runs(study, cell, output, data_root, alike)
                added[cell] = [probes.add(one.settings, one.folder, one.group) for one in runs[cell]]
            except (CannotStack, BenchmarkError) as error:
                yield cell, str(error)
        for cell, reason in probes.train(added, stop):
            if reason is None:
                tried = [_tried(one, probe.best or {}) for one, probe in zip(runs[cell], added[cell], strict=True)]
                chosen = _chosen(tried)
                try:
                    for i in sorted(range(len(tried)), key=lambda i: i != chosen):  # the chosen one first
                        added[cell][i].finish(stop, chosen=i == chosen)
                    _conclude(study, cell, output / cell.folder, tried, runs[cell][chosen].settings.trainer.keep)
                except BenchmarkError as error:
                    reason = str(error)
            yield cell, reason
            added[cell] = []
            if stop.requested:
                raise Interrupted("stopped; the cells that are done are kept")


@dataclass(frozen=True)
class _Run:
    """One candidate of a cell."""

    name: str
    candidate: dict[str, Any]
    settings: config.RunConfig
    folder: Path
    group: str


def _runs(
    study: Study, cell: Cell, output: Path, data_root: str | None, alike: dict[Any, config.RunConfig] | None = None
) -> list[_Run]:
    """The runs of a cell, in the order of its candidates.

    Args:
        study: the recipe.
        cell: the cell.
        output: the study's folder.
        data_root: as :func:`run_study`.
        alike: configurations of other cells, from which those that differ in layer and seed alone are made: composing
            one takes as long as hundreds of updates of a stack.
    """
    found = []
    for candidate in candidates(study.regimes[cell.regime]):
        name = candidate_name(candidate)
        key = (cell.upstream, cell.task, cell.regime, cell.budget, name)
        if alike is None or key not in alike or {"seed", "featurizer.layer"} & candidate.keys():
            settings = run_config(study, cell, candidate, data_root)
        else:
            settings = copy.deepcopy(alike[key])
            settings.seed, settings.featurizer.layer = cell.seed, cell.layer
        if alike is not None:
            alike[key] = settings
        group = f"{study.name}/{cell.folder.as_posix()}"
        found.append(_Run(name, candidate, settings, output / cell.folder / name, group))
    return found


def _tried(one: _Run, best: Mapping[str, Any]) -> dict[str, Any]:
    """What ``cell.json`` keeps of a candidate."""
    found = {"dev": best["value"], "rank": best["rank"], "step": best["step"], "metric": best["metric"]}
    return {"name": one.name, "candidate": one.candidate, **found}


def _chosen(tried: Sequence[Mapping[str, Any]]) -> int:
    return min(range(len(tried)), key=lambda i: tried[i]["rank"])


def _conclude(study: Study, cell: Cell, folder: Path, tried: list[dict[str, Any]], keep: str) -> dict[str, Any]:
    """Write ``cell.json``, remove what is not kept."""
    from benchmark.engine.checkpoint import prune  # imports torch

    chosen = tried[_chosen(tried)]
    outcome = {
        "study": study.name,
        "regime": cell.regime,
        "chosen": chosen["name"],
        "metric": chosen["metric"],
        "tried": [{key: value for key, value in one.items() if key != "metric"} for one in tried],
    }
    write_text(folder / "cell.json", json.dumps(outcome, indent=2) + "\n")
    for name in ("error.txt", "traceback.txt"):
        (folder / name).unlink(missing_ok=True)
    for one in tried:
        prune(folder / one["name"], keep, chosen=one is chosen)
    return outcome


# --- Units: what an executor gives to a process at a time ------------------------------------------------------------


@dataclass(frozen=True)
class Work:
    """What a process has to know to run cells."""

    study: Study
    output: Path
    """The study's folder."""
    data_root: str | None
    """Holds the corpora; ``None``: as the recipe says."""
    session: str
    """As :class:`benchmark.study.claims.Owner` has it."""


@dataclass
class Unit:
    """Cells that a process is given at a time."""

    cells: list[Cell]
    """Those that are not done."""
    together: bool = False
    """Whether their probes train together; else there is one cell."""
    silent: Mapping[Cell, int] = field(default_factory=dict)
    """Claims of others, by number, that may be taken over."""


class Report(NamedTuple):
    """What became of a cell of a unit."""

    cell: Cell
    outcome: Literal["done", "failed", "alone", "taken"]
    """``alone``: it has to be run by itself; ``taken``: another process has it."""
    reason: str = ""
    """Why it failed or has to be run by itself; who has it."""


MOST_TOGETHER = 60
"""Cells of a unit: what a killed study may have to do again."""


def groups(work: Work, todo: Sequence[Cell]) -> dict[Any, list[Cell]]:
    """The cells whose probes may train together, by upstream, task and data; those that have begun by themselves go on
    so."""
    from benchmark.engine.probes import CannotStack, beside, check  # imports torch

    fits: dict[Any, str | None] = {}
    """What the cells of a kind have in common with others that they train with; ``None``: they train alone."""
    found: dict[Any, list[Cell]] = {}
    for cell in todo:
        kind = (cell.upstream, cell.task, cell.regime)
        if kind not in fits:
            try:
                runs = _runs(work.study, cell, work.output, work.data_root)
                for one in runs:
                    check(one.settings)
                common = {beside(one.settings) for one in runs}
                fits[kind] = common.pop() if len(common) == 1 else None
            except (CannotStack, BenchmarkError):  # what is wrong the cell says by itself
                fits[kind] = None
        if fits[kind] and not any((work.output / cell.folder).glob("*/config.yaml")):
            found.setdefault((cell.upstream, cell.task, fits[kind]), []).append(cell)
    return found


def units(todo: Sequence[Cell], grouped: Mapping[Any, list[Cell]], slots: int, most: int = MOST_TOGETHER) -> list[Unit]:
    """What to give to processes: first the cells that train together, in about equal parts, then the others.

    Args:
        todo: the cells.
        grouped: :func:`groups` of them.
        slots: processes that there are.
        most: cells of a unit.
    """
    together = {cell for group in grouped.values() for cell in group}
    most = max(1, min(most, -(-len(together) // slots)))
    found = []
    for group in grouped.values():
        parts = -(-len(group) // most)
        size = -(-len(group) // parts)
        found += [Unit(group[first : first + size], together=True) for first in range(0, len(group), size)]
    return found + [Unit([cell]) for cell in todo if cell not in together]


def run_unit(work: Work, unit: Unit, preparer: Preparer, claims: Claims) -> Generator[Report, None, None]:
    """Claim the cells of a unit and run them; yields what became of each.

    Raises:
        Interrupted: asked to stop; what is done is kept, and the rest is left to others.
    """
    from benchmark.engine.stopping import Interrupted

    with claims.taken():
        mine = []
        for cell in list(unit.cells):  # whoever hears of one may take it off
            if (report := _claim(work, cell, claims, unit.silent.get(cell, 0))) is None:
                mine.append(cell)
            else:
                yield report
        if not unit.together:
            for cell in mine:
                reason = _run_alone(work, cell, preparer)
                if reason is None:
                    claims.done(work.output / cell.folder)
                else:
                    claims.give_up(work.output / cell.folder, failed=True)
                yield Report(cell, "done") if reason is None else Report(cell, "failed", reason)
            return
        waiting = dict.fromkeys(mine)
        try:
            for cell, why in _together(work.study, mine, work.output, work.data_root, preparer):
                del waiting[cell]
                if why is None:
                    claims.done(work.output / cell.folder)
                else:
                    claims.give_up(work.output / cell.folder)
                yield Report(cell, "done") if why is None else Report(cell, "alone", why)
        except Interrupted:
            raise
        except Exception as error:  # the cells say by themselves what is wrong with them
            for cell in waiting:
                claims.give_up(work.output / cell.folder)
                yield Report(cell, "alone", f"{type(error).__name__}: {error}")


def _claim(work: Work, cell: Cell, claims: Claims, silent: int) -> Report | None:
    """Claim a cell; returns what there is to say where it is not to be run now."""
    folder = work.output / cell.folder
    if finished(folder) is not None:
        return Report(cell, "done")
    try:
        other = claims.take(folder, silent)
    except BenchmarkError as error:
        return Report(cell, "failed", str(error))
    if other is None:
        if finished(folder) is None:  # looked at again, now that it is ours
            remove_partial(folder)
            return None
        claims.done(folder)
        return Report(cell, "done")
    if other.state == "failed":
        return Report(cell, "failed", failure(folder))
    return Report(cell, "taken", "another process" if other.owner is None else f"{other.owner.host} {other.owner.pid}")


def failure(folder: Path) -> str:
    """Why a cell failed, as its folder says."""
    try:
        return (folder / "error.txt").read_text(encoding="utf-8").strip()
    except OSError:
        return "its process died; was there enough memory?"


def _run_alone(work: Work, cell: Cell, preparer: Preparer) -> str | None:
    """Run a cell; returns why it failed, also in files in its folder: one broken cell must not take others down."""
    from benchmark.engine.stopping import Interrupted

    folder = work.output / cell.folder
    try:
        run_cell(work.study, cell, work.output, work.data_root, preparer)
    except Interrupted:
        raise
    except Exception as error:
        expected = isinstance(error, BenchmarkError)
        reason = str(error) if expected else f"{type(error).__name__}: {error}"
        with contextlib.suppress(BenchmarkError, OSError):
            write_text(folder / "error.txt", reason + "\n")
            if not expected:
                write_text(folder / "traceback.txt", traceback.format_exc())
        return reason
    return None


def check_unchanged(work: Work, cell: Cell, done: Mapping[str, Any], digests: dict[str, str | None]) -> None:
    """Compare a cell that is done with the recipe.

    Args:
        work: of the cell.
        cell: the cell.
        done: what its ``cell.json`` keeps.
        digests: of the weights of upstreams that were looked at already, which lie elsewhere now.

    Raises:
        BenchmarkError: it was run with other values or weights than the recipe has now.
    """
    folder = work.output / cell.folder
    tried = [run["candidate"] for run in done["tried"]]
    asked = candidates(work.study.regimes[cell.regime])
    changed = [] if tried == asked else [f"candidates: {tried} -> {asked}"]
    if not changed:
        saved = config.read_yaml(folder / done["chosen"] / "config.yaml")
        candidate = next(run["candidate"] for run in done["tried"] if run["name"] == done["chosen"])
        wanted = run_config(work.study, cell, candidate, work.data_root)
        changed = config.differences(saved, wanted)
        if "upstream.checkpoint" in (moved := config.moved(saved, wanted)):
            changed += _other_weights(folder / done["chosen"], wanted, moved["upstream.checkpoint"], digests)
    if changed:
        shown = "\n  ".join(changed)
        raise BenchmarkError(
            f"{folder} was run with other values (then -> now):\n  {shown}\nChoose another output "
            "folder, or delete that one to run the cell again"
        )


def tidy(work: Work, cell: Cell, done: Mapping[str, Any], claims: Claims) -> None:
    """Remove what a cell that is done does not keep, where the process that ran it died before it could."""
    from benchmark.engine.checkpoint import prune  # imports torch

    folder = work.output / cell.folder
    claim = read_claim(folder)
    if claim is None or not claims.may_take(claim):
        return
    keep = config.flatten(config.read_yaml(folder / done["chosen"] / "config.yaml")).get("trainer.keep", "all")
    for one in done["tried"]:
        with contextlib.suppress(BenchmarkError):  # a checkpoint that cannot be read
            prune(folder / one["name"], keep, chosen=one["name"] == done["chosen"])
    claims.done(folder)


def _other_weights(folder: Path, wanted: config.RunConfig, moved: str, digests: dict[str, str | None]) -> list[str]:
    """What has changed of the file of weights of a run, which lies elsewhere now; nothing where it is not known."""
    from benchmark import results
    from benchmark.engine.prepare import load_upstream  # imports torch

    key = repr(wanted.upstream)
    if key not in digests:
        digests[key] = None
        with contextlib.suppress(BenchmarkError):  # it is not here; a cell that needs it says so
            digests[key] = load_upstream(wanted.upstream, wanted.upstream.options).info.get("sha256")
    then = results.read(folder / "result.json")["upstream"]["sha256"]
    known = None not in (then, digests[key])
    return [f"upstream.checkpoint, whose weights are others: {moved}"] if known and then != digests[key] else []
