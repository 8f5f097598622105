"""A run from its configuration to ``result.json``: find the data and the model, train, evaluate once, report."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import logging
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmark import config, plots, registry, results
from benchmark.data import audio, budget, manifest
from benchmark.config import RunConfig
from benchmark.errors import BenchmarkError
from benchmark.files import remove_partial, write_files, write_text
from benchmark.interfaces import Corpus, Task, Upstream
from benchmark.engine.trainer import StopRequest, Trainer

log = logging.getLogger("wavbench")

ARTEFACTS = ("result.json", "*.png", "predictions*.jsonl", "scores*.txt", "*.trn", "*.csv", "budget.txt", "config.yaml")
"""What a run leaves in its folder, beside ``log.txt``, ``checkpoints/``, ``tensorboard/`` and ``evaluations/``."""


@dataclass
class Prepared:
    """A run whose configuration, data and model have been found to be in order."""

    run: RunConfig
    card: Mapping[str, Any]
    task: Task
    upstream: Upstream
    dropped: dict[str, int]
    """Why -> how many training utterances were left out for it."""
    evaluated: str = "test"
    """What stands for ``test``: the protocol's own test set, or what ``-m evaluate`` was pointed at."""

    def seconds(self, split: str) -> NDArray[np.float64]:
        """Duration of each utterance of a split."""
        return np.array([self.task.seconds[utterance.id] for utterance in self.task.splits[split]])


@dataclass
class Target:
    """What ``-m evaluate`` scores in place of the protocol's test set."""

    name: str
    """A split or trial list of the corpus, or what results on ``manifest`` are called."""
    manifest: str | None = None
    trials: str | None = None


def read_card(name: str) -> dict[str, Any]:
    """The protocol card of a downstream, under its canonical name."""
    card = registry.downstreams.get(name).load()()
    if not isinstance(card, Mapping) or not {"name", "task", "corpus"} <= card.keys():
        raise BenchmarkError(f"downstream '{name}': its card must be a mapping with name, task and corpus")
    return dict(card)


def task_class(card: Mapping[str, Any]) -> type[Task]:
    """The task that a card names, by a registered name or as ``module:attr``."""
    found: type[Task] = _resolve(registry.tasks, card["task"])
    return found


def _resolve(of: registry.Registry, name: str) -> Any:
    if ":" not in name:
        return of.get(name).load()
    module, _, attr = name.partition(":")
    try:
        return getattr(import_module(module), attr)
    except (ImportError, AttributeError) as error:
        raise BenchmarkError(f"{of.kind} '{name}' cannot be imported: {error}") from error


def prepare(run: RunConfig, card: Mapping[str, Any], target: Target | None = None) -> Prepared:
    """Find the corpus and the model, and check every utterance's header, before anything is written.

    Args:
        run: the configuration.
        card: the protocol card of its downstream.
        target: evaluate on this instead of the protocol's test set.

    Raises:
        BenchmarkError: whatever is missing, corpus and checkpoint together.
    """
    _device_name(run)
    entry = registry.upstreams.get(run.upstream.name)
    try:
        corpus = find_corpus(run, card)
        task = task_class(card)(run.task, corpus)
        if target is not None and target.manifest is not None:
            task.retarget("test", manifest.corpus(test=target.manifest, trials=target.trials))
        elif target is not None:
            task.retarget(target.name, corpus)
    except BenchmarkError as error:
        missing = entry.missing(run.upstream.checkpoint)
        if target is not None and card["corpus"] == manifest.OWN_DATA:
            error = BenchmarkError(
                f"{error}\nThe run's own manifests are needed too; where they lie elsewhere now, say so: "
                "-o data.train=FILE data.dev=FILE data.test=FILE"
            )
        raise BenchmarkError(f"{error}\n\n{missing}" if missing else str(error)) from error
    if target is None:
        manifest.check_disjoint({name: task.splits[name] for name in ("train", "dev", "test")})
    torch.manual_seed(run.seed)  # an upstream with random weights has the same ones when the run goes on
    options = _tuning_options(run) | run.upstream.options
    upstream = registry.load_upstream(run.upstream.name, checkpoint=run.upstream.checkpoint, **options)
    utterances = {u.id: u for name in ("train", "dev", "test") for u in (*task.splits[name], *task.support(name))}
    seconds = audio.durations(list(utterances.values())).tolist()
    task.seconds = dict(zip(utterances, seconds, strict=True))
    dropped = _drop_unusable(run, task, upstream)
    train = task.splits["train"]
    task.splits["train"] = budget.choose(run.budget, train, task.seconds, seed=run.seed, strata=task.strata)
    prepared = Prepared(run, card, task, upstream, dropped)
    prepared.evaluated = "test" if target is None else target.name
    for name in ("train", "dev", "test"):
        _refuse_too_short(name, prepared)
    if run.data.crop_seconds is not None:
        crop = torch.tensor([int(run.data.crop_seconds * upstream.sample_rate)])
        if int(upstream.output_lengths(crop)) < 1:
            raise BenchmarkError(
                f"data.crop_seconds={run.data.crop_seconds} is too short for a single frame of upstream "
                f"'{run.upstream.name}'"
            )
    return prepared


