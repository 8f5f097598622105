"""Studies: upstreams x tasks x regimes x budgets x seeds, each cell with the same search on dev, from one YAML file.

A cell is one combination. It trains one run for every candidate of its regime's search, chooses among them on dev, and
scores the test set once, with the chosen one. Cells run in worker processes; each is in a folder of its own, goes on
where it was stopped, and is never run again once it is done.

::

    <output>/study.yaml                                  the recipe, as it was run
    <output>/<upstream>/<task>/<regime>/<budget>/seed<N>/<candidate>/   a run; the chosen one has result.json
    <output>/<upstream>/<task>/<regime>/<budget>/seed<N>/cell.json      what was tried, what was chosen
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import logging
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, cast

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from tqdm import tqdm

from benchmark import config, registry
from benchmark.errors import BenchmarkError
from benchmark.files import write_text

log = logging.getLogger("wavbench")


@dataclass
class StudyUpstream:
    """One of the study's upstreams."""

    name: str = "???"
    checkpoint: str | None = None
    options: dict[str, Any] = field(default_factory=dict)
    regimes: list[str] | None = None
    """Only these of the study's regimes."""
    budgets: list[str] | None = None
    """Only these of each task's budgets."""


@dataclass
class StudyTask:
    """One of the study's downstreams."""

    config: Any = None
    """Values over the protocol card's, for all regimes: a mapping, or a YAML file beside the recipe."""
    budgets: list[str] = field(default_factory=lambda: ["all"])
    """As ``--budget`` takes them, smallest first."""
    targets: dict[str, Any] = field(default_factory=dict)
    """Published results that the full study should meet, with their source; shown in the report."""


@dataclass
class StudyRegime:
    """One of the study's regimes."""

    regime: str = "frozen"
    states: Any = None
    """``probe``: a list of states, or ``all``."""
    config: Any = None
    """Values over the task's: a mapping, or a YAML file beside the recipe."""
    tasks: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Values for single tasks, over all others."""
    search: dict[str, list[Any]] = field(default_factory=dict)
    """Dotted option -> values: every combination is a candidate, and dev chooses among them."""
    budgets: list[str] | None = None
    """Only these of each task's budgets."""
    seeds: list[int] | None = None
    """Only these of the study's seeds."""


@dataclass
class Study:
    """A recipe."""

    name: str = "???"
    question: str = ""
    """What the study answers, in a sentence, for the report."""
    synthetic: bool = False
    """The data are made by a program; the report says so."""
    upstreams: dict[str, StudyUpstream] = field(default_factory=dict)
    tasks: dict[str, StudyTask] = field(default_factory=dict)
    regimes: dict[str, StudyRegime] = field(default_factory=dict)
    seeds: list[int] = field(default_factory=lambda: [0])
    config: Any = None
    """Values over every protocol card's, under all others: a mapping, or a YAML file beside the recipe."""
    plugins: list[str] = field(default_factory=list)
    """Plug-in files, beside the recipe."""


@dataclass(frozen=True)
class Cell:
    """One combination."""

    upstream: str
    task: str
    regime: str
    state: int | None
    budget: str
    seed: int

    @property
    def folder(self) -> Path:
        """Where it lives in the study's folder."""
        regime = self.regime if self.state is None else f"{self.regime}-{self.state}"
        budget = self.budget.replace("/", "-per-").replace("%", "pct")
        return Path(self.upstream) / self.task / regime / budget / f"seed{self.seed}"


