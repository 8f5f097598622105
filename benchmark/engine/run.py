"""The lifecycle of a run: occupy the folder, open its log, prepare, train, evaluate once, write ``result.json``.

The command line, studies and notebooks all run through :func:`run`.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from benchmark import calibration, config, evaluation, plots, results
from benchmark.config import RunConfig
from benchmark.engine import checkpoint
from benchmark.engine import world as processes
from benchmark.engine.cards import read_card, task_class
from benchmark.engine.exact import ExactTrainer
from benchmark.engine.folder import RunLog, check_available, clear, clear_artefacts, exclusive
from benchmark.engine.knn import NeighbourTrainer
from benchmark.engine.prepare import (
    NAMES,
    Prepared,
    Preparer,
    Scored,
    check_device,
    describe,
)
from benchmark.engine.stopping import Interrupted, StopRequest
from benchmark.engine.trainer import Trainer
from benchmark.errors import BenchmarkError
from benchmark.files import write_bytes, write_files, write_text
from benchmark.interfaces import Evaluation

log = logging.getLogger("wavbench")

Mode = Literal["train", "fit", "evaluate"]


@dataclass(frozen=True)
class Outcome:
    """What :func:`run` did."""

    folder: Path
    """Holds ``result.json``; the run's own folder, or one below its ``evaluations/``."""
    best: dict[str, Any]
    """The checkpoint that was chosen on dev: ``step``, ``metric``, ``value``; also ``rank`` unless complete."""
    result: dict[str, Any] | None
    """The content of ``result.json``; ``None`` in mode ``fit``."""
    complete: bool = False
    """The run had nothing left to do."""


def run(
    settings: RunConfig,
    folder: Path,
    *,
    mode: Mode = "train",
    resume: bool = False,
    overwrite: bool = False,
    scored: Scored | None = None,
    preparer: Preparer | None = None,
    group: str | None = None,
    figures: bool = True,
    probe_run: Path | None = None,
) -> Outcome:
    """Run from a configuration to a result.

    Args:
        settings: the configuration.
        folder: the experiment folder.
        mode: ``train``, choose on dev and evaluate once on test; ``fit``: the same without test; ``evaluate`` the
            chosen checkpoint of a trained run again.
        resume: continue the run that the folder holds, if there is one.
        overwrite: start again in a folder that holds a run.
        scored: with ``evaluate``, score this in place of the protocol's test set.
        preparer: what it has found for earlier runs is not looked up again.
        group: what trackers show the run under, of a study its name and cell.
        figures: draw them; a study's report draws those that it shows.
        probe_run: a finished run whose training is the one that ``tune.probe`` asks for.

    Raises:
        BenchmarkError: whatever the user can fix; also written to ``log.txt`` once the folder is the run's.
        Interrupted: Ctrl-C or SIGTERM; what had been done is saved.
    """
    may_differ: list[str] = []
    if mode == "evaluate":
        resume = True
        if not (folder / "config.yaml").exists():
            raise BenchmarkError(f"{folder} holds no run to evaluate; name its folder with -p, -n or -e")
        may_differ = [f"task.{name}" for name in task_class(read_card(settings.downstream)).scoring]
    if not overwrite:  # before the work of preparing, and again under the lock
        check_available(folder, settings, resume=resume, may_differ=may_differ)
    world, preparer = processes.world(), preparer or Preparer()
    with RunLog() as run_log:
        prepared = world.in_turn(partial(preparer.prepare, settings, scored, folder if mode == "evaluate" else None))
        output = _evaluation_folder(folder, settings, scored) if mode == "evaluate" else folder
        with world.held(exclusive(folder)):
            if not overwrite:
                check_available(folder, settings, resume=resume, may_differ=may_differ)
                result = world.same(_finished(folder, prepared) if mode == "train" else None)
                if result is not None:
                    with contextlib.suppress(BenchmarkError):  # a kill came first; a checkpoint that cannot be read
                        world.alone(lambda: checkpoint.prune(folder, settings.trainer.keep))
                    return Outcome(folder, result["selected"], result, complete=True)
            if world.main:
                run_log.open(folder)
            world.advise(f"Resume the run with -e {folder}", run_log.failed)
            try:
                for line in describe(prepared):
                    log.info(line)
                provenance = results.provenance(check_device(settings))
                kinds = {"gradient": Trainer, "exact": ExactTrainer, "knn": NeighbourTrainer}
                trainer = world.agree(
                    lambda: kinds[settings.probe.solver](
                        settings,
                        prepared.task,
                        prepared.upstream,
                        folder,
                        prepared.fingerprint,
                        provenance,
                        prepared.former_digests,
                        run_log.warnings,
                        group,
                    )
                )
                with StopRequest() as stop, trainer.trackers.closing(lambda: stop.requested):
                    world.stop_together(stop)
                    if mode == "evaluate":
                        _take_over(trainer, output)
                    else:
                        probe = (
                            partial(_probe, prepared, preparer, trainer, stop, probe_run) if _probed(trainer) else None
                        )
                        fit(trainer, stop, resume=resume, overwrite=overwrite, probe=probe)
                    assert trainer.best is not None
                    result = None if mode == "fit" else evaluate(prepared, trainer, output, stop, figures=figures)
                    if mode == "train":
                        world.alone(lambda: checkpoint.prune(folder, settings.trainer.keep))
                return Outcome(output, trainer.best, result)
            except BenchmarkError as error:
                run_log.failed(error)
                raise
            except Interrupted as stopped:
                log.info("%s", stopped)
                raise


