"""What a run is: documented dataclasses. YAML and the command line give values; a typo or a wrong type fails.

Over 500 lines: two fifths are the options with their documentation, which belong together.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from operator import attrgetter
from pathlib import Path
from typing import Any, cast

import numpy as np
from omegaconf import MISSING, DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from benchmark import registry, text
from benchmark.errors import BenchmarkError
from benchmark.interfaces import Regime
from benchmark.registry import suggest

SCHEDULES = ("constant", "linear", "tri_stage", "one_cycle")
TRACKERS = ("tensorboard", "wandb", "mlflow")


@dataclass
class UpstreamConfig:
    """Which upstream."""

    name: str = "???"
    """A name from ``--list``."""
    checkpoint: str | None = None
    """A local file instead of the one that the name's card points to (``-k``)."""
    options: dict[str, Any] = field(default_factory=dict)
    """Keyword arguments of the upstream itself."""
    stream: bool = False
    """For a model that is larger than the memory, frozen: its blocks are read from the file one at a time, for many
    utterances at once, whose states are kept (``features.keep`` is set). The states are the same."""


@dataclass
class FeaturizerConfig:
    """Which of its layers."""

    name: str = "weighted_sum"
    """What all layers are made into: ``weighted_sum``, or ``hconv``, convolutions over them
    (``benchmark/engine/featurizer.py``)."""
    layer: int | None = None
    """Use the hidden state of this layer alone (``-l``; 0: the input of the first block); ``None``: the learned
    weighted sum over all layers, as SUPERB."""
    normalize: bool = False
    """Normalise each hidden state over its features before the sum (s3prl: ``--upstream_feature_normalize``)."""


@dataclass
class FeatureConfig:
    """Keeping the hidden states of a frozen upstream on disk; see ``benchmark/engine/feature_store.py``."""

    keep: bool = False
    """Run the upstream once over each utterance and never again. States are then those of whole utterances, frames in
    float16."""
    limit_gb: float = 100.0
    """Largest size of all kept features together, in 1e9 bytes. Those used longest ago make room for new ones; where
    that is not enough, the upstream runs at each pass."""


@dataclass
class DataConfig:
    """Where the audio is and how much of an utterance is used."""

    root: str = "data"
    """The folder that holds the corpora as their publishers lay them out."""
    train: str | None = None
    """Own data (``-d sv``, ``lid``, ``asr``, ``sid``, ``classify``): a manifest, JSONL or CSV; see ``docs/data.md``."""
    dev: str | None = None
    """Own data: the manifest that chooses the checkpoint; some tasks hold it out of ``train`` where there is none."""
    test: str | None = None
    """Own data: the manifest that is scored once."""
    trials: str | None = None
    """Own data, speaker verification: lines of ``label enrolment test`` (utterance ids); made from ``test`` if none."""
    crop_seconds: float | None = None
    """Longer utterances are cropped at random to this in training; evaluation always uses whole utterances."""
    min_seconds: float = 0.0
    """Training utterances that are not longer than this are dropped, and counted."""
    bucket: int = 0
    """Sort by length among the utterances of this many training batches, so that batches hold utterances of about one
    length; 0: batches are drawn at random."""
    batch_seconds: float | None = None
    """Training batches of at most this much audio, instead of ``trainer.batch_size`` utterances (of one at least)."""
    workers: int = 0
    """Processes that read audio; 0: the main process reads."""


@dataclass
class OptimConfig:
    """The optimizer and its rates."""

    name: str = "adamw"
    """``adamw`` or ``adam``."""
    lr: float = 1e-4
    """Of the head."""
    weights_lr: float | None = None
    """Of the layer weights; ``None``: as the head (SUPERB)."""
    upstream_lr: float | None = None
    """Of the upstream when it is fine-tuned; ``None``: as the head (s3prl's ``-f``; usually far too high)."""
    betas: list[float] = field(default_factory=lambda: [0.9, 0.999])
    eps: float = 1e-8
    weight_decay: float = 0.01
    clip: float | None = None
    """Largest norm of the gradient of all parameters together."""
    layer_decay: float = 1.0
    """Fine-tuning: the rate of a block is this times that of the block above it (1: the same for all)."""
    schedule: str = "constant"
    """A factor on every rate: ``constant``, or ``linear`` down to zero at the last update, both after the warm-up;
    ``tri_stage`` (fairseq): rise, hold, exponential decay, in shares of the updates given by ``phases``;
    ``one_cycle`` (torch's ``OneCycleLR``): rise from 1/25 in the first 30 %, then down to 1e-4 / 25, along cosines."""
    warmup_steps: int = 0
    """``constant``, ``linear``: updates in which the rates rise linearly from zero."""
    phases: list[float] = field(default_factory=lambda: [0.1, 0.4, 0.5])
    """``tri_stage``: shares of the updates that rise, hold and decay (fairseq's ``phase_ratio``)."""
    init_scale: float = 0.01
    """``tri_stage``: factor at the start (fairseq's ``init_lr_scale``)."""
    final_scale: float = 0.05
    """``tri_stage``: factor at the end (fairseq's ``final_lr_scale``)."""