def read(path: Path) -> Study:
    """Read a recipe.

    Raises:
        BenchmarkError: an unknown key or a wrong type; names that no registry has; regimes with searches of different
            sizes, which would favour the one that tries more.
    """
    values = config.read_yaml(path)
    try:
        study = cast(Study, OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(Study), values)))
    except OmegaConfBaseException as error:
        raise BenchmarkError(f"recipe {path}: {str(error).splitlines()[0]} (at {error.full_key})") from error
    study.plugins = [str((path.parent / plugin).resolve()) for plugin in study.plugins]
    for plugin in study.plugins:
        registry.load_plugin(plugin)
    for what in ("upstreams", "tasks", "regimes", "seeds"):
        if not getattr(study, what):
            raise BenchmarkError(f"recipe {path} names no {what}")
    for of in study.upstreams.values():
        registry.upstreams.get(of.name)
    for name in study.tasks:
        registry.downstreams.get(name)
    with_values: list[Study | StudyTask | StudyRegime] = [study, *study.tasks.values(), *study.regimes.values()]
    for part in with_values:
        if isinstance(part.config, str):
            part.config = config.read_yaml(path.parent / part.config)
    sizes = {name: len(candidates(regime)) for name, regime in study.regimes.items()}
    if len(set(sizes.values())) > 1:
        raise BenchmarkError(
            f"recipe {path}: the regimes try different numbers of candidates ({sizes}), which favours those that try "
            "more; give each as many values to search"
        )
    budgets = list(dict.fromkeys(budget for task in study.tasks.values() for budget in task.budgets))
    parts: list[tuple[str, StudyUpstream | StudyRegime]] = [
        *((f"upstream '{name}'", upstream) for name, upstream in study.upstreams.items()),
        *((f"regime '{name}'", regime) for name, regime in study.regimes.items()),
    ]
    for title, restricted in parts:
        for key, known in (("tasks", list(study.tasks)), ("regimes", list(study.regimes)), ("budgets", budgets)):
            for one in getattr(restricted, key, None) or ():
                if one not in known:
                    raise BenchmarkError(
                        f"recipe {path}: {title} names '{one}' among its {key}. "
                        + registry.suggest(one, known, noun=f"{key} of this study")
                    )
    return study


def candidates(regime: StudyRegime) -> list[dict[str, Any]]:
    """The combinations that a regime's search tries: dotted option -> value."""
    return [dict(zip(regime.search, values, strict=True)) for values in itertools.product(*regime.search.values())]


def cells(study: Study) -> list[Cell]:
    """All cells, cheap regimes and small budgets first as the recipe lists them."""
    found = []
    for (up, upstream), (name, task), (how, regime) in itertools.product(
        study.upstreams.items(), study.tasks.items(), study.regimes.items()
    ):
        if upstream.regimes is not None and how not in upstream.regimes:
            continue
        states: Sequence[int | None] = [None]
        if regime.regime == "probe":
            if regime.states == "all":
                states = range(_num_states(upstream))
            elif isinstance(regime.states, list) and regime.states:
                states = [int(state) for state in regime.states]
            else:
                raise BenchmarkError(f"regime '{how}': 'probe' needs states: a list of numbers, or all")
        budgets = [
            budget
            for budget in task.budgets
            if all(only.budgets is None or budget in only.budgets for only in (upstream, regime))
        ]
        seeds = [seed for seed in study.seeds if regime.seeds is None or seed in regime.seeds]
        found += [
            Cell(up, name, how, state, budget, seed)
            for budget, state, seed in itertools.product(budgets, states, seeds)
        ]
    if len({cell.folder for cell in found}) < len(found):
        raise BenchmarkError(f"study '{study.name}' names a cell twice: a budget, state or seed stands in a list twice")
    for up in study.upstreams:
        if not any(cell.upstream == up for cell in found):
            raise BenchmarkError(
                f"study '{study.name}': upstream '{up}' has no cell: none of its regimes has a budget and a seed in "
                "common with it and a task"
            )
    return found


def _num_states(upstream: StudyUpstream) -> int:
    model = registry.load_upstream(upstream.name, checkpoint=upstream.checkpoint, **upstream.options)
    return int(model.num_states)


