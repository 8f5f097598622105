"""A run from its configuration to ``result.json``: find the data and the model, train, evaluate once, report."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import logging
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmark import audio, config, manifest, plots, registry, results
from benchmark.config import RunConfig
from benchmark.errors import BenchmarkError
from benchmark.files import remove_partial, write_text
from benchmark.interfaces import Corpus, Task, Upstream
from benchmark.trainer import StopRequest, Trainer

log = logging.getLogger("wavbench")

ARTEFACTS = ("result.json", "layer_weights.png", "predictions.jsonl", "scores*.txt", "config.yaml")
"""What a run leaves in its folder, beside ``log.txt``, ``checkpoints/`` and ``tensorboard/``."""


@dataclass
class Prepared:
    """A run whose configuration, data and model have been found to be in order."""

    run: RunConfig
    card: Mapping[str, Any]
    task: Task
    upstream: Upstream
    seconds: dict[str, NDArray[np.float64]]
    """Split -> duration of each of its utterances."""
    dropped: int
    """Training utterances that were too short."""


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


def prepare(run: RunConfig, card: Mapping[str, Any]) -> Prepared:
    """Find the corpus and the model, and check every utterance's header, before anything is written.

    Raises:
        BenchmarkError: whatever is missing, corpus and checkpoint together.
    """
    _device_name(run)
    entry = registry.upstreams.get(run.upstream.name)
    find_corpus: Callable[[Path], Corpus] = _resolve(registry.corpora, card["corpus"])
    try:
        corpus = find_corpus(Path(run.data.root))
        task = task_class(card)(run.task, corpus)
    except BenchmarkError as error:
        missing = entry.missing(run.upstream.checkpoint)
        raise BenchmarkError(f"{error}\n\n{missing}" if missing else str(error)) from error
    options = run.upstream.options
    torch.manual_seed(run.seed)  # an upstream with random weights has the same ones when the run goes on
    upstream = registry.load_upstream(run.upstream.name, checkpoint=run.upstream.checkpoint, **options)
    seconds = {name: audio.durations(task.splits[name]) for name in ("train", "dev", "test")}
    long_enough = seconds["train"] > run.data.min_seconds
    dropped = int((~long_enough).sum())
    task.splits["train"] = [u for u, keep in zip(task.splits["train"], long_enough, strict=True) if keep]
    seconds["train"] = seconds["train"][long_enough]
    if not task.splits["train"]:
        raise BenchmarkError(
            f"no training utterance is longer than data.min_seconds={run.data.min_seconds} s ({dropped} were dropped)"
        )
    for name in ("train", "dev", "test"):
        _refuse_too_short(name, task, upstream, seconds[name])
    if run.data.crop_seconds is not None:
        crop = torch.tensor([int(run.data.crop_seconds * upstream.sample_rate)])
        if int(upstream.output_lengths(crop)) < 1:
            raise BenchmarkError(
                f"data.crop_seconds={run.data.crop_seconds} is too short for a single frame of upstream "
                f"'{run.upstream.name}'"
            )
    return Prepared(run, card, task, upstream, seconds, dropped)


def _refuse_too_short(split: str, task: Task, upstream: Upstream, seconds: NDArray[np.float64]) -> None:
    samples = torch.from_numpy(np.floor(seconds * upstream.sample_rate).astype(np.int64))
    bad = (upstream.output_lengths(samples) < 1).nonzero().flatten().tolist()
    if bad:
        shown = ", ".join(f"{task.splits[split][i].id} ({seconds[i] * 1000:.0f} ms)" for i in bad[:5])
        raise BenchmarkError(
            f"{len(bad)} {split} utterances are too short for a single frame of this upstream: {shown}"
            f"{', …' if len(bad) > 5 else ''}. Remove them"
            + (", or set -o data.min_seconds" if split == "train" else " from the list")
        )


def occupy(folder: Path, run: RunConfig, *, resume: bool) -> None:
    """Make sure that a run may write into ``folder``.

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
    changed = config.differences(config.read_yaml(saved), run)
    if changed:
        raise BenchmarkError(
            f"{folder} holds a run with another configuration (saved -> now):\n  "
            + "\n  ".join(changed)
            + f"\nGo on with the saved one by -e {folder}, or choose another folder with -p"
        )


