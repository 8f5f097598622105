"""Before a run: find its corpus and its model, read the headers of its audio, choose its utterances.

A :class:`Preparer` does each of these once, however many runs ask for it.
"""

from __future__ import annotations

import contextlib
import hashlib
import inspect
import logging
import logging.handlers
import pkgutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from omegaconf import OmegaConf

from benchmark import config, registry, results
from benchmark.config import RunConfig, UpstreamConfig
from benchmark.data import audio, budget, manifest, splits
from benchmark.data.headers import AudioError
from benchmark.engine import checkpoint
from benchmark.engine.cards import find_corpus, open_labels, read_card, task_class
from benchmark.engine.featurizer import check_layer
from benchmark.engine.precision import fast_bf16
from benchmark.engine.world import started_together, world
from benchmark.errors import BenchmarkError, MissingData
from benchmark.files import cache_dir
from benchmark.interfaces import Corpus, Seconds, Splits, Target, Task, Upstream

log = logging.getLogger("wavbench")

NAMES = ("train", "dev", "test")


@dataclass(frozen=True)
class Scored:
    """What ``-m evaluate`` scores in place of the protocol's test set."""

    name: str
    """A split or trial list of the run's corpus, or what results on ``manifest`` are called."""
    manifest: str | None = None
    """Other data than the run's corpus."""
    trials: str | None = None
    """A trial list for ``manifest``."""


@dataclass(frozen=True)
class Prepared:
    """A run whose configuration, data and model have been found to be in order."""

    run: RunConfig
    card: Mapping[str, Any]
    task: Task
    upstream: Upstream
    dropped: Mapping[str, int]
    """Reason -> how many training utterances were left out for it."""
    scored: Scored | None = None
    """What is scored as ``test`` in place of the protocol's own test set."""
    recorded: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Of the splits that are not there: what the trained run's ``result.json`` says of them."""
    durations: Mapping[str, Mapping[str, Seconds]] = field(default_factory=dict)
    """Split -> utterance id -> seconds."""

    @property
    def names(self) -> Sequence[str]:
        """The splits that are there."""
        return [name for name in NAMES if name not in self.recorded]

    def seconds(self, split: str) -> NDArray[np.float64]:
        """Duration of each utterance of a split."""
        return np.array([self.durations[split][utterance.id] for utterance in self.task.splits[split]])

    @cached_property
    def fingerprint(self) -> dict[str, str]:
        """Digests of what a run depends on beside its configuration: the data and the upstream's weights."""
        own = [name for name in self.names if name != "test" or self.scored is None]
        data = {f"{name} data": splits.digest(self.task.splits[name]) for name in own}
        return {"upstream": weights_digest(self.upstream), **data}

    @cached_property
    def former_digests(self) -> dict[str, str]:
        """The digests of the data as release 0.1 computed them: without gender."""
        return {f"{name} data": splits.digest(self.task.splits[name], gender=False) for name in self.names}

    def summary(self, split: str) -> dict[str, Any]:
        """What ``result.json`` keeps of a split."""
        if split in self.recorded:
            return dict(self.recorded[split])
        summary = splits.summary(self.task.splits[split], self.seconds(split))
        return summary | ({"dropped": dict(self.dropped)} if split == "train" else {})


_QUICK_TUNING: dict[str, Any] = {
    "features": {"keep": False},
    "tune": {"freeze_updates": 0},
    "optim": {"upstream_lr": 1e-4, "schedule": "constant", "warmup_steps": 5},
    "trainer": {"max_steps": 40, "batch_size": 8, "eval_every": 20},
}
"""Over the card's values for ``--quick``, where the upstream is trained."""


def configure(
    downstream: str, layers: Sequence[tuple[str, Any]], overrides: Sequence[str] = (), *, quick: bool = False
) -> RunConfig:
    """The configuration of a run: the card of a downstream, then ``layers``, then ``overrides``.

    Args:
        downstream: a name or alias.
        layers: (where the values come from, nested mapping) pairs.
        overrides: ``dotted.key=value``.
        quick: first of all, the values of a run of a minute or two on a small synthetic corpus.

    Raises:
        BenchmarkError: an unknown name or option, a value of the wrong type or out of range.
    """
    card = read_card(downstream)
    if quick:
        regimes = [values["regime"] for _, values in layers if isinstance(values.get("regime"), str)]
        regimes += [text.partition("=")[2] for text in overrides if text.startswith("regime=")]
        trains = config.find_regime(regimes[-1] if regimes else "frozen").trains_upstream
        layers = [("--quick", quick_values(card)), *([("--quick", _QUICK_TUNING)] if trains else []), *layers]
    run = config.compose(card, task_class(card).Config, layers, overrides)
    budget.parse(run.budget)
    run.upstream.name = registry.upstreams.get(run.upstream.name).name
    return run


