"""What a study runs: recipes, and the cells that they combine to.

A recipe is a YAML file: upstreams x tasks x regimes x budgets x seeds (:class:`Study`). A cell is one combination. It
trains one run for every candidate of its regime's search, chooses among them on dev, and scores the test set once, with
the chosen one::

    <output>/study.yaml                                  the recipe, as it was run
    <output>/<upstream>/<task>/<regime>/<budget>/seed<N>/<candidate>/   a run; the chosen one has result.json
    <output>/<upstream>/<task>/<regime>/<budget>/seed<N>/cell.json      what was tried, what was chosen
"""

from __future__ import annotations

import functools
import itertools
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any, cast

from omegaconf import OmegaConf
from omegaconf.errors import ConfigKeyError, OmegaConfBaseException

from benchmark import config, registry, shapes
from benchmark.errors import BenchmarkError


@dataclass
class StudyUpstream:
    """One of the study's upstreams."""

    name: str = "???"
    title: str = ""
    """How the report names it; default: its key in the recipe."""
    checkpoint: str | None = None
    """As ``-k`` takes it; a path may also be relative to the recipe."""
    options: dict[str, Any] = field(default_factory=dict)
    regimes: list[str] | None = None
    """Only these of the study's regimes."""
    budgets: list[str] | None = None
    """Only these of each task's budgets."""


@dataclass
class StudyTask:
    """One of the study's downstreams."""

    title: str = ""
    """How the report names it; default: its key in the recipe."""
    config: Any = None
    """Values over the protocol card's, for all regimes: a mapping, or a YAML file beside the recipe."""
    budgets: list[str] = field(default_factory=lambda: ["all"])
    """As ``--budget`` takes them, smallest first."""
    regimes: list[str] | None = None
    """Only these of the study's regimes."""
    targets: dict[str, Any] = field(default_factory=dict)
    """Published results that the full study should meet, with their source; shown in the report."""


@dataclass
class StudyRegime:
    """One of the study's regimes."""

    regime: str = "frozen"
    title: str = ""
    """How the report names it; default: its key in the recipe."""
    layers: Any = None
    """``single_layer``: a list of layers, or ``all``."""
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
    layer: int | None
    budget: str
    seed: int

    @property
    def folder(self) -> Path:
        """Its place in the study's folder."""
        regime = self.regime if self.layer is None else f"{self.regime}-{self.layer}"
        budget = self.budget.replace("/", "-per-").replace("%", "pct")
        return Path(self.upstream) / self.task / regime / budget / f"seed{self.seed}"


def parse(values: Mapping[str, Any], source: Path) -> Study:
    """A study from the content of a recipe; nothing is looked up.

    Raises:
        BenchmarkError: an unknown key or a wrong type.
    """
    values = dict(values)
    regimes = values.get("regimes")
    if isinstance(regimes, Mapping):
        values["regimes"] = {name: _current_names(regime) for name, regime in regimes.items()}
    try:
        study = cast(Study, OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(Study), values)))
    except ConfigKeyError as error:
        known = [one.name for one in fields(error.object_type)] if is_dataclass(error.object_type) else []
        more = registry.suggest(str(error.key), known, noun="keys")
        raise BenchmarkError(f"recipe {source}: unknown key '{error.full_key}'. {more}") from error
    except OmegaConfBaseException as error:
        raise BenchmarkError(f"recipe {source}: {str(error).splitlines()[0]} (at {error.full_key})") from error
    budgets = {name: task.budgets for name, task in study.tasks.items()}
    lists = {"plugins": study.plugins, "seeds": study.seeds, "budgets": budgets}
    if wrong := shapes.problem(lists, {"plugins": [str], "seeds": [int], "budgets": {...: [str]}}):  # a list in a list
        raise BenchmarkError(f"recipe {source}: {wrong}")
    return study


def _current_names(regime: Any) -> Any:
    """A regime of a recipe with the keys of earlier versions under their current names."""
    if not isinstance(regime, Mapping):
        return regime
    renamed = {"layers" if key == "states" else key: value for key, value in regime.items()}
    return config.current_names(renamed)