def _clear(folder: Path) -> None:
    """Remove the run that a folder holds, its configuration last, and nothing else."""
    for name in ("checkpoints", "tensorboard"):
        shutil.rmtree(folder / name, ignore_errors=True)
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
    trainer = _trainer(prepared, folder)
    if overwrite:  # not before everything that the new run needs is known to be there
        _clear(folder)
    if resume and trainer.resume():
        log.info("going on from update %d of %d", trainer.step, prepared.run.trainer.max_steps)
    write_text(folder / "config.yaml", config.to_yaml(prepared.run))
    with StopRequest() as stop:
        trainer.train(stop)
        return _finish(prepared, trainer, folder, stop)


def evaluate(prepared: Prepared, folder: Path) -> dict[str, Any]:
    """Evaluate a trained run's chosen checkpoint on test again, write the result and return it.

    Raises:
        BenchmarkError: training has not ended: test is looked at once, after it.
    """
    trainer = _trainer(prepared, folder)
    if not trainer.resume() or trainer.step < prepared.run.trainer.max_steps:
        raise BenchmarkError(
            f"the run in {folder} is at update {trainer.step} of {prepared.run.trainer.max_steps}; test is scored when "
            f"training has ended. Go on with -e {folder}"
        )
    with StopRequest() as stop:
        return _finish(prepared, trainer, folder, stop)


def _trainer(prepared: Prepared, folder: Path) -> Trainer:
    run = prepared.run
    return Trainer(
        run,
        prepared.task,
        prepared.upstream,
        prepared.seconds,
        folder,
        fingerprint(prepared),
        results.provenance(_device_name(run)),
    )


def fingerprint(prepared: Prepared) -> dict[str, str]:
    """Digests of what a run is made of beside its configuration: the data and the upstream's weights."""
    weights = prepared.upstream.info.get("sha256")
    if weights is None:
        state = hashlib.sha256()
        for name, tensor in prepared.upstream.state_dict().items():
            state.update(name.encode())
            state.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
        weights = state.hexdigest()
    data = {f"{name} data": manifest.digest(prepared.task.splits[name]) for name in ("train", "dev", "test")}
    return {"upstream": str(weights), **data}


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
        },
        "regime": run.regime,
        "state": None if trainer.pairing.featurizer.keep is None else trainer.pairing.featurizer.keep[0],
        "budget": {"name": "all"},
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
            name: manifest.summary(task.splits[name], prepared.seconds[name])
            | ({"dropped": prepared.dropped} if name == "train" else {})
            for name in ("train", "dev", "test")
        },
        "provenance": trainer.provenance,
    }
    if trainer.accelerator.is_main_process:
        for name, text in evaluation.files.items():
            write_text(folder / name, text)
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


def log_to(folder: Path) -> None:
    """Send the log to ``log.txt`` as well as to the terminal."""
    handler = logging.FileHandler(folder / "log.txt", encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    log.addHandler(handler)


def describe(prepared: Prepared) -> Sequence[str]:
    """What a run is about to do, a line each."""
    run, seconds = prepared.run, prepared.seconds
    lines = [
        f"upstream {run.upstream.name}: {prepared.upstream.num_states} states of {prepared.upstream.hidden_size}, "
        f"{prepared.upstream.sample_rate} Hz",
    ]
    for name in ("train", "dev", "test"):
        speakers = {u.speaker for u in prepared.task.splits[name]}
        dropped = f"; {prepared.dropped} dropped as too short" if name == "train" and prepared.dropped else ""
        lines.append(
            f"{name}: {len(prepared.task.splits[name])} utterances, {seconds[name].sum() / 3600:.2f} h, "
            f"{len(speakers)} speakers{dropped}"
        )
    return lines