def default_folder(run: RunConfig) -> str:
    """Where a run is kept that is not given a folder."""
    return f"results/{run.upstream.name}-{run.downstream}-{run.regime}-{config.digest(run)}"


def quick_values(card: Mapping[str, Any]) -> dict[str, Any]:
    """A card's values for a run of a minute or two; writes a small synthetic corpus for it, if there is none yet.

    Raises:
        BenchmarkError: the downstream has no such values, or its corpus cannot be synthesised.
    """
    entry = registry.corpora.get(card["corpus"]) if card["corpus"] in registry.corpora else None
    if not card.get("quick") or entry is None or entry.synthetic is None:
        raise BenchmarkError(f"'{card['name']}' has no quick run on synthetic data; see --list for other downstreams")
    root = cache_dir() / "quick"
    pkgutil.resolve_name(entry.synthetic)(entry.name, root)
    quick: Mapping[str, Any] = card["quick"]
    return {**quick, "data": {**quick.get("data", {}), "root": str(root)}}


def saved_configuration(folder: Path) -> RunConfig:
    """The configuration that a run's folder keeps, its plug-ins loaded.

    Raises:
        BenchmarkError: the folder holds no run.
    """
    path = folder / "config.yaml"
    if not path.exists():
        raise BenchmarkError(f"{folder} holds no run (no config.yaml)")
    saved = config.read_yaml(path)
    registry.load_plugin(*saved.get("plugins") or [])
    if "downstream" not in saved:
        raise BenchmarkError(f"{path} does not name the downstream of its run; expected the file that a run writes")
    values = {key: value for key, value in saved.items() if key != "downstream"}
    return configure(saved["downstream"], [(str(path), values)])