def _tuning_options(run: RunConfig) -> dict[str, Any]:
    """Those of ``tune.options`` that the upstream has, where it is trained."""
    if run.regime not in config.TRAINING_REGIMES:
        return {}
    entry = registry.upstreams.get(run.upstream.name)
    known = {name: value for name, value in run.tune.options.items() if registry.takes(entry.load(), name)}
    if len(known) < len(run.tune.options):
        left_out = ", ".join(name for name in run.tune.options if name not in known)
        log.warning("upstream '%s' has no option %s (tune.options); it is trained without", run.upstream.name, left_out)
    return known


def find_corpus(run: RunConfig, card: Mapping[str, Any]) -> Corpus:
    """The corpus that a card names, or the manifests of own data.

    Raises:
        BenchmarkError: it is not there; manifests are given to a protocol that fixes its data, or none to one that
            takes them.
    """
    given = {name: getattr(run.data, name) for name in config.MANIFESTS if getattr(run.data, name) is not None}
    if card["corpus"] != manifest.OWN_DATA:
        if given:
            flags = ", ".join(f"--{name}" for name in given)
            raise BenchmarkError(
                f"{flags}: '{card['name']}' is a protocol on the corpus '{card['corpus']}'. For your own data, "
                f"take -d {card['task']}; to score a trained run on other data, -m evaluate"
            )
        corpus: Corpus = _resolve(registry.corpora, card["corpus"])(Path(run.data.root))
        return corpus
    absent = [f"--{name}" for name in ("train", "test") if name not in given]
    if absent:
        raise BenchmarkError(
            f"-d {card['name']} takes your own data: {' and '.join(absent)} missing. Give manifests (JSONL or CSV), as "
            "wavbench prepare writes them: --train train.jsonl --dev dev.jsonl --test test.jsonl"
        )
    return manifest.corpus(**given)


def frame_counts(upstream: Upstream, seconds: NDArray[np.float64]) -> NDArray[np.int64]:
    """Frames that the upstream gives of utterances of these durations."""
    samples = torch.from_numpy(np.floor(seconds * upstream.sample_rate).astype(np.int64))
    frames: NDArray[np.int64] = upstream.output_lengths(samples).numpy()
    return frames


def _drop_unusable(run: RunConfig, task: Task, upstream: Upstream) -> dict[str, int]:
    """Take the training utterances that cannot be used out of the split; why -> how many."""
    if run.data.crop_seconds is not None and not task.croppable:
        raise BenchmarkError(
            f"data.crop_seconds={run.data.crop_seconds}: a stretch of an utterance does not have the labels of the "
            "whole in this task; set it to null"
        )
    train = task.splits["train"]
    seconds = np.array([task.seconds[utterance.id] for utterance in train])
    frames = frame_counts(upstream, seconds)
    needed = np.array([task.frames_needed(utterance) for utterance in train])
    short = seconds <= run.data.min_seconds
    unlearnable = ~short & (needed > 1) & (frames < needed)
    task.splits["train"] = [u for u, drop in zip(train, short | unlearnable, strict=True) if not drop]
    dropped = {"too short": int(short.sum()), "shorter than their labels": int(unlearnable.sum())}
    if not task.splits["train"]:
        raise BenchmarkError(
            f"no training utterance is left: {dropped['too short']} are not longer than "
            f"data.min_seconds={run.data.min_seconds} s, {dropped['shorter than their labels']} have fewer frames than "
            "labels"
        )
    return dropped


def _refuse_too_short(split: str, prepared: Prepared) -> None:
    upstream, utterances, seconds = prepared.upstream, prepared.task.splits[split], prepared.seconds(split)
    bad = np.flatnonzero(frame_counts(upstream, seconds) < 1).tolist()
    if bad:
        shown = ", ".join(f"{utterances[i].id} ({seconds[i] * 1000:.0f} ms)" for i in bad[:5])
        raise BenchmarkError(
            f"{len(bad)} {split} utterances are too short for a single frame of this upstream: {shown}"
            f"{', …' if len(bad) > 5 else ''}. Remove them"
            + (", or set -o data.min_seconds" if split == "train" else " from the list")
        )


