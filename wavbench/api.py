"""What ``import wavbench`` offers. Heavy imports are inside of the functions, which are thin over the engine."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmark.errors import BenchmarkError
from benchmark.registry import list_downstreams, list_upstreams, load_plugin, load_upstream

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from numpy.typing import ArrayLike, NDArray

    from benchmark.engine.predict import TrainedRun
    from benchmark.evaluation import Items
    from benchmark.interfaces import Upstream

    StrPath = str | os.PathLike[str]

__all__ = [
    "Result", "check_upstream", "leave_groups_out", "list_downstreams", "list_upstreams", "load_plugin", "load_results",
    "load_run", "load_upstream", "plot_confusion", "plot_det", "plot_layer_weights", "report", "run", "study",
]  # fmt: skip


class Result(dict[str, Any]):
    """The content of a run's ``result.json`` (fields: :data:`benchmark.results.FIELDS`), and where it is.

    Printed, it is the table that the command prints.
    """

    folder: Path
    """The experiment folder."""

    def __init__(self, content: Mapping[str, Any], folder: Path) -> None:
        super().__init__(content)
        self.folder = folder

    def __str__(self) -> str:
        from benchmark import results

        return results.table(self)


def run(
    upstream: str,
    downstream: str,
    *,
    folder: StrPath | None = None,
    data_root: StrPath | None = None,
    plugins: StrPath | Sequence[StrPath] = (),
    resume: bool = True,
    overwrite: bool = False,
    quick: bool = False,
    **values: Any,
) -> Result:
    """Train a downstream task on an upstream's hidden states, choose on dev, evaluate once on test.

    The same run as ``run_downstream.py -u UPSTREAM -d DOWNSTREAM``; works in notebooks and in any thread.

    >>> run("wav2vec2_base", "voxceleb1_sv", data_root="/corpora", lr=1e-4, budget="10min")
    >>> run("wav2vec2_base", "asr", train="a.jsonl", dev="b.jsonl", test="c.jsonl", regime="finetune")
    >>> run("wav2vec2_tiny", "voxceleb1_sid", layer=3, task={"head": {"name": "ecapa"}})

    Args:
        upstream: a name of :func:`list_upstreams`.
        downstream: a name of :func:`list_downstreams`.
        folder: the experiment folder; default ``results/<upstream>-<downstream>-<regime>-<digest>``.
        data_root: holds the corpora; default ``$BENCHMARK_DATA``, else ``./data``.
        plugins: files that register more names.
        resume: continue the run that the folder holds; a complete one is returned as it is.
        overwrite: start again in a folder that holds a run.
        quick: a run of a minute or two on a small synthetic corpus.
        values: any configuration value (:class:`benchmark.config.RunConfig`) by its own name where only one option is
            called so (``lr``, ``max_steps``, ``seed``), with its path (``optim__lr``), or as nested mappings
            (``optim={"lr": 1e-4}``). ``layer`` implies the regime ``single_layer``, ``top_blocks`` ``partial``.

    Returns:
        the result, with its ``folder``.

    Raises:
        BenchmarkError: whatever the user can fix.
        Interrupted: Ctrl-C; the run is saved.
    """
    from benchmark import config
    from benchmark.engine.cards import read_card, task_class
    from benchmark.engine.prepare import configure, default_folder
    from benchmark.engine.run import run as run_settings
    from benchmark.engine.world import joined

    files = [plugins] if isinstance(plugins, str | os.PathLike) else plugins
    load_plugin(*files)
    card = read_card(downstream)
    layers: list[tuple[str, Any]] = []
    if "regime" not in values:
        implied = {"layer": "single_layer", "top_blocks": "partial"}
        layers += [(f"{name}=", {"regime": regime}) for name, regime in implied.items() if values.get(name) is not None]
    if root := data_root or (None if quick else os.environ.get("BENCHMARK_DATA")):
        layers.append(("data_root", {"data": {"root": os.fspath(root)}}))
    layers += [(f"{key}=", value) for key, value in config.expand(values, task_class(card).Config)]
    layers.append(("upstream", {"upstream": {"name": upstream}}))
    layers.append(("plugins", {"plugins": [str(Path(plugin).resolve()) for plugin in files]}))
    settings = configure(downstream, layers, quick=quick)
    where = Path(folder or default_folder(settings))
    with joined():
        outcome = run_settings(settings, where, resume=resume and not overwrite, overwrite=overwrite)
    assert outcome.result is not None
    return Result(outcome.result, outcome.folder)


def check_upstream(upstream: str | Upstream, **options: Any) -> None:
    """Check what an upstream promises, as ``wavbench check-upstream`` does: frames of many input lengths, states that
    do not depend on padding, ``keep``, silence, gradients, precision …

    Args:
        upstream: a name, or a loaded upstream.
        options: as :func:`load_upstream` takes them.

    Raises:
        BenchmarkError: lists what is not as :class:`benchmark.interfaces.Upstream` says, and what to do.
    """
    from benchmark.engine.conformance import check

    check(load_upstream(upstream, **options) if isinstance(upstream, str) else upstream)


def load_run(folder: StrPath, *, device: str = "auto") -> TrainedRun:
    """A trained run, to be applied: ``load_run("results/x").predict(["a.wav"])``.

    Raises:
        BenchmarkError: there is no trained run in the folder.
    """
    from benchmark.engine.predict import TrainedRun

    return TrainedRun(Path(folder), device=device)


def load_results(*folders: StrPath) -> list[dict[str, Any]]:
    """The results at and below some folders as flat rows, ready for ``pandas.DataFrame``.

    Raises:
        BenchmarkError: there is none.
    """
    from benchmark import results

    return results.rows([Path(folder) for folder in folders])


def study(
    recipe: StrPath, output: StrPath | None = None, *, data_root: StrPath | None = None, jobs: int | None = None
) -> list[dict[str, Any]]:
    """Run a study, or the rest of it; the same as ``wavbench recipe``.

    Args:
        recipe: a YAML file.
        output: the study's folder; default ``results/<name of the recipe>``.
        data_root: holds the corpora; default ``$BENCHMARK_DATA``, else as the recipe says.
        jobs: cells at a time, each in a process of its own; default as cores and memory allow.

    Returns:
        the rows of :func:`load_results`.

    Raises:
        BenchmarkError: the recipe is wrong, or cells failed.
    """
    from benchmark.study.executors import run_study
    from benchmark.study.recipe import read

    if getattr(multiprocessing.current_process(), "_inheriting", False):
        raise BenchmarkError(
            "wavbench.study starts processes that import the script it is called in: put the call under "
            "if __name__ == '__main__':"
        )
    content = read(Path(recipe))
    folder = Path(output or f"results/{content.name}")
    root = data_root or os.environ.get("BENCHMARK_DATA")
    failed = run_study(content, folder, data_root=None if root is None else os.fspath(root), jobs=jobs)
    if failed:
        reasons = "\n  ".join(f"{cell.folder}: {reason}" for cell, reason in failed.items())
        raise BenchmarkError(f"{len(failed)} cells of {recipe} failed; the others are kept in {folder}:\n  {reasons}")
    return load_results(folder)


def leave_groups_out(features: ArrayLike, classes: ArrayLike, groups: ArrayLike, penalty: float) -> NDArray[Any]:
    """Leave-one-speaker-out in closed form: for each utterance, what a linear classifier predicts that was trained on
    all other groups.

    >>> predicted = leave_groups_out(embeddings, languages, speakers, penalty=0.01)
    >>> accuracy = (predicted == languages).mean()

    The classifier is ridge regression of class indicators on centred features, scaled by one number to a mean variance
    of 1; classes have equal priors. The result is that of fitting it again for each group.

    Args:
        features: (utterance, dim): embeddings, or means of hidden states over time.
        classes: (utterance,): any values.
        groups: (utterance,): any values: speakers, sessions.
        penalty: more than 0; of the squared weights, where the mean squared error of the training data has factor 1.

    Returns:
        (utterance,): the predicted values of ``classes``.

    Raises:
        BenchmarkError: arguments of different lengths, or one group alone.
    """
    from benchmark.engine import exact

    return exact.leave_groups_out(features, classes, groups, penalty)


def report(*folders: StrPath, output: StrPath = "report.html", title: str | None = None) -> Path:
    """Write the report on some results folders, with its tables and figures beside it; the same as ``wavbench report``.

    Raises:
        BenchmarkError: there is no result, or results that cannot be compared.
    """
    from benchmark.report import page

    report = page.make([Path(folder) for folder in folders], title=title, stem=Path(output).stem)
    page.write(report, Path(output))
    return Path(output)


def plot_layer_weights(result: Mapping[str, Any] | StrPath) -> Figure:
    """The softmax weights of a result of the weighted sum over layers.

    Args:
        result: what :func:`run` returned, or an experiment folder.

    Raises:
        BenchmarkError: the run used a single layer.
    """
    from benchmark import plots, results

    content = result if isinstance(result, Mapping) else results.read(Path(result) / "result.json")
    return plots.layer_weights(content)


def plot_det(result: Result | StrPath) -> Figure:
    """The detection error trade-off on test of a verification run, or of language identification, each against each.

    Args:
        result: what :func:`run` returned, or an experiment folder.

    Raises:
        BenchmarkError: the run has no detection scores.
    """
    from benchmark import evaluation, plots

    curve = evaluation.det_curve(_items(result))
    if curve is None:
        raise BenchmarkError("this run has no detection scores")
    return plots.det({"test": curve}, "")


def plot_confusion(result: Result | StrPath) -> Figure:
    """The confusion matrix on test of a classification run.

    Args:
        result: what :func:`run` returned, or an experiment folder.

    Raises:
        BenchmarkError: the run is not of a classification task.
    """
    from benchmark import evaluation, metrics, plots

    items = _items(result)
    if not isinstance(items, evaluation.Classes):
        raise BenchmarkError(f"this run has {items.kind}, not classes: there is no confusion matrix")
    matrix = metrics.confusion_matrix(items.references, items.predictions, len(items.names))
    return plots.confusion(matrix, items.names, "")


def _items(result: Result | StrPath) -> Items:
    from benchmark import evaluation, results

    if isinstance(result, Mapping) and not isinstance(result, Result):
        raise BenchmarkError("this plot needs the files of the run: give what wavbench.run returned, or its folder")
    folder = result.folder if isinstance(result, Result) else Path(result)
    about = evaluation.about_run(folder, results.read(folder / "result.json")["downstream"]["task"])
    if about is None:
        raise BenchmarkError(f"{folder} has no {evaluation.FILE}: its task does not say what its metrics are made of")
    return evaluation.read_items(folder, about)