@dataclass
class Preparer:
    """Prepares runs; corpora, splits, durations and the last frozen upstream are kept for the next one."""

    _corpora: dict[Any, Corpus] = field(default_factory=dict)
    _splits: dict[Any, Splits] = field(default_factory=dict)
    _seconds: dict[Any, dict[str, dict[str, Seconds]]] = field(default_factory=dict)
    _records: dict[Any, list[logging.LogRecord]] = field(default_factory=dict)
    _frozen: tuple[Any, Upstream] | None = None

    def prepare(self, run: RunConfig, scored: Scored | None = None, trained: Path | None = None) -> Prepared:
        """Find the corpus and the model, and check every utterance's header, before anything is written.

        Args:
            run: the configuration.
            scored: evaluate on this instead of the protocol's test set.
            trained: the folder of the trained run that is to be evaluated, which does without its training data where
                they are not there.

        Raises:
            BenchmarkError: whatever is missing, corpus and checkpoint together.
        """
        check_device(run)
        card = read_card(run.downstream)
        recorded: Mapping[str, Mapping[str, Any]] = {}
        try:
            try:
                chosen, seconds = self._utterances(run, card, scored)
            except (MissingData, AudioError) as error:
                misspelt = scored is not None and scored.manifest is None and getattr(error, "split", "") == scored.name
                if trained is None or misspelt:
                    raise
                chosen, seconds, recorded = _without_training(run, card, scored, trained, error)
        except BenchmarkError as error:
            missing = registry.upstreams.get(run.upstream.name).missing(run.upstream.checkpoint)
            raise BenchmarkError(f"{error}\n\n{missing}" if missing else str(error)) from error
        upstream, task = self.upstream(run), task_class(card)
        if run.featurizer.layer is not None:
            check_layer(run.featurizer.layer, upstream.num_states)
        _check_crop(run, task, upstream)
        dropped: Mapping[str, int] = {}
        if not recorded:
            chosen, dropped = _training_utterances(run, task, chosen, seconds["train"], upstream)
        made = task(run.task, chosen, splits.merged(seconds))
        prepared = Prepared(run, card, made, upstream, dropped, scored, recorded, seconds)
        for name in prepared.names:
            splits.check_ids(prepared.task.splits[name], prepared.task.support(name))
        for name in prepared.names:
            _refuse_too_short(name, prepared)
        _warn_of_heard_data(prepared)
        return prepared

    def splits(self, run: RunConfig) -> tuple[Splits, Mapping[str, Seconds]]:
        """The splits of a run as the corpus has them, before short utterances are dropped and a budget is applied, and
        the duration of each utterance. Needs no model."""
        chosen, seconds = self._utterances(run, read_card(run.downstream), None)
        return chosen, splits.merged(seconds)

    def _utterances(
        self, run: RunConfig, card: Mapping[str, Any], scored: Scored | None
    ) -> tuple[Splits, Mapping[str, Mapping[str, Seconds]]]:
        """The splits, and the duration of each utterance by split: what is scored may have ids of the others."""
        where = (card["corpus"], run.data.root, *(getattr(run.data, name) for name in config.MANIFESTS))
        corpus_key = (where, open_labels(run, card))
        with self._log_again(corpus_key):
            if corpus_key not in self._corpora:
                try:
                    self._corpora[corpus_key] = find_corpus(run, card)
                except BenchmarkError as error:
                    raise MissingData(str(error)) from error
        corpus = self._corpora[corpus_key]
        key = (corpus_key, card["task"], OmegaConf.to_yaml(OmegaConf.structured(run.task)), scored)
        with self._log_again(key):
            if key not in self._splits:
                target = None if scored is None else _other_data(run, card, scored) or Target(scored.name, corpus)
                chosen = task_class(card).split(run.task, corpus, target)
                if scored is None:
                    splits.check_disjoint({name: chosen[name] for name in NAMES})
                own = splits.durations(u for name in NAMES if name != "test" or not scored for u in chosen[name])
                test = splits.durations(chosen.test) if scored else own
                self._seconds[key] = {"train": own, "dev": own, "test": test}
                self._splits[key] = _with_sources(chosen, corpus if target is None else target.corpus)
        return self._splits[key], self._seconds[key]

    @contextlib.contextmanager
    def _log_again(self, key: Any) -> Iterator[None]:
        """Keep what is logged while something is looked up, and log it again for each run that finds it kept."""
        for record in self._records.get(key, ()):
            log.log(record.levelno, record.getMessage())
        recorder = logging.handlers.BufferingHandler(capacity=10**6)
        log.addHandler(recorder)
        try:
            yield
            self._records.setdefault(key, recorder.buffer)
        finally:
            log.removeHandler(recorder)

    def upstream(self, run: RunConfig) -> Upstream:
        """Load the upstream. One that stays as it was loaded is kept for the next run, if its weights are a file's."""
        options = _tuning_options(run) | run.upstream.options
        trained = config.changes_upstream(run.regime)
        key = (run.upstream.name, run.upstream.checkpoint, run.upstream.stream, repr(sorted(options.items())))
        if not trained and self._frozen is not None and self._frozen[0] == key:
            return self._frozen[1]
        self._frozen = None  # free its memory before the next one is loaded
        torch.manual_seed(run.seed)  # an upstream with random weights has the same ones when the run is resumed
        upstream = load_upstream(run.upstream, options)
        if not trained and upstream.info.get("sha256") is not None:
            self._frozen = (key, upstream)
        return upstream


def load_upstream(chosen: UpstreamConfig, options: Mapping[str, Any]) -> Upstream:
    """The upstream of a run, with these options in place of its own.

    Raises:
        BenchmarkError: it cannot be loaded, or not streamed.
    """
    if not chosen.stream:
        return registry.load_upstream(chosen.name, checkpoint=chosen.checkpoint, **options)
    if "stream" not in inspect.signature(registry.upstreams.get(chosen.name).load()).parameters:
        raise BenchmarkError(
            f"upstream '{chosen.name}' cannot be streamed: it does not read its blocks one at a time. Leave "
            "upstream.stream out"
        )
    return registry.load_upstream(chosen.name, checkpoint=chosen.checkpoint, stream=True, **options)


def _other_data(run: RunConfig, card: Mapping[str, Any], scored: Scored) -> Target | None:
    """What is scored, where it is not of the run's own corpus."""
    if scored.manifest is None:
        return None
    return Target("test", manifest.corpus(test=scored.manifest, trials=scored.trials, labels=open_labels(run, card)))