@dataclass
class ProbeConfig:
    """How a head is made that needs no more than the means of frozen states; see ``docs/running.md``."""

    solver: str = "gradient"
    """``gradient``: by updates, as any head. ``exact``: the classifier that minimises the cross-entropy, solved for
    each penalty of ``regularisation``, among which dev chooses (``benchmark/engine/exact.py``); an update is one
    penalty. ``knn``: nothing is trained; the training utterances whose mean states are nearest vote, by a state and a
    number of neighbours that dev chooses (``benchmark/engine/knn.py``). With both, utterances are whole, and their
    states are kept (``features.keep``)."""
    regularisation: list[float] = field(default_factory=lambda: [1.0, 0.1, 1e-2, 1e-3, 1e-4, 1e-5])
    """``exact``: factors of half the squared weights, for features of variance 1, beside the mean loss."""
    tolerance: float = 1e-5
    """``exact``: what the objective may be above its minimum, in nats."""
    neighbours: list[int] = field(default_factory=lambda: [1, 5, 10, 20, 50])
    """``knn``: how many vote, among which dev chooses."""


@dataclass
class TuneConfig:
    """What of the upstream is trained in the regimes that train some of it, and from when on."""

    options: dict[str, Any] = field(default_factory=dict)
    """Options of the upstream while it is trained, under ``upstream.options``: dropouts, LayerDrop, masking inside the
    encoder. An upstream that has no such option is trained without it, and the log says so."""

    top_blocks: int | None = None
    """``partial``: how many of the last transformer blocks are trained (``--top-blocks``)."""
    extractor: bool = False
    """``finetune``: train the convolutional feature extractor too. fairseq's and s3prl's recipes do not."""
    freeze_updates: int = 0
    """Updates at the start that train the head and the layer weights only (fairseq: ``freeze_finetune_updates``)."""
    probe: dict[str, Any] = field(default_factory=dict)
    """Where not empty, the head and the layer weights are first trained on the frozen upstream, with these values over
    the run's, and fine-tuning starts from those that were best on dev (linear probing, then fine-tuning: Kumar et al.,
    ICLR 2022, 2202.10054)."""
    lora_rank: int = 8
    lora_alpha: float = 16.0
    lora_dropout: float = 0.0
    lora_targets: list[str] = field(default_factory=lambda: ["q_proj", "v_proj"])
    """Names of the linear layers that get adapters (Hu et al., LoRA, section 4.2: queries and values)."""
    adapter_size: int = 64
    """``houlsby``: features of the bottleneck."""
    adapter_targets: list[str] = field(default_factory=lambda: ["out_proj", "fc2"])
    """``houlsby``: names of the linear layers whose outputs get adapters: the last one of the attention and of the
    feed-forward layers, before the residual connection (Houlsby et al., figure 2)."""
    prefix_length: int = 16
    """``prefix``: keys and values that each attention layer gets beside those of the frames."""


