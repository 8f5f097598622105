"""Reading results folders: the runs that studies chose, and what their files say of their evaluation.

Everything comes from the folders' own files: ``study.yaml``, ``cell.json``, ``result.json``, ``config.yaml`` and, for
intervals over the test set, ``evaluation.json`` with the files that it describes. No data and no checkpoint are needed,
so that results of several machines can be merged.

Runs in one figure must be comparable, or they are refused: one test set, protocol and metric per task, one checkpoint
per upstream, one configuration per regime (except for what the search varies). A cell that occurs twice with one
configuration is read from the folder named first, with a notice.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmark import config, metrics, results
from benchmark.errors import BenchmarkError
from benchmark.evaluation import About, about_run
from benchmark.files import MARKER
from benchmark.metrics import Metric
from benchmark.study import recipe
from benchmark.study.recipe import Cell, Study, cells, finished
from benchmark.tables import plural


@dataclass(frozen=True, eq=False)
class Run:
    """The run that a cell chose."""

    cell: Cell
    folder: Path
    result: dict[str, Any]
    config: dict[str, Any]
    """Dotted key -> value."""
    outcome: dict[str, Any]
    """``cell.json``; empty for a run outside of a study."""

    @property
    def metric(self) -> str:
        """The metric that selected it on dev."""
        return str(self.result["selected"]["metric"])

    @property
    def value(self) -> float:
        """That metric on test."""
        return float(self.result["metrics"]["test"][self.metric])

    @property
    def rank(self) -> tuple[float, ...] | None:
        """Where it comes on dev, the lowest is the best, as its cell ranked it; ``None`` where no cell did."""
        tried = self.outcome.get("tried", [])
        rank = next((one.get("rank") for one in tried if one["name"] == self.outcome["chosen"]), None)
        return None if rank is None else tuple(rank)

    def about(self) -> About | None:
        """What it says of its evaluation; see :func:`benchmark.evaluation.about_run`."""
        return about_run(self.folder, self.result["downstream"]["task"])

    @property
    def commit(self) -> str:
        """Ten digits of the commit that it ran at, and whether there were uncommitted changes."""
        provenance = self.result["provenance"]
        commit = str(provenance["commit"] or "unknown")[:10]
        return f"{commit} with uncommitted changes" if provenance["dirty"] else commit


@dataclass
class Gathered:
    """Everything that the folders hold."""

    runs: dict[Cell, Run] = field(default_factory=dict)
    absent: dict[Cell, str] = field(default_factory=dict)
    """Cells of the recipes without a result -> why."""
    studies: dict[str, Study] = field(default_factory=dict)
    """By the folder that they were read from."""
    notices: list[str] = field(default_factory=list)
    repeated: int = 0
    """Cells that occurred again, with the same result."""
    synthetic: bool = False
    """A recipe says ``synthetic: true``, or a folder of the data holds the marker."""

    def title(self, part: str, name: str) -> str:
        """What the recipes call one of their ``upstreams``, ``tasks`` or ``regimes``; by default, its key."""
        known = (getattr(study, part).get(name) for study in self.studies.values())
        return next((one.title for one in known if one is not None and one.title), name)


_FREE = (*config.FREE, "device", "features.", "upstream.options.")
"""Keys (or their beginnings) that may differ between machines; the data and weights are compared by digests."""


def gather(folders: Sequence[Path]) -> Gathered:
    """Read studies, and runs outside of studies, at and below some folders.

    Raises:
        BenchmarkError: a folder does not exist or holds no result; a file cannot be read or has another schema; runs
            are not comparable (see the module's description).
    """
    gathered = Gathered()
    for folder in folders:
        if not folder.is_dir():
            raise BenchmarkError(f"no folder {folder}; expected folders written by 'wavbench recipe' (results/<study>)")
        roots = sorted({path.parent for path in folder.rglob("study.yaml")})
        for root in roots:
            _add_study(root, gathered)
        for path in sorted(folder.rglob("result.json")):
            if not any(root in path.parents for root in roots):
                _add_single(path, gathered)
    if not gathered.runs:
        raise BenchmarkError(
            f"no finished cell at or below {', '.join(map(str, folders))}"
            + "".join(f"\n  {cell.folder}: {why}" for cell, why in list(gathered.absent.items())[:5])
        )
    for cell in gathered.absent.keys() & gathered.runs.keys():
        del gathered.absent[cell]
    warned = [run for run in gathered.runs.values() if run.result["warnings"]]
    if warned:
        most = Counter(warning for run in warned for warning in run.result["warnings"]).most_common(3)
        shown = "; ".join(f"{text} ({plural(count, 'run')})" for text, count in most)
        gathered.notices.append(f"{plural(len(warned), 'run')} logged warnings, most often: {shown}.")
    if gathered.repeated:
        gathered.notices.append(
            f"{plural(gathered.repeated, 'cell')} found more than once with the same result; shown once."
        )
    check_comparable(list(gathered.runs.values()), gathered.notices)
    return gathered


def _add_study(root: Path, gathered: Gathered) -> None:
    study = recipe.parse(config.read_yaml(root / "study.yaml"), root / "study.yaml")
    gathered.synthetic |= study.synthetic
    gathered.studies[str(root)] = study
    chosen = set()
    for cell in _cells(study, root, gathered):
        folder = root / cell.folder
        outcome = finished(folder)
        if outcome is not None:
            chosen.add(folder / outcome["chosen"])
            _add(_read(cell, folder / outcome["chosen"], outcome), gathered)
        elif (folder / "error.txt").exists():
            gathered.absent.setdefault(cell, "failed: " + (folder / "error.txt").read_text(encoding="utf-8").strip())
        else:
            gathered.absent.setdefault(cell, "not finished" if folder.exists() else "not run")
    others = [path for path in sorted(root.rglob("result.json")) if not chosen & set(path.parents)]
    if others:
        gathered.notices.append(
            f"{root} has {plural(len(others), 'result')} that no cell of its recipe selected (such as "
            f"{others[0].parent.relative_to(root)}); omitted."
        )


def _cells(study: Study, root: Path, gathered: Gathered) -> list[Cell]:
    """The recipe's cells. The number of an upstream's layers is read from the results, not from its checkpoint."""
    every: list[Cell] = []
    for name, upstream in study.upstreams.items():
        allowed = {
            how: regime for how, regime in study.regimes.items() if upstream.regimes is None or how in upstream.regimes
        }
        regimes = dict(allowed)
        for how, regime in allowed.items():
            if regime.layers == "all":
                number = _layers(root / name, how)
                if number:
                    regimes[how] = dataclasses.replace(regime, layers=list(range(number)))
                else:
                    del regimes[how]
                    gathered.notices.append(f"{root}: no cell of {name}, {how} has been run yet.")
        if regimes:
            every += cells(dataclasses.replace(study, upstreams={name: upstream}, regimes=regimes))
    return every


def _layers(folder: Path, regime: str) -> int:
    """From the layer weights of any result, else from the highest layer that was started."""
    for path in sorted(folder.rglob("result.json")):
        weights = results.read(path)["layer_weights"]
        if weights:
            return len(weights)
    started = [path.name.removeprefix(f"{regime}-") for path in folder.glob(f"*/{regime}-*")]
    return max((int(layer) + 1 for layer in started if layer.isdigit()), default=0)


def _add_single(path: Path, gathered: Gathered) -> None:
    """A run outside of a study; evaluations of other sets are omitted."""
    result = _result(path)
    if result["downstream"]["evaluated"] != "test" or path.parent.parent.name == "evaluations":
        gathered.notices.append(
            f"{path.parent} is an additional evaluation, of '{result['downstream']['evaluated']}'; omitted."
        )
        return
    cell = Cell(
        results.upstream_name(result), result["downstream"]["name"], result["regime"], result["state"],
        result["budget"]["name"], result["seed"],
    )  # fmt: skip
    _add(_read(cell, path.parent, {}), gathered)


def _result(path: Path) -> dict[str, Any]:
    result = results.read(path)
    if result.keys() != results.FIELDS.keys() or "evaluated" not in (result["downstream"] or ()):
        raise BenchmarkError(
            f"{path} lacks fields of result schema {results.SCHEMA}; run wavbench run -m evaluate -e again"
        )
    results.check(path, result)
    return result


def _read(cell: Cell, folder: Path, outcome: dict[str, Any]) -> Run:
    result = _result(folder / "result.json")
    return Run(cell, folder, result, config.flatten(config.read_yaml(folder / "config.yaml")), outcome)


def _add(run: Run, gathered: Gathered) -> None:
    earlier = gathered.runs.setdefault(run.cell, run)
    root = run.config.get("data.root")
    if isinstance(root, str) and root and not gathered.synthetic:
        with contextlib.suppress(OSError):  # the configuration may be from another machine, where this was a name
            gathered.synthetic = any(Path(root).glob(MARKER)) or any(Path(root).glob(f"*/{MARKER}"))
    if earlier is run:
        return
    changed = _differences(earlier, run)
    if changed:
        raise BenchmarkError(
            f"{earlier.folder} and {run.folder} are both {_name(run.cell)}, with different configurations or data "
            f"(first -> second):\n  " + "\n  ".join(changed) + "\nMake a report of each, or omit one"
        )
    if earlier.value == run.value:
        gathered.repeated += 1
    else:
        gathered.notices.append(
            f"{run.folder} repeats {earlier.folder} with a different result ({run.metric} {run.value:.6g} instead of "
            f"{earlier.value:.6g}); the first is shown."
        )


def _upstream(run: Run) -> str:
    """What identifies a run's upstream: the digest of its file, or the architecture of random weights."""
    upstream = run.result["upstream"]
    return f"sha256 {upstream['sha256']}" if upstream["sha256"] else f"no file, {upstream.get('architecture')}"


def _differences(first: Run, second: Run, *, ignored: Sequence[str] = ()) -> list[str]:
    """Differences between two runs' configurations, data and upstreams, as ``key: first -> second``."""
    keys = sorted(first.config.keys() | second.config.keys())
    pairs = [(key, first.config.get(key), second.config.get(key)) for key in keys if not key.startswith(_FREE)]
    for split in ("dev", "test") if ignored else ("train", "dev", "test"):
        pairs.append((f"{split} data", *(run.result["data"][split]["digest"] for run in (first, second))))
    pairs.append(("upstream", _upstream(first), _upstream(second)))
    return [f"{key}: {old} -> {new}" for key, old, new in pairs if str(old) != str(new) and key not in ignored]


def check_comparable(runs: Sequence[Run], notices: list[str]) -> None:
    """Refuse runs that must not share a figure; see the module's description."""

    def check_same(what: str, group: Callable[[Run], Any], value: Callable[[Run], Any]) -> None:
        first: dict[Any, Run] = {}
        for run in runs:
            earlier = first.setdefault(group(run), run)
            if value(earlier) != value(run):
                raise BenchmarkError(
                    f"{earlier.folder} and {run.folder} cannot share a report: {what} differs, {value(earlier)} and "
                    f"{value(run)}. Make a report of each"
                )

    def task(run: Run) -> str:
        return run.cell.task

    check_same("the metric", task, lambda run: run.metric)
    check_same("what chooses on dev", task, lambda run: run.config.get("task.selection", run.metric))
    check_same("the protocol's version", task, lambda run: run.result["downstream"]["protocol_version"])
    check_same("the test set (its digest)", task, lambda run: run.result["data"]["test"]["digest"])
    check_same("the upstream", lambda run: run.cell.upstream, _upstream)
    first: dict[Any, Run] = {}
    for run in runs:
        earlier = first.setdefault((run.cell.upstream, run.cell.task, run.cell.regime), run)
        searched = {key for of in (earlier, run) for tried in of.outcome.get("tried", []) for key in tried["candidate"]}
        changed = _differences(earlier, run, ignored=("seed", "budget", "featurizer.layer", *searched))
        if changed:
            raise BenchmarkError(
                f"{earlier.folder} and {run.folder} have one regime but different configurations (first -> second):\n  "
                + "\n  ".join(changed)
                + "\nMake a report of each, or give the regimes different names in the recipes"
            )
    trained: dict[tuple[str, str, int], set[str]] = {}
    for run in runs:
        key = (run.cell.task, run.cell.budget, run.cell.seed)
        trained.setdefault(key, set()).add(run.result["data"]["train"]["digest"])
    for (name, amount, seed), digests in trained.items():
        if len(digests) > 1:
            notices.append(f"{name}, budget {amount}, seed {seed}: not all regimes trained on the same utterances.")


def _name(cell: Cell) -> str:
    how = cell.regime if cell.layer is None else f"{cell.regime}, layer {cell.layer}"
    return f"{cell.upstream}, {cell.task}, {how}, budget {cell.budget}, seed {cell.seed}"


def declaration(run: Run) -> Metric | None:
    """The metric that selected a run, as the run declares it, else as this process does; ``None``: undeclared."""
    try:
        about = run.about()
    except BenchmarkError:  # also the reason why there is no interval
        about = None
    return (about.metrics if about else {}).get(run.metric) or metrics.METRICS.get(run.metric)