def _without_training(
    run: RunConfig, card: Mapping[str, Any], scored: Scored | None, trained: Path, reason: BenchmarkError
) -> tuple[Splits, Mapping[str, Mapping[str, Seconds]], Mapping[str, Mapping[str, Any]]]:
    """What a trained run is scored on where its training data cannot be had for ``reason``, its durations, and what
    the run recorded of its other splits."""
    why = " ".join(str(reason).split())
    why = why if len(why) <= 300 else f"{why[:299]}…"
    vocabulary = checkpoint.read(checkpoint.best(trained), lambda state: None)["inventory"]
    try:
        target = None if scored is None else _other_data(run, card, scored)
        if target is None:
            target = Target("" if scored is None else scored.name, find_corpus(run, card, training=False))
        chosen = task_class(card).split_test(run.task, target.corpus, vocabulary, target.name or None)
        if chosen is None:
            raise MissingData(
                f"task '{card['task']}' cannot be evaluated without its training data (it has no split_test). If they "
                "have moved, say where they are: --data-root DIR, or -o data.train=FILE data.dev=FILE data.test=FILE"
            )
        chosen = _with_sources(chosen, target.corpus)
        seconds = {"test": splits.durations(chosen.test)}
    except BenchmarkError as error:
        if str(error) == str(reason):
            raise
        raise BenchmarkError(f"{error}\nThe run's training data are not there: {why}") from error
    if not (trained / "result.json").exists():
        raise BenchmarkError(
            f"{reason}\n{trained} has no result.json, which would say what the run was trained on: evaluate it once "
            "where its training data are"
        )
    log.warning("the run's training data are not there, and it is evaluated without them: %s", why)
    recorded = results.read(trained / "result.json")["data"]
    return chosen, seconds, {name: recorded[name] for name in ("train", "dev")}


def _with_sources(chosen: Splits, corpus: Corpus) -> Splits:
    """``chosen`` from ``corpus``, with the names of other corpora that some of the test set is of."""
    known = registry.corpora.get(corpus.name).sources if corpus.name in registry.corpora else {}
    test = {utterance.id for utterance in chosen.test}
    found = {of for split, of in known.items() if any(u.id in test for u in corpus.splits.get(split, ()))}
    return replace(chosen, sources=tuple(sorted(found)))


def _tuning_options(run: RunConfig) -> dict[str, Any]:
    """Those of ``tune.options`` that the upstream has, where it is trained."""
    if not config.find_regime(run.regime).trains_upstream:
        return {}
    entry = registry.upstreams.get(run.upstream.name)
    accepted = {name: value for name, value in run.tune.options.items() if registry.takes(entry.load(), name)}
    if len(accepted) < len(run.tune.options):
        ignored = ", ".join(name for name in run.tune.options if name not in accepted)
        log.warning("upstream '%s' has no option %s (tune.options); it is trained without", run.upstream.name, ignored)
    return accepted


def frame_counts(upstream: Upstream, seconds: NDArray[np.float64]) -> NDArray[np.int64]:
    """Frames that the upstream gives of utterances of these durations."""
    samples = torch.from_numpy(audio.samples(seconds, upstream.sample_rate))
    frames: NDArray[np.int64] = upstream.output_lengths(samples).numpy()
    return frames


def _check_crop(run: RunConfig, task: type[Task], upstream: Upstream) -> None:
    crop = run.data.crop_seconds
    if crop is None:
        return
    if not task.croppable:
        raise BenchmarkError(
            f"data.crop_seconds={crop}: in this task, part of an utterance does not have the labels of the whole; "
            "set it to null"
        )
    if int(frame_counts(upstream, np.array([crop]))[0]) < 1:
        raise BenchmarkError(
            f"data.crop_seconds={crop} is too short for a single frame of upstream '{run.upstream.name}'"
        )


def _training_utterances(
    run: RunConfig, task: type[Task], chosen: Splits, seconds: Mapping[str, Seconds], upstream: Upstream
) -> tuple[Splits, dict[str, int]]:
    """Leave out training utterances that cannot be used, then those beyond the label budget; reason -> how many."""
    train = list(chosen.train)
    length = np.array([seconds[utterance.id] for utterance in train])
    short = length <= run.data.min_seconds
    frames_needed = task.frames_needed(run.task, chosen)
    unlearnable = np.zeros(len(train), dtype=bool)
    if frames_needed is not None:
        needed = np.array([frames_needed(utterance) for utterance in train])
        unlearnable = ~short & (needed > 1) & (frame_counts(upstream, length) < needed)
    usable = [u for u, drop in zip(train, short | unlearnable, strict=True) if not drop]
    dropped = {"too short": int(short.sum()), "shorter than their labels": int(unlearnable.sum())}
    if not usable:
        raise BenchmarkError(
            f"no training utterance is left: {dropped['too short']} are not longer than "
            f"data.min_seconds={run.data.min_seconds} s, {dropped['shorter than their labels']} have fewer frames than "
            "labels"
        )
    kept = budget.choose(run.budget, usable, seconds, seed=run.seed, strata=task.strata(run.task))
    return replace(chosen, train=kept), dropped