@dataclass
class TrainerConfig:
    """How long, how often, in what batches."""

    max_steps: int = 1000
    """Updates (after accumulation)."""
    batch_size: int = 8
    """Utterances a batch. ``auto``: what the card says, with ``auto_batch``."""
    auto_batch: bool = False
    """Where a batch does not fit into memory, split it into the largest power of two of utterances that does; the loss
    is still the mean over the batch (heads with batch normalisation see the parts)."""
    accumulate: int = 1
    """Forward passes an update."""
    eval_every: int = 1000
    """Updates between evaluations on dev; the last update is always evaluated."""
    save_every: int = 500
    """Updates between checkpoints; a run resumes from the last one."""
    keep: str = "best"
    """What stays of the checkpoints once the run, or the study's cell, is done: ``all``; ``best``: the weights that
    were best on dev, of a cell those of the candidate that was chosen; ``none``: no weights."""
    eval_batch_size: int = 1
    """Utterances a forward pass in evaluation; results do not depend on it."""
    log_every: int = 10
    """Updates between points of the trackers' curves."""
    trackers: list[str] = field(default_factory=lambda: ["tensorboard"])
    """Where the run can be followed: ``tensorboard``, ``wandb``, ``mlflow``; see ``docs/running.md``."""
    precision: str = "no"
    """``no`` (float32), ``fp16`` or ``bf16``."""
    tf32: bool = False
    """CUDA: round the factors of float32 matrix products and convolutions to TF32. Faster; states differ by about 1e-3
    of their size."""
    shard: bool = False
    """Several processes (torchrun): each keeps a part of the parameters, gradients and optimizer state, for upstreams
    that do not fit (FSDP2); see ``docs/scale.md``. Without effect in one process."""
    offload: bool = False
    """``shard`` on GPUs: the parts wait in the CPU's memory, where the optimizer works."""