def _evaluation_folder(folder: Path, settings: RunConfig, scored: Scored | None) -> Path:
    """Where an evaluation is kept: the run's folder, unless it scores something else or otherwise than the run did."""
    changed = config.differences(config.read_yaml(folder / "config.yaml"), settings)  # scoring options, no others
    if scored is None and not changed:
        return folder
    sources = [*changed, *((scored.manifest, scored.trials) if scored else (None, None))]
    suffix = hashlib.sha256(repr(sources).encode()).hexdigest()[:6] if any(sources) else ""
    name = "rescored" if scored is None else scored.name
    return folder / "evaluations" / "-".join(part for part in (name, suffix) if part)


def fit(
    trainer: Trainer,
    stop: StopRequest,
    *,
    resume: bool,
    overwrite: bool,
    probe: Callable[[], Mapping[str, Tensor]] | None = None,
) -> None:
    """Train, or continue training, to the last update; test is not looked at.

    Args:
        trainer: of the run.
        stop: asks it to stop.
        resume: continue the run that the folder holds, if there is one.
        overwrite: remove it.
        probe: gives the parameters beside the upstream's that training starts from.
    """
    folder, settings = trainer.folder, trainer.run
    if overwrite:  # not before everything that the new run needs is known to be there
        trainer.world.alone(lambda: clear(folder))
    resumed = resume and trainer.resume()
    if resumed:
        log.info("resuming at update %d of %d", trainer.step, settings.trainer.max_steps)
    elif resume and (folder / "config.yaml").exists():
        log.info("nothing was saved of this run yet: it starts from the beginning")

    def write() -> None:
        write_text(folder / "config.yaml", config.to_yaml(settings))
        if settings.budget != "all":
            write_text(folder / "budget.txt", "".join(f"{u.id}\n" for u in trainer.task.splits.train))

    trainer.world.alone(write)
    if probe is not None and not resumed:
        trainer.model.load_head(probe())
    trainer.train(stop)


def _probed(trainer: Trainer) -> bool:
    """Whether :func:`_probe` comes before the training."""
    return bool(trainer.run.tune.probe) and trainer.model.upstream_trains


def _probe(
    prepared: Prepared, preparer: Preparer, trainer: Trainer, stop: StopRequest, probe_run: Path | None
) -> Mapping[str, Tensor]:
    """Train the head and the layer weights on the frozen upstream, as ``tune.probe`` has it, or go on with it; those of
    a run that was trained so are taken over."""
    settings = config.probing(prepared.run)
    what = f"{settings.trainer.max_steps} updates on the frozen upstream before fine-tuning"
    log.info("tune.probe: %s%s", what, "" if probe_run is None else f", as {probe_run} was trained")
    probe = Trainer(
        settings,
        prepared.task,
        preparer.upstream(settings),
        probe_run or trainer.folder / checkpoint.PROBE,
        prepared.fingerprint,
        trainer.provenance,
    )
    if probe_run is None:
        with probe.trackers.closing(lambda: stop.requested):
            fit(probe, stop, resume=True, overwrite=False)
        trainer.spent["samples_upstream"] += probe.spent["samples_upstream"]
    else:
        probe.resume()  # compares data and weights
    probe.load_best()
    trainer.spent["samples_seen"] += probe.spent["samples_seen"]
    return probe.model.trained_state()


def _take_over(trainer: Trainer, output: Path) -> None:
    """Load a trained run; :class:`BenchmarkError` if training has not ended: test is looked at once, after it."""
    folder, steps = trainer.folder, trainer.run.trainer.max_steps
    if not checkpoint.path(folder, "last").exists() and (folder / "result.json").exists():
        _restore(trainer, results.read(folder / "result.json"))
    elif not trainer.resume() or trainer.step < steps:
        raise BenchmarkError(
            f"the run in {folder} is at update {trainer.step} of {steps}; test is scored when training has ended. "
            f"Resume it with -e {folder}"
        )

    def begin() -> None:
        clear_artefacts(output)
        write_text(output / "config.yaml", config.to_yaml(trainer.run))

    if output != folder:  # an earlier evaluation here may have been configured otherwise
        trainer.world.alone(begin)