def _refuse_too_short(split: str, prepared: Prepared) -> None:
    utterances, seconds = prepared.task.splits[split], prepared.seconds(split)
    bad = np.flatnonzero(frame_counts(prepared.upstream, seconds) < 1).tolist()
    if bad:
        shown = ", ".join(f"{utterances[i].id} ({seconds[i] * 1000:.0f} ms)" for i in bad[:5])
        raise BenchmarkError(
            f"{len(bad)} {split} utterances are too short for a single frame of this upstream: {shown}"
            f"{', …' if len(bad) > 5 else ''}. Remove them"
            + (", or set -o data.min_seconds" if split == "train" else " from the list")
        )


def _warn_of_heard_data(prepared: Prepared) -> None:
    """Log where the upstream was trained on a corpus that the test set is of or shares its source with, and where this
    is not known of a published model."""
    chosen, info = prepared.task.splits, prepared.upstream.info
    if info.get("data") and not info.get("pretrained_on"):
        log.warning(
            "what upstream '%s' was trained on is not published by corpus (%s): whether it has heard the test set of "
            "this run, %s, is not known",
            prepared.run.upstream.name,
            info["data"],
            ", ".join([chosen.corpus, *chosen.sources]),
        )
    for corpus, shown in ((chosen.corpus, chosen.corpus), *((of, f"in part {of}") for of in chosen.sources)):
        known = registry.corpora.get(corpus).heard if corpus in registry.corpora else ()
        names = {name.lower() for name in known or (corpus,)}
        heard = [name for name in info.get("pretrained_on") or () if name.lower() in names]
        if heard:
            log.warning(
                "upstream '%s' was trained on %s, and the test set of this run, %s, is of that corpus or shares its "
                "source: the result may be better than on speech that is new to the upstream",
                prepared.run.upstream.name,
                ", ".join(heard),
                shown,
            )


def weights_digest(upstream: Upstream) -> str:
    """SHA-256 of the upstream's checkpoint file; where there is no file, of its parameters and ``info["settings"]``."""
    digest = upstream.info.get("sha256")
    if digest is not None:
        return str(digest)
    state = hashlib.sha256(str(upstream.info.get("settings") or "").encode())
    for name, tensor in upstream.state_dict().items():
        state.update(name.encode())
        state.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return state.hexdigest()


def check_device(run: RunConfig) -> str:
    """Name the device that a run uses; :class:`BenchmarkError` where it cannot use the one it asks for."""
    if run.device == "cuda" and not torch.cuda.is_available():
        raise BenchmarkError("device is 'cuda', but torch finds no CUDA device here; use --device cpu")
    processes = world()
    if started_together() and processes.size == 1:
        raise BenchmarkError(
            "$WORLD_SIZE says that this process is one of several (torchrun), which only run_downstream.py and "
            "wavbench.run make use of; start one process"
        )
    beside = f", in {processes.size} processes" if processes.size > 1 else ""
    if run.device != "cpu" and torch.cuda.is_available():
        if processes.local_rank >= torch.cuda.device_count():
            raise BenchmarkError(
                f"more processes on this machine than GPUs ({torch.cuda.device_count()}); give torchrun "
                "--nproc-per-node gpu, or run_downstream.py --device cpu"
            )
        return f"{torch.cuda.get_device_name()}{beside}"
    if run.trainer.precision == "fp16":
        raise BenchmarkError("trainer.precision=fp16 needs a CUDA device; use no or bf16 on the CPU")
    return f"cpu, {torch.get_num_threads()} threads{beside}"


def describe(prepared: Prepared) -> Sequence[str]:
    """What a run is about to do, a line each."""
    upstream = prepared.upstream
    lines = [
        f"upstream {prepared.run.upstream.name}: {upstream.num_states} layers of {upstream.hidden_size}, "
        f"{upstream.sample_rate} Hz",
    ]
    for name in NAMES:
        summary = prepared.summary(name)
        counts = "".join(f", {summary[what]} {what}" for what in ("speakers", "languages") if summary[what])
        left_out = [f"{count} {reason}" for reason, count in summary.get("dropped", {}).items() if count]
        lines.append(
            f"{name}: {summary['utterances']} utterances, {summary['seconds'] / 3600:.2f} h{counts}"
            + (f"; left out: {', '.join(left_out)}" if left_out else "")
            + ("; not there, as the run recorded it" if name in prepared.recorded else "")
        )
    if prepared.run.trainer.precision == "bf16" and not fast_bf16(prepared.run.device):
        lines.append("this processor has no instructions for bf16: trainer.precision=no is many times as fast here")
    return lines