@dataclass
class RunConfig:
    """One run: an upstream, a downstream, a regime, a seed."""

    upstream: UpstreamConfig = field(default_factory=UpstreamConfig)
    downstream: str = "???"
    """A name from ``--list``."""
    protocol_version: int = 1
    """Of the downstream's card, so that results of different versions are not mixed."""
    regime: str = "frozen"
    """``frozen`` (weighted sum), ``single_layer`` (``featurizer.layer``), ``partial`` (the last blocks train too),
    ``finetune`` (all of the upstream), ``bitfit`` (biases), ``houlsby`` and ``lora`` (adapters), ``prefix`` (keys and
    values of the attention), or a plug-in's."""
    budget: str = "all"
    """How many of the training labels are used (``--budget``; ``benchmark/data/budget.py``); the seed decides which."""
    featurizer: FeaturizerConfig = field(default_factory=FeaturizerConfig)
    task: Any = None
    """The task's own options; see the task's ``Config``."""
    features: FeatureConfig = field(default_factory=FeatureConfig)
    data: DataConfig = field(default_factory=DataConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    probe: ProbeConfig = field(default_factory=ProbeConfig)
    tune: TuneConfig = field(default_factory=TuneConfig)
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    seed: int = 0
    device: str = "auto"
    """``auto``, ``cpu`` or ``cuda``."""
    plugins: list[str] = field(default_factory=list)
    """Plug-in files (``--plugin``)."""


MANIFESTS = ("train", "dev", "test", "trials")
"""Fields of :class:`DataConfig` that name the files of own data."""

_LOCATION = (
    "data.root",
    "data.workers",
    "trainer.save_every",
    "trainer.keep",
    "trainer.log_every",
    "trainer.trackers",
    "trainer.shard",
    "trainer.offload",
    "features.limit_gb",
    "plugins",
)
"""Keys that do not change what a run computes; they are not part of its digest."""
FREE = (*_LOCATION, "upstream.checkpoint", *(f"data.{name}" for name in MANIFESTS))
"""Keys that may differ between parts of one run. That the data and the upstream's weights are the same is compared by
their digests, wherever they lie."""


def compose(
    card: Mapping[str, Any], task_config: type, layers: Sequence[tuple[str, Any]], overrides: Sequence[str] = ()
) -> RunConfig:
    """Lay values over the defaults, later over earlier.

    Args:
        card: the protocol card; its ``config`` is the first layer, ``finetune`` the second where the regime trains
            the upstream.
        task_config: the dataclass of the task's options.
        layers: (where it comes from, nested mapping) pairs.
        overrides: ``dotted.key=value``; s3prl's ``,,``-separated form is accepted.

    Raises:
        BenchmarkError: an unknown key (with a suggestion) or a value of the wrong type, naming where it came from.
    """
    under = [(f"protocol card {card['name']}", card.get("config", {}))]
    over = [*layers, *(_override(item) for text in overrides for item in text.split(",,") if item)]
    config = _lay(card, task_config, [*under, *over])
    if find_regime(config.regime).trains_upstream and card.get("finetune"):
        under.append((f"protocol card {card['name']}, finetune", card["finetune"]))
        config = _lay(card, task_config, [*under, *over])
    if config.downstream != card["name"]:
        raise BenchmarkError(
            f"downstream is '{config.downstream}', but the card is '{card['name']}'; choose it with -d"
        )
    if config.protocol_version > card.get("version", 1):  # an earlier one: of a saved configuration, which is complete
        raise BenchmarkError(
            f"protocol_version is {config.protocol_version}, but the card '{card['name']}' has {card.get('version', 1)}"
        )
    try:
        run = cast(RunConfig, OmegaConf.to_object(config))
    except OmegaConfBaseException as error:  # a value that is not set, or that refers to another one
        raise BenchmarkError(f"the configuration is not complete: {str(error).splitlines()[0]}") from error
    run.regime = registry.regimes.get(run.regime).name
    _validate(run)
    if run.probe.solver != "gradient":
        _set_solved(run)
    run.features.keep = run.features.keep or run.upstream.stream
    if Path(run.upstream.checkpoint or "").expanduser().exists():  # else the upstream may know it by name
        run.upstream.checkpoint = absolute(run.upstream.checkpoint)
    for name in ("root", *MANIFESTS):
        setattr(run.data, name, absolute(getattr(run.data, name)))
    return run


def absolute(path: str | None) -> str | None:
    """A path of the configuration such that a saved run can be resumed from any folder."""
    return None if path is None else str(Path(path).expanduser().absolute())


def _defaults(task_config: type) -> DictConfig:
    config = OmegaConf.structured(RunConfig)
    config.task = OmegaConf.structured(task_config)
    return cast(DictConfig, config)


_INITIAL = ("optim.warmup_steps", "tune.freeze_updates")
"""Updates at the start of training. Where ``trainer.max_steps`` is given later and is not above them, they keep their
share of the updates."""


def _lay(card: Mapping[str, Any], task_config: type, layers: Sequence[tuple[str, Any]]) -> DictConfig:
    config = _defaults(task_config)
    config.downstream = card["name"]
    config.protocol_version = card.get("version", 1)
    scaled: dict[str, int] = {}
    for source, values in layers:
        before = {key: OmegaConf.select(config, key) for key in ("trainer.max_steps", *_INITIAL)}
        _merge(config, source, values)
        ratio = config.trainer.max_steps / (before["trainer.max_steps"] or 1)  # 0 is refused in the end
        for key in _INITIAL:
            if OmegaConf.select(config, key) != before[key]:
                scaled.pop(key, None)
            elif ratio != 1:
                scaled[key] = int(scaled.get(key, before[key]) * ratio)
    for key, value in scaled.items():
        if OmegaConf.select(config, key) >= config.trainer.max_steps:  # set for a longer run
            OmegaConf.update(config, key, value)
    return config


def probing(run: RunConfig) -> RunConfig:
    """The configuration of the training on the frozen upstream that ``tune.probe`` puts before fine-tuning.

    Raises:
        BenchmarkError: an unknown key, a wrong type or value.
    """
    config = OmegaConf.structured(run)
    config.tune, config.trainer.trackers, config.optim.upstream_lr = OmegaConf.structured(TuneConfig), [], None
    _merge(config, "tune.probe", run.tune.probe)
    config.regime = "frozen" if config.featurizer.layer is None else "single_layer"
    probe = cast(RunConfig, OmegaConf.to_object(config))
    if probe.probe.solver != "gradient":
        raise BenchmarkError("tune.probe trains the head that is fine-tuned afterwards: leave probe.solver out of it")
    _validate(probe)
    return probe


def find_regime(name: str) -> Regime:
    """The regime of a name or alias; :class:`BenchmarkError` names those that there are."""
    regime: Regime = registry.regimes.get(name).load()()
    return regime


def changes_upstream(regime: str) -> bool:
    """Whether the upstream may not be as it was loaded: it is trained, or a plug-in's regime may have edited it."""
    return find_regime(regime).trains_upstream or registry.regimes.get(regime).origin != "built in"


def current_names(values: Any) -> Any:
    """Configuration values with options and regimes of earlier versions under their current names."""
    if not isinstance(values, Mapping):
        return values
    values = dict(values)
    featurizer = values.get("featurizer")
    if isinstance(featurizer, Mapping) and "state" in featurizer:
        values["featurizer"] = {"layer" if key == "state" else key: value for key, value in featurizer.items()}
    if values.get("regime") in registry.regimes:
        values["regime"] = registry.regimes.get(values["regime"]).name
    trainer = values.get("trainer")
    if isinstance(trainer, Mapping) and trainer.get("batch_size") == "auto":
        values["trainer"] = {key: value for key, value in trainer.items() if key != "batch_size"} | {"auto_batch": True}
    return values


def _override(override: str) -> tuple[str, Any]:
    """(where it comes from, nested mapping) of ``dotted.key=value``."""
    key, equals, value = override.partition("=")
    if not equals or not key:
        raise BenchmarkError(f"-o {override}: expected key=value, as in -o optim.lr=1e-3")
    try:
        values = OmegaConf.create()
        OmegaConf.update(values, key.removeprefix("config."), text.from_yaml(value))  # config.: s3prl's spelling
        return f"-o {override}", values
    except Exception as error:  # OmegaConf's grammar and YAML's errors share no base class
        raise BenchmarkError(f"-o {override}: cannot be read as key=value ({error})") from error


def _merge(config: DictConfig, source: str, values: Any) -> None:
    try:
        config.merge_with(current_names(values))  # in place: OmegaConf.merge would copy all of it
    except OmegaConfBaseException as error:
        key = str(error.full_key or error.key or "")
        reason = str(error).splitlines()[0]
        if "not in" in reason:
            raise BenchmarkError(f"{source}: unknown option '{key}'. {_suggest_option(key, config)}") from error
        raise BenchmarkError(f"{source}: option '{key}': {reason}") from error


_KNOWN_AS = {"learning_rate": "lr", "steps": "max_steps", "max_updates": "max_steps", "bs": "batch_size"}
"""What other tools call an option -> what it is called here."""


def _suggest_option(key: str, config: DictConfig) -> str:
    """Options of the same name elsewhere, else those that are spelt alike."""
    options = dotted_keys(config)
    leaf = key.rpartition(".")[2]
    same = [option for option in options if option.rpartition(".")[2] == _KNOWN_AS.get(leaf, leaf)]
    if same:
        return "Did you mean " + " or ".join(f"'{option}'" for option in same[:3]) + "?"
    return suggest(key, options, noun="options")


def dotted_keys(config: Any, prefix: str = "") -> list[str]:
    """Every key of a nested configuration, dotted."""
    keys: list[str] = []
    for key in config:
        node = None if OmegaConf.is_missing(config, key) else config[key]
        if isinstance(node, DictConfig) and len(node):
            keys += dotted_keys(node, f"{prefix}{key}.")
        else:
            keys.append(f"{prefix}{key}")
    return keys


def expand(values: Mapping[str, Any], task_config: type) -> list[tuple[str, dict[str, Any]]]:
    """Configuration values by keyword as (keyword, nested mapping) pairs.

    ``lr`` is the option of this name if there is only one, ``optim__lr`` gives its path; a name of the top level takes
    its value as it is.

    Raises:
        BenchmarkError: no option, or several options, of a name.
    """
    config = _defaults(task_config)
    options = dotted_keys(config)
    pairs = []
    for key, value in values.items():
        path = key.replace("__", ".")
        if path not in config and path not in options and "." not in path:
            matches = [option for option in options if option.rpartition(".")[2] == path]
            if not matches:
                if key in _KNOWN_AS:
                    raise BenchmarkError(f"unknown option '{key}'. Did you mean '{_KNOWN_AS[key]}'?")
                names = [option.rpartition(".")[2] for option in options]
                raise BenchmarkError(f"unknown option '{key}'. " + suggest(key, names))
            if len(matches) > 1:
                example = f"{matches[0].replace('.', '__')}="
                raise BenchmarkError(f"'{key}' names several options: {', '.join(matches)}; write {example}")
            path = matches[0]
        pairs.append((key, nested(path, _plain(value))))
    return pairs


def _plain(value: Any) -> Any:
    """A value as YAML holds it: numpy's numbers and arrays, paths and tuples are converted."""
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    return list(value) if isinstance(value, tuple) else value


def nested(path: str, value: Any) -> dict[str, Any]:
    """``{"optim": {"lr": value}}`` of ``optim.lr``."""
    for part in reversed(path.split(".")):
        value = {part: value}
    return cast(dict[str, Any], value)


_FROM_1 = (
    "trainer.max_steps", "trainer.batch_size", "trainer.accumulate", "trainer.eval_every", "trainer.save_every",
    "trainer.eval_batch_size", "trainer.log_every", "tune.lora_rank", "tune.adapter_size", "tune.top_blocks",
    "tune.prefix_length",
)  # fmt: skip
_FROM_0 = (
    "optim.lr", "optim.weights_lr", "optim.upstream_lr", "optim.weight_decay", "optim.warmup_steps", "data.workers",
    "data.bucket", "seed", "tune.freeze_updates",
)  # fmt: skip


def _are_shares(phases: Sequence[float]) -> bool:
    return len(phases) == 3 and min(phases) >= 0 and abs(sum(phases) - 1) <= 1e-6


def _are_betas(betas: Sequence[float]) -> bool:
    return len(betas) == 2 and all(0 <= beta < 1 for beta in betas)


def _set_solved(run: RunConfig) -> None:
    """What solving, instead of training, determines of the other options: whole utterances, kept; an update is one
    penalty, or the search for the neighbours."""
    run.features.keep, run.data.crop_seconds = True, None
    steps = len(run.probe.regularisation) if run.probe.solver == "exact" else 1
    run.trainer.max_steps, run.trainer.eval_every = steps, 1
    run.trainer.eval_batch_size = max(run.trainer.eval_batch_size, 256)
    run.optim.warmup_steps = 0


def _validate(run: RunConfig) -> None:
    def check(key: str, valid: Callable[[Any], bool], expected: str) -> None:
        """``None`` is valid where the type allows it."""
        value = attrgetter(key)(run)
        if value is not None and not valid(value):
            raise BenchmarkError(f"{key} is {value}; expected {expected}")

    def among(key: str, allowed: Sequence[str]) -> None:
        given = attrgetter(key)(run)
        for value in given if isinstance(given, list) else [given]:
            if value not in allowed:
                raise BenchmarkError(f"{key} is '{value}'. {suggest(value, list(allowed), noun='expected one of')}")

    regime = find_regime(run.regime)
    regime.check(run.tune)
    among("device", ("auto", "cpu", "cuda"))
    among("optim.name", ("adamw", "adam"))
    among("optim.schedule", SCHEDULES)
    among("probe.solver", ("gradient", "exact", "knn"))
    among("featurizer.name", ("weighted_sum", "hconv"))
    among("trainer.precision", ("no", "fp16", "bf16"))
    among("trainer.keep", ("all", "best", "none"))
    among("trainer.trackers", TRACKERS)
    for key in _FROM_1:
        check(key, lambda number: number >= 1, "at least 1")
    for key in _FROM_0:
        check(key, lambda number: number >= 0, "at least 0")
    check("seed", lambda number: number < 2**63, "less than 2^63")
    for key in ("optim.layer_decay", "optim.init_scale", "optim.final_scale"):
        check(key, lambda share: 0 < share <= 1, "more than 0, at most 1")
    check("optim.eps", lambda eps: eps > 0, "more than 0")
    check("probe.tolerance", lambda tolerance: tolerance > 0, "more than 0")
    check("probe.regularisation", lambda penalties: penalties and min(penalties) > 0, "numbers above 0")
    check("probe.neighbours", lambda counts: counts and min(counts) > 0, "numbers above 0")
    check("optim.clip", lambda norm: norm > 0, "more than 0, or null for no clipping")
    for key in ("data.crop_seconds", "data.batch_seconds"):
        check(key, lambda seconds: seconds > 0, "more than 0, or null")
    check("optim.phases", _are_shares, "three shares that sum to 1")
    check("optim.betas", _are_betas, "two numbers from 0 up to, not including, 1")
    if "checkpoint" in run.upstream.options:
        raise BenchmarkError("upstream.options.checkpoint: give the file with -k (upstream.checkpoint)")
    if regime.single_layer and run.featurizer.layer is None:
        raise BenchmarkError(f"regime '{run.regime}' needs a layer: add -l K (0 = input of the first block)")
    if not regime.trains_upstream and not regime.single_layer and run.featurizer.layer is not None:
        raise BenchmarkError(
            f"featurizer.layer is for --regime single_layer; '{run.regime}' is the weighted sum over all layers"
        )
    steps = run.trainer.max_steps
    if regime.trains_upstream and run.tune.freeze_updates >= steps:
        raise BenchmarkError(
            f"tune.freeze_updates={run.tune.freeze_updates} of trainer.max_steps={steps} updates train the head alone: "
            "the upstream would never be trained. Set -o tune.freeze_updates lower, too"
        )
    if regime.trains_upstream and run.tune.probe:
        probing(run)
    if run.optim.schedule in ("constant", "linear") and 0 < steps <= run.optim.warmup_steps:
        raise BenchmarkError(
            f"optim.warmup_steps={run.optim.warmup_steps} of trainer.max_steps={steps} updates warm up: the rates "
            "would never reach their values. Set -o optim.warmup_steps lower, too"
        )
    solver = run.probe.solver
    if solver != "gradient" and regime.trains_upstream:
        raise BenchmarkError(f"probe.solver={solver} is for frozen upstreams; regime '{run.regime}' trains its own")
    if solver != "gradient" and run.featurizer.name != "weighted_sum":
        raise BenchmarkError(f"probe.solver={solver} needs means of states, which featurizer.name=hconv has no use for")
    if run.featurizer.name != "weighted_sum" and run.featurizer.layer is not None:
        raise BenchmarkError(f"featurizer.name={run.featurizer.name} is of all layers; leave featurizer.layer (-l) out")
    if run.upstream.stream and changes_upstream(run.regime):
        raise BenchmarkError(
            f"upstream.stream is for frozen upstreams: regime '{run.regime}' changes it, and needs all of it in memory"
        )
    if run.features.keep and regime.trains_upstream:
        raise BenchmarkError(f"features.keep is for frozen upstreams; in regime '{run.regime}' the states change")


def read_yaml(path: str | Path) -> dict[str, Any]:
    """A YAML file as a plain nested dict; :class:`BenchmarkError` where it is none."""
    path = Path(path)
    if not path.is_file():
        raise BenchmarkError(f"configuration file not found: {path}")
    try:
        content = text.from_yaml(text.read(path))
        content = {} if content is None else content
        loaded = content if isinstance(content, str) else OmegaConf.to_container(OmegaConf.create(content))
    except Exception as error:  # YAML's and OmegaConf's errors share no base class
        raise BenchmarkError(f"{path} is not readable YAML: {error}") from error
    if not isinstance(loaded, dict):
        raise BenchmarkError(f"{path}: expected a mapping of options, found {type(loaded).__name__}")
    return cast(dict[str, Any], loaded)


def to_yaml(run: RunConfig) -> str:
    """The complete configuration; :func:`read_yaml` gives it back."""
    return "".join(_section_yaml(json.dumps({name: value})) for name, value in asdict(run).items())


@functools.lru_cache(maxsize=256)
def _section_yaml(section: str) -> str:
    """A section, from JSON: the runs of a study have most of them in common, and writing one takes milliseconds."""
    return OmegaConf.to_yaml(OmegaConf.create(json.loads(section)))


def flatten(run: RunConfig | Mapping[str, Any]) -> dict[str, Any]:
    """``{"optim.lr": 0.0001, …}``."""
    return dict(_flat(asdict(run) if isinstance(run, RunConfig) else current_names(run), ""))


def _flat(values: Mapping[Any, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", None if value == MISSING else value


def digest(run: RunConfig) -> str:
    """Eight hex digits that tell apart runs that compute different things."""
    items = sorted((key, str(value)) for key, value in flatten(run).items() if not key.startswith(_LOCATION))
    return hashlib.sha256(repr(items).encode()).hexdigest()[:8]


def differences(saved: Mapping[str, Any], run: RunConfig, *, but: Sequence[str] = ()) -> list[str]:
    """``key: saved -> now`` for what differs and changes what a run computes.

    An option that did not exist when the configuration was saved had its default. Keys that start like one of ``but``
    may differ.
    """
    old, new = flatten(saved), flatten(run)
    defaults = flatten(RunConfig(task=type(run.task)()))
    old |= {key: defaults[key] for key in new.keys() - old.keys() if key in defaults}
    return [
        f"{key}: {old.get(key, '(absent)')} -> {new.get(key, '(absent)')}"
        for key in sorted(old.keys() | new.keys())
        if str(old.get(key)) != str(new.get(key)) and not key.startswith((*FREE, *but))
    ]


def moved(saved: Mapping[str, Any], run: RunConfig) -> dict[str, str]:
    """Key -> ``saved -> now``, of the places of data and weights that differ."""
    old, new = flatten(saved), flatten(run)
    keys = ("upstream.checkpoint", *(f"data.{name}" for name in ("root", *MANIFESTS)))
    return {key: f"{old.get(key)} -> {new.get(key)}" for key in keys if str(old.get(key)) != str(new.get(key))}