def read(path: Path) -> Study:
    """Read a recipe.

    Raises:
        BenchmarkError: an unknown key or a wrong type; names that no registry has; regimes with searches of different
            sizes, which would favour the one that tries more.
    """
    study = parse(config.read_yaml(path), path)
    study.plugins = [str((path.parent / plugin).resolve()) for plugin in study.plugins]
    registry.load_plugin(*study.plugins)
    for key in ("upstreams", "tasks", "regimes", "seeds"):
        if not getattr(study, key):
            raise BenchmarkError(f"recipe {path} names no {key}")
    for upstream in study.upstreams.values():
        registry.upstreams.get(upstream.name)
        if upstream.checkpoint is not None and (beside := path.parent / upstream.checkpoint).exists():
            upstream.checkpoint = str(beside.resolve())
    for name in study.tasks:
        registry.downstreams.get(name)
    for regime in study.regimes.values():
        registry.regimes.get(regime.regime)
    parts: list[Study | StudyTask | StudyRegime] = [study, *study.tasks.values(), *study.regimes.values()]
    for part in parts:
        if isinstance(part.config, str):
            part.config = config.read_yaml(path.parent / part.config)
        part.config = _beside(path.parent, part.config)
    for name, regime in study.regimes.items():
        folders = Counter(map(candidate_name, candidates(regime)))
        if twice := [folder for folder, count in folders.items() if count > 1]:
            raise BenchmarkError(
                f"recipe {path}: the search of regime '{name}' tries {', '.join(twice)} more than once"
            )
    sizes = {name: len(candidates(regime)) for name, regime in study.regimes.items()}
    if len(set(sizes.values())) > 1:
        raise BenchmarkError(
            f"recipe {path}: the regimes try different numbers of candidates ({sizes}), which favours those that try "
            "more; give each as many values to search"
        )
    _check_restrictions(study, path)
    return study


def _beside(folder: Path, values: Any) -> Any:
    """Values of a recipe; manifests that lie beside it are found from anywhere."""
    data = values.get("data") if isinstance(values, Mapping) else None
    if not isinstance(data, Mapping):
        return values
    found = {name: folder / data[name] for name in config.MANIFESTS if isinstance(data.get(name), str)}
    return {**values, "data": {**data, **{name: str(path.resolve()) for name, path in found.items() if path.exists()}}}


def _check_restrictions(study: Study, path: Path) -> None:
    """Refuse restrictions of single upstreams and regimes to what the study does not have."""
    budgets = list(dict.fromkeys(budget for task in study.tasks.values() for budget in task.budgets))
    available = {"tasks": list(study.tasks), "regimes": list(study.regimes), "budgets": budgets}
    parts: list[tuple[str, StudyUpstream | StudyRegime]] = [
        *((f"upstream '{name}'", upstream) for name, upstream in study.upstreams.items()),
        *((f"regime '{name}'", regime) for name, regime in study.regimes.items()),
    ]
    for title, part in parts:
        for key, names in available.items():
            for name in getattr(part, key, None) or ():
                if name not in names:
                    raise BenchmarkError(
                        f"recipe {path}: {title} names '{name}' among its {key}. "
                        + registry.suggest(name, names, noun=f"{key} of this study")
                    )


def candidates(regime: StudyRegime) -> list[dict[str, Any]]:
    """The combinations that a regime's search tries: dotted option -> value."""
    return [dict(zip(regime.search, values, strict=True)) for values in itertools.product(*regime.search.values())]


def candidate_name(candidate: Mapping[str, Any]) -> str:
    """The folder of a candidate's run in its cell."""
    parts = [f"{key.rpartition('.')[2]}={_written(value)}" for key, value in candidate.items()]
    return "-".join(parts).replace("/", "_") or "run"


def _written(value: Any) -> str:
    """A value of a recipe as ``-o`` takes it."""
    return "null" if value is None else str(value)