def occupy(folder: Path, run: RunConfig, *, resume: bool, but: Sequence[str] = ()) -> None:
    """Make sure that a run may write into ``folder``; options that start like one of ``but`` may have changed.

    Raises:
        BenchmarkError: it holds a run and ``resume`` was not said, or a run of another configuration.
    """
    saved = folder / "config.yaml"
    if not saved.exists() and not (folder / "checkpoints" / "last.pt").exists():
        return
    if not resume:
        raise BenchmarkError(
            f"{folder} already holds a run. Add -a to go on with it, --overwrite to start it again, or -p / -n for "
            "another folder"
        )
    changed = config.differences(config.read_yaml(saved), run, but=but)
    if changed:
        raise BenchmarkError(
            f"{folder} holds a run with another configuration (saved -> now):\n  "
            + "\n  ".join(changed)
            + f"\nGo on with the saved one by -e {folder}, or choose another folder with -p"
        )


def _clear(folder: Path) -> None:
    """Remove the run that a folder holds, its configuration last, and nothing else."""
    for name in ("checkpoints", "tensorboard", "evaluations"):
        shutil.rmtree(folder / name, ignore_errors=True)
    _clear_artefacts(folder)


def _clear_artefacts(folder: Path) -> None:
    for pattern in ARTEFACTS:
        for path in folder.glob(pattern):
            path.unlink()


@contextlib.contextmanager
def exclusive(folder: Path) -> Iterator[None]:
    """Hold ``folder`` for this process; :class:`BenchmarkError` while another run holds it."""
    path = folder / ".lock"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = open(path, "w")  # noqa: SIM115  (held for the whole run)
    except OSError as error:
        raise BenchmarkError(f"cannot write into {folder}: {error.strerror}. Choose another folder with -p") from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise BenchmarkError(f"another process is running in {folder}; wait for it or choose another -p") from error
        except OSError as error:  # a file system without locks
            log.warning("%s cannot be locked (%s); do not run two processes in it", folder, error.strerror)
        remove_partial(folder)
        yield


def train(prepared: Prepared, folder: Path, *, resume: bool, overwrite: bool = False) -> dict[str, Any]:
    """Train (or go on training), evaluate the chosen checkpoint once on test, write the result and return it."""
    with StopRequest() as stop:
        return _finish(prepared, fit(prepared, folder, stop, resume=resume, overwrite=overwrite), folder, stop)


def fit(prepared: Prepared, folder: Path, stop: StopRequest, *, resume: bool, overwrite: bool = False) -> Trainer:
    """Train, or go on training, to the last update; test is not looked at."""
    trainer = _trainer(prepared, folder)
    if overwrite:  # not before everything that the new run needs is known to be there
        _clear(folder)
    if resume and trainer.resume():
        log.info("going on from update %d of %d", trainer.step, prepared.run.trainer.max_steps)
    write_text(folder / "config.yaml", config.to_yaml(prepared.run))
    if prepared.run.budget != "all":
        write_text(folder / "budget.txt", "".join(f"{u.id}\n" for u in prepared.task.splits["train"]))
    trainer.train(stop)
    return trainer


def evaluate(prepared: Prepared, folder: Path, output: Path) -> dict[str, Any]:
    """Evaluate a trained run's chosen checkpoint again, write the result into ``output`` and return it.

    Raises:
        BenchmarkError: training has not ended: test is looked at once, after it.
    """
    trainer = _trainer(prepared, folder)
    if not trainer.resume() or trainer.step < prepared.run.trainer.max_steps:
        raise BenchmarkError(
            f"the run in {folder} is at update {trainer.step} of {prepared.run.trainer.max_steps}; test is scored when "
            f"training has ended. Go on with -e {folder}"
        )
    if output != folder:  # what was scored here before may have been scored otherwise
        _clear_artefacts(output)
        write_text(output / "config.yaml", config.to_yaml(prepared.run))
    with StopRequest() as stop:
        return _finish(prepared, trainer, output, stop)


def _trainer(prepared: Prepared, folder: Path) -> Trainer:
    run = prepared.run
    return Trainer(
        run,
        prepared.task,
        prepared.upstream,
        folder,
        fingerprint(prepared),
        results.provenance(_device_name(run)),
    )


def fingerprint(prepared: Prepared) -> dict[str, str]:
    """Digests of what a run is made of beside its configuration: the data and the upstream's weights."""
    names = ("train", "dev", "test") if prepared.evaluated == "test" else ("train", "dev")
    data = {f"{name} data": manifest.digest(prepared.task.splits[name]) for name in names}
    return {"upstream": weights_digest(prepared.upstream), **data}