def _restore(trainer: Trainer, result: dict[str, Any]) -> None:
    """Load a run of which only the best checkpoint on dev and the result are there."""
    checkpoint.read(checkpoint.best(trainer.folder), trainer.check_fingerprint)
    trainer.best, trainer.provenance = result["selected"], result["provenance"]
    cost = result["cost"]
    trainer.step = cost["updates"]
    trainer.spent |= {
        "samples_seen": round(cost["audio_seconds_seen"] * trainer.sample_rate),
        "samples_upstream": round(cost["upstream_audio_seconds"] * trainer.sample_rate),
        "wall_seconds": cost["wall_seconds"],
        "peak_memory_bytes": cost["peak_memory_bytes"],
    }
    trainer.warnings[:] = dict.fromkeys([*result["warnings"], *trainer.warnings])


def evaluate(
    prepared: Prepared, trainer: Trainer, folder: Path, stop: StopRequest, *, figures: bool = True
) -> dict[str, Any]:
    """Evaluate the chosen checkpoint on test, write the result into ``folder``, with figures or without, and return
    it."""
    best = trainer.load_best()
    scores, _ = trainer.evaluate("test", stop)
    write = partial(_write_result, prepared, trainer, folder, best, scores, figures=figures)
    result = trainer.world.same(trainer.world.alone(write))
    assert result is not None
    return result


def _write_result(
    prepared: Prepared, trainer: Trainer, folder: Path, best: dict[str, Any], scores: Evaluation, *, figures: bool
) -> dict[str, Any]:
    settings = prepared.run
    fitted = calibration.of_chosen(best.get("calibration"))  # earlier releases kept none
    calibration.apply(scores, fitted)
    layers = best["layers"] or dict.fromkeys(("layer_weights", "layer_key_weights", "layer_norms", "layer_shares"))
    result = {
        "schema": results.SCHEMA,
        "upstream": {"checkpoint": None, "sha256": None} | prepared.upstream.info,
        "downstream": {
            "name": settings.downstream,
            "protocol_version": settings.protocol_version,
            "task": prepared.card["task"],
            "corpus": prepared.card["corpus"],
            "evaluated": "test" if prepared.scored is None else prepared.scored.name,
            "confounds": list(prepared.card.get("confounds", ())),
        },
        "regime": settings.regime,
        "state": None if trainer.model.featurizer.keep is None else trainer.model.featurizer.keep[0],
        "budget": {"name": settings.budget, "seed": None if settings.budget == "all" else settings.seed},
        "seed": settings.seed,
        "selected": {"step": best["step"], "metric": best["metric"], "value": best["value"]},
        "metrics": {"dev": best["dev"], **scores.metrics, **best.get("training", {})},
        "calibration": None if fitted is None else fitted.plain(),
        "layer_key_weights": None,  # best checkpoints of earlier releases have none
        **layers,
        "cost": {
            "updates": trainer.step,
            **({"probe_updates": config.probing(settings).trainer.max_steps} if _probed(trainer) else {}),
            **trainer.costs(),
            "trainable_parameters": sum(p.numel() for p in trainer.parameters),
        },
        "data": {name: prepared.summary(name) for name in NAMES},
        "warnings": list(trainer.warnings),
        "provenance": trainer.provenance,
    }
    write_files(folder, scores.files, figures=figures)
    if scores.items is not None:
        write_text(folder / evaluation.FILE, evaluation.describe(scores.items, list(scores.metrics["test"])))
        if figures and isinstance(scores.items, evaluation.Trials) and scores.items.calibration is not None:
            title = f"{settings.downstream}: {result['downstream']['evaluated']}"
            figure = calibration.bayes_errors(scores.items, title)
            write_bytes(folder / "calibration.png", plots.png(figure))
    if figures and best["layers"] and len(best["layers"]["layer_weights"]) > 1:
        write_bytes(folder / "layer_weights.png", plots.png(plots.layer_weights(result)))
    results.write(folder / "result.json", result)
    trainer.trackers.attach(result, folder)
    return result


def _finished(folder: Path, prepared: Prepared) -> dict[str, Any] | None:
    """The result of a run that has nothing left to do, else ``None``; one on other data or weights is not finished."""
    path = folder / "result.json"
    if not path.exists():
        return None
    result = results.read(path)
    digests = {f"{name} data": result["data"][name]["digest"] for name in result["data"]}
    now, former = prepared.fingerprint, prepared.former_digests
    same = all(digest in (now[name], former[name]) for name, digest in digests.items())
    same = same and checkpoint.weights(folder, result) in (now["upstream"], None)
    return result if same and result["cost"]["updates"] >= prepared.run.trainer.max_steps else None