def cells(study: Study) -> list[Cell]:
    """All cells, in the order of the recipe: upstreams, tasks, regimes, then budgets, layers and seeds."""
    every: list[Cell] = []

    @functools.cache
    def states(name: str) -> int:
        upstream = study.upstreams[name]
        return registry.load_upstream(upstream.name, checkpoint=upstream.checkpoint, **upstream.options).num_states

    for (upstream_name, upstream), (task_name, task), (regime_name, regime) in itertools.product(
        study.upstreams.items(), study.tasks.items(), study.regimes.items()
    ):
        if any(part.regimes is not None and regime_name not in part.regimes for part in (upstream, task)):
            continue
        budgets = [
            budget
            for budget in task.budgets
            if all(part.budgets is None or budget in part.budgets for part in (upstream, regime))
        ]
        seeds = [seed for seed in study.seeds if regime.seeds is None or seed in regime.seeds]
        layers = _layers(regime_name, regime, functools.partial(states, upstream_name))
        every += [
            Cell(upstream_name, task_name, regime_name, layer, budget, seed)
            for budget, layer, seed in itertools.product(budgets, layers, seeds)
        ]
    if len({cell.folder for cell in every}) < len(every):
        raise BenchmarkError(f"study '{study.name}' has duplicate cells: a budget, layer or seed is listed twice")
    for name in study.upstreams:
        if not any(cell.upstream == name for cell in every):
            raise BenchmarkError(
                f"study '{study.name}': upstream '{name}' has no cell: none of its regimes has a budget and a seed in "
                "common with it and a task"
            )
    return every


def _layers(name: str, regime: StudyRegime, states: Callable[[], int]) -> Sequence[int | None]:
    """The layers that a regime trains on, each in a cell of its own; ``None``: not on single layers. ``states`` counts
    those of the upstream, which it loads for that."""
    if regime.layers is None and regime.regime not in registry.regimes:  # a plug-in's, which a report does not need
        return [None]
    if not config.find_regime(regime.regime).single_layer:
        return [None]
    if regime.layers == "all":
        return range(states())
    if isinstance(regime.layers, list) and regime.layers:
        if (layers := [int(layer) for layer in regime.layers]) and min(layers) < 0:
            raise BenchmarkError(f"regime '{name}': layers of a recipe are counted from 0, found {min(layers)}")
        return layers
    raise BenchmarkError(f"regime '{name}': '{regime.regime}' needs layers: a list of numbers, or all")


def run_config(study: Study, cell: Cell, candidate: Mapping[str, Any], data_root: str | None) -> config.RunConfig:
    """The configuration of one run of a cell."""
    from benchmark.engine.prepare import configure  # imports torch

    upstream, task, regime = study.upstreams[cell.upstream], study.tasks[cell.task], study.regimes[cell.regime]
    cell_values: dict[str, Any] = {
        "upstream": {"name": upstream.name, "checkpoint": upstream.checkpoint, "options": upstream.options},
        "regime": regime.regime,
        "budget": cell.budget,
        "seed": cell.seed,
        **({} if cell.layer is None else {"featurizer": {"layer": cell.layer}}),
        **({} if data_root is None else {"data": {"root": data_root}}),
    }
    layers = [
        (f"study {study.name}, config", study.config or {}),
        (f"study {study.name}, task {cell.task}", task.config or {}),
        (f"study {study.name}, regime {cell.regime}", regime.config or {}),
        (f"study {study.name}, regime {cell.regime}, task {cell.task}", regime.tasks.get(cell.task, {})),
        (f"study {study.name}, cell", cell_values),
    ]
    return configure(cell.task, layers, [f"{key}={_written(value)}" for key, value in candidate.items()])


def finished(folder: Path) -> dict[str, Any] | None:
    """What ``cell.json`` keeps of a cell that is done, else ``None``."""
    try:
        outcome: dict[str, Any] = json.loads((folder / "cell.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return outcome if (folder / outcome["chosen"] / "result.json").exists() else None