def run_config(study: Study, cell: Cell, candidate: Mapping[str, Any], data_root: str | None) -> config.RunConfig:
    """The configuration of one run of a cell."""
    from benchmark.engine import run as experiment

    upstream, task, regime = study.upstreams[cell.upstream], study.tasks[cell.task], study.regimes[cell.regime]
    own: dict[str, Any] = {
        "upstream": {"name": upstream.name, "checkpoint": upstream.checkpoint, "options": upstream.options},
        "regime": regime.regime,
        "budget": cell.budget,
        "seed": cell.seed,
        **({} if cell.state is None else {"featurizer": {"state": cell.state}}),
        **({} if data_root is None else {"data": {"root": data_root}}),
    }
    layers = [
        (f"study {study.name}, config", study.config or {}),
        (f"study {study.name}, task {cell.task}", task.config or {}),
        (f"study {study.name}, regime {cell.regime}", regime.config or {}),
        (f"study {study.name}, regime {cell.regime}, task {cell.task}", regime.tasks.get(cell.task, {})),
        (f"study {study.name}, cell", own),
    ]
    card = experiment.read_card(cell.task)
    overrides = [f"{key}={value}" for key, value in candidate.items()]
    return config.compose(card, experiment.task_class(card).Config, layers, overrides)


def run_cell(study: Study, cell: Cell, output: Path, data_root: str | None) -> dict[str, Any]:
    """Train every candidate of a cell, choose on dev, score test once; returns what ``cell.json`` keeps.

    Raises:
        BenchmarkError: whatever a run raises.
    """
    from benchmark.engine import run as experiment
    from benchmark.engine.trainer import StopRequest

    folder = output / cell.folder
    card = experiment.read_card(cell.task)
    tried = []
    with StopRequest() as stop:
        for candidate in candidates(study.regimes[cell.regime]):
            name = "-".join(f"{key.rpartition('.')[2]}={value}" for key, value in candidate.items()) or "run"
            run = run_config(study, cell, candidate, data_root)
            experiment.occupy(folder / name, run, resume=True)
            prepared = experiment.prepare(run, card)
            with experiment.exclusive(folder / name), experiment.logged_to(folder / name):
                best = experiment.fit(prepared, folder / name, stop, resume=True).best
            assert best is not None
            tried.append({"name": name, "candidate": candidate, "dev": best["value"], "step": best["step"]})
    sign = -1 if prepared.task.higher_is_better else 1
    chosen = min(tried, key=lambda one: sign * one["dev"])["name"]
    candidate = next(one["candidate"] for one in tried if one["name"] == chosen)
    prepared = experiment.prepare(run_config(study, cell, candidate, data_root), card)
    with experiment.exclusive(folder / chosen), experiment.logged_to(folder / chosen):
        experiment.evaluate(prepared, folder / chosen, folder / chosen)
    outcome = {
        "study": study.name,
        "regime": cell.regime,
        "chosen": chosen,
        "metric": prepared.task.selection,
        "tried": tried,
    }
    write_text(folder / "cell.json", json.dumps(outcome, indent=2) + "\n")
    (folder / "error.txt").unlink(missing_ok=True)
    return outcome