def weights_digest(upstream: Upstream) -> str:
    """SHA-256 of the upstream's checkpoint file, or of its parameters where there is no file."""
    known = upstream.info.get("sha256")
    if known is not None:
        return str(known)
    state = hashlib.sha256()
    for name, tensor in upstream.state_dict().items():
        state.update(name.encode())
        state.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return state.hexdigest()


def _finish(prepared: Prepared, trainer: Trainer, folder: Path, stop: StopRequest) -> dict[str, Any]:
    run, upstream, task = prepared.run, prepared.upstream, prepared.task
    best = trainer.load_best()
    evaluation, _ = trainer.evaluate("test", stop)
    layers = best["layers"] or {"layer_weights": None, "layer_norms": None, "layer_shares": None}
    result = {
        "schema": results.SCHEMA,
        "upstream": {"checkpoint": None, "sha256": None} | upstream.info,
        "downstream": {
            "name": run.downstream,
            "protocol_version": run.protocol_version,
            "task": prepared.card["task"],
            "corpus": prepared.card["corpus"],
            "evaluated": prepared.evaluated,
        },
        "regime": run.regime,
        "state": None if trainer.pairing.featurizer.keep is None else trainer.pairing.featurizer.keep[0],
        "budget": {"name": run.budget, "seed": None if run.budget == "all" else run.seed},
        "seed": run.seed,
        "selected": {"step": best["step"], "metric": best["metric"], "value": best["value"]},
        "metrics": {"dev": best["dev"], **evaluation.metrics},
        **layers,
        "cost": {
            "updates": trainer.step,
            **trainer.costs(),
            "trainable_parameters": sum(p.numel() for p in trainer.parameters),
        },
        "data": {
            name: manifest.summary(task.splits[name], prepared.seconds(name))
            | ({"dropped": prepared.dropped} if name == "train" else {})
            for name in ("train", "dev", "test")
        },
        "provenance": trainer.provenance,
    }
    if trainer.accelerator.is_main_process:
        write_files(folder, evaluation.files)
        if best["layers"] and len(best["layers"]["layer_weights"]) > 1:
            plots.layer_weights(folder / "layer_weights.png", result)
        results.write(folder / "result.json", result)
    return result


def finished(folder: Path, prepared: Prepared) -> dict[str, Any] | None:
    """The result of a run that has nothing left to do, else ``None``; a run on other data is not finished."""
    path = folder / "result.json"
    if not path.exists():
        return None
    result = results.read(path)
    splits = prepared.task.splits
    same = all(result["data"][name]["digest"] == manifest.digest(splits[name]) for name in result["data"])
    return result if same and result["cost"]["updates"] >= prepared.run.trainer.max_steps else None


def _device_name(run: RunConfig) -> str:
    if run.device == "cuda" and not torch.cuda.is_available():
        raise BenchmarkError("device is 'cuda', but torch finds no CUDA device here; use --device cpu")
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise BenchmarkError("training in several processes (torchrun) is not supported yet; start one process")
    if run.device != "cpu" and torch.cuda.is_available():
        return str(torch.cuda.get_device_name())
    if run.trainer.precision == "fp16":
        raise BenchmarkError("trainer.precision=fp16 needs a CUDA device; use no or bf16 on the CPU")
    return f"cpu, {torch.get_num_threads()} threads"


@contextlib.contextmanager
def logged_to(folder: Path) -> Iterator[None]:
    """Send the log to ``log.txt`` as well as to the terminal."""
    handler = logging.FileHandler(folder / "log.txt", encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    log.addHandler(handler)
    try:
        yield
    finally:
        log.removeHandler(handler)
        handler.close()


def describe(prepared: Prepared) -> Sequence[str]:
    """What a run is about to do, a line each."""
    run = prepared.run
    lines = [
        f"upstream {run.upstream.name}: {prepared.upstream.num_states} states of {prepared.upstream.hidden_size}, "
        f"{prepared.upstream.sample_rate} Hz",
    ]
    for name in ("train", "dev", "test"):
        kept = manifest.summary(prepared.task.splits[name], prepared.seconds(name))
        counts = "".join(f", {kept[what]} {what}" for what in ("speakers", "languages") if kept[what])
        left_out = [f"{count} {why}" for why, count in prepared.dropped.items() if count and name == "train"]
        lines.append(
            f"{name}: {kept['utterances']} utterances, {kept['seconds'] / 3600:.2f} h{counts}"
            + (f"; left out: {', '.join(left_out)}" if left_out else "")
        )
    return lines