def finished(folder: Path) -> dict[str, Any] | None:
    """What ``cell.json`` keeps of a cell that is done, else ``None``."""
    try:
        outcome: dict[str, Any] = json.loads((folder / "cell.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return outcome if (folder / outcome["chosen"] / "result.json").exists() else None


# --- Worker processes -------------------------------------------------------------------------------------------------


def _work(pipe: Connection, study: Study, output: Path, data_root: str | None, threads: int) -> None:
    """Run the cells that come through ``pipe``; send back ``None``, or why a cell failed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent tells its workers to stop by SIGTERM
    threading.Thread(target=_die_with_parent, args=(os.getppid(),), daemon=True).start()
    import torch

    from benchmark.engine.trainer import Interrupted

    for plugin in study.plugins:
        registry.load_plugin(plugin)
    torch.set_num_threads(threads)
    logging.getLogger("wavbench").setLevel(logging.INFO)
    sys.stderr = open(os.devnull, "w")  # noqa: SIM115  the log of a cell is in its folder
    while True:
        try:
            cell = pipe.recv()
        except EOFError:
            return
        try:
            run_cell(study, cell, output, data_root)
            pipe.send(None)
        except Interrupted:
            return
        except Exception as error:  # one broken cell must not take the others down
            reason = str(error) if isinstance(error, BenchmarkError) else f"{type(error).__name__}: {error}"
            with contextlib.suppress(BenchmarkError, OSError):
                write_text(output / cell.folder / "error.txt", reason + "\n")
            pipe.send(reason)


def _die_with_parent(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(1.0)
    os._exit(1)


@dataclass
class _Worker:
    process: Any
    pipe: Connection
    cell: Cell | None = None


def run(study: Study, every: Sequence[Cell], output: Path, *, data_root: str | None, jobs: int) -> dict[Cell, str]:
    """Run those of the study's cells that are not done yet, and write ``study.yaml``; returns why cells failed.

    Raises:
        BenchmarkError: a cell that is done was run with other values than the recipe has now.
        KeyboardInterrupt: Ctrl-C or SIGTERM; running cells have saved what they had.
    """
    waiting = []
    for cell in every:
        done = finished(output / cell.folder)
        if done is None:
            waiting.append(cell)
        else:
            _check_unchanged(study, cell, done, output, data_root)
    write_text(output / "study.yaml", OmegaConf.to_yaml(OmegaConf.structured(study)))
    failed: dict[Cell, str] = {}
    context = multiprocessing.get_context("spawn")
    threads = max(1, (os.cpu_count() or 1) // jobs)
    progress = tqdm(total=len(every), initial=len(every) - len(waiting), unit="cell", dynamic_ncols=True)
    workers: list[_Worker] = []

    def start() -> _Worker:
        mine, theirs = context.Pipe()
        process = context.Process(target=_work, args=(theirs, study, output, data_root, threads), daemon=True)
        process.start()
        theirs.close()
        return _Worker(process, mine)

    with _stopped_by_sigterm(), progress:
        try:
            while waiting or any(worker.cell is not None for worker in workers):
                workers += [start() for _ in range(min(jobs, len(waiting)) - len(workers))]
                for worker in workers:
                    if worker.cell is None and waiting:
                        worker.cell = waiting.pop(0)
                        worker.pipe.send(worker.cell)
                running = [worker for worker in workers if worker.cell is not None]
                progress.set_postfix(running=len(running), failed=len(failed))
                for pipe in wait([worker.pipe for worker in running], timeout=5.0):
                    worker = next(one for one in running if one.pipe is pipe)
                    assert worker.cell is not None
                    try:
                        reason = worker.pipe.recv()
                    except (EOFError, ConnectionError):
                        worker.process.join()
                        reason = f"its process died (exit code {worker.process.exitcode}); was there enough memory?"
                        workers.remove(worker)
                    if reason is not None:
                        failed[worker.cell] = reason
                        progress.write(f"failed: {worker.cell.folder}: {reason}")
                    worker.cell = None
                    progress.update()
        finally:
            for worker in workers:
                if worker.cell is not None:
                    worker.process.terminate()
                worker.pipe.close()
            for worker in workers:
                worker.process.join()
    return failed


def _check_unchanged(study: Study, cell: Cell, done: Mapping[str, Any], output: Path, data_root: str | None) -> None:
    tried = [one["candidate"] for one in done["tried"]]
    wanted = candidates(study.regimes[cell.regime])
    changed = [] if tried == wanted else [f"candidates: {tried} -> {wanted}"]
    if not changed:
        saved = config.read_yaml(output / cell.folder / done["chosen"] / "config.yaml")
        candidate = next(one["candidate"] for one in done["tried"] if one["name"] == done["chosen"])
        changed = config.differences(saved, run_config(study, cell, candidate, data_root))
    if changed:
        shown = "\n  ".join(changed)
        raise BenchmarkError(
            f"{output / cell.folder} was run with other values (then -> now):\n  {shown}\nTake another output folder, "
            "or delete that one to run the cell again"
        )


@contextlib.contextmanager
def _stopped_by_sigterm() -> Iterator[None]:
    def stop(number: int, frame: Any) -> None:
        raise KeyboardInterrupt

    former = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, former)


# --- The command ------------------------------------------------------------------------------------------------------


def plan(study: Study, data_root: str | None) -> str:
    """What a study would run and what it would cost, in audio seconds: a Markdown table."""
    from benchmark.data import audio
    from benchmark.engine import run as experiment

    seconds: dict[str, dict[str, Any]] = {}
    lines = [
        "| task | regime | cells | runs | updates | hours through the upstream | of them with gradient |",
        "|---" * 7 + "|",
    ]
    total = 0.0
    kept: set[tuple[str, str]] = set()
    groups: dict[tuple[str, str], list[Cell]] = {}
    for cell in cells(study):
        groups.setdefault((cell.task, cell.regime), []).append(cell)
    for (task_name, regime_name), members in groups.items():
        runs = updates = 0
        heard = trained = 0.0
        for cell in members:
            for candidate in candidates(study.regimes[regime_name]):
                run = run_config(study, cell, candidate, data_root)
                if task_name not in seconds:
                    card = experiment.read_card(task_name)
                    task = experiment.task_class(card)(run.task, experiment.find_corpus(run, card))
                    seconds[task_name] = {name: audio.durations(of) for name, of in task.splits.items()}
                of = seconds[task_name]
                crop = run.data.crop_seconds or float("inf")
                mean = float(of["train"].clip(max=crop).mean())
                training = run.trainer.max_steps * run.trainer.accumulate * run.trainer.batch_size * mean
                evaluations = -(-run.trainer.max_steps // run.trainer.eval_every) * float(of["dev"].sum())
                runs, updates = runs + 1, updates + run.trainer.max_steps
                if run.features.keep:
                    if (cell.upstream, task_name) not in kept:
                        heard += sum(float(split.sum()) for split in of.values())
                        kept.add((cell.upstream, task_name))
                else:
                    heard += training + evaluations
                    trained += training if run.regime not in ("frozen", "probe") else 0.0
            heard += 0.0 if run.features.keep else float(seconds[task_name]["test"].sum())
        total += heard
        lines.append(
            f"| {task_name} | {regime_name} | {len(members)} | {runs} | {updates} | {heard / 3600:.2f} | "
            f"{trained / 3600:.2f} |"
        )
    lines.append(
        f"\n{sum(map(len, groups.values()))} cells; {total:.0f} s of audio ({total / 3600:.1f} h) in all, about"
    )
    return "\n".join(lines)


def default_jobs() -> int:
    """Processes for which there are cores and memory: 3 GB each."""
    try:
        available = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError):
        available = 0
    return max(1, min(os.cpu_count() or 1, int(available / 3e9)))


def main(argv: Sequence[str]) -> int:
    """``wavbench recipe FILE``."""
    parser = argparse.ArgumentParser(
        prog="wavbench recipe",
        description="Run a study: upstreams x tasks x regimes x budgets x seeds. Stopped, it goes on where it was.",
        allow_abbrev=False,
    )
    parser.add_argument("recipe", metavar="FILE", help="a recipe, as in recipes/")
    parser.add_argument("-o", "--output", metavar="DIR", help="default: results/<name of the recipe>")
    parser.add_argument("--data-root", metavar="DIR", help="holds the corpora; default: $BENCHMARK_DATA, else ./data")
    parser.add_argument("--jobs", type=int, metavar="N", help="cells at a time; default: as cores and memory allow")
    parser.add_argument("--dry-run", action="store_true", help="print the cells and what they cost, and stop")
    options = parser.parse_args(argv)
    if options.jobs is not None and options.jobs < 1:
        raise BenchmarkError(f"--jobs is {options.jobs}; expected at least 1")
    data_root = options.data_root or os.environ.get("BENCHMARK_DATA")
    study = read(Path(options.recipe))
    if options.dry_run:
        print(plan(study, data_root))
        return 0
    from benchmark import results
    from benchmark.engine import run as experiment

    output = Path(options.output or f"results/{study.name}")
    with experiment.exclusive(output):
        every = cells(study)
        failed = run(study, every, output, data_root=data_root, jobs=options.jobs or default_jobs())
    if len(failed) < len(every):
        print(results.markdown(results.collect([output])))
    if failed:
        print(f"{len(failed)} cells failed:", file=sys.stderr)
        for cell, reason in failed.items():
            print(f"  {cell.folder}: {reason}", file=sys.stderr)
        return 1
    print(f"\n{output}: wavbench report {output} -o report.html")
    return 0
