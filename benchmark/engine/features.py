"""Whether a run keeps the states of its upstream, and where."""

from __future__ import annotations

import logging

from benchmark.config import RunConfig, changes_upstream
from benchmark.engine.feature_store import FeatureStore, identity
from benchmark.engine.model import Model
from benchmark.engine.precision import Precision
from benchmark.engine.world import World
from benchmark.errors import BenchmarkError
from benchmark.interfaces import Task, Upstream

log = logging.getLogger("wavbench")


def warn_of_zero_means(run: RunConfig, upstream: Upstream, model: Model) -> None:
    """Log where a head sees means of states that are zero."""
    if upstream.centred and model.mean_suffices and not run.featurizer.normalize:
        log.warning(
            "the states of upstream '%s' have a mean of zero over each utterance, and this head sees no more than the "
            "mean: it can learn nothing of them. Use featurizer.normalize=true, or a head that pools otherwise",
            run.upstream.name,
        )


def store(
    run: RunConfig,
    task: Task,
    upstream: Upstream,
    model: Model,
    precision: Precision,
    world: World,
    weights: str | None,
) -> FeatureStore | None:
    """The store of a run, where ``features.keep`` asks for one and the states fit into it.

    A store of means gives them of normalised states: the model's featurizer then normalises no more.

    Args:
        run: the configuration.
        task: whose utterances are kept.
        upstream: in evaluation mode.
        model: of the run.
        precision: that the upstream computes in.
        world: the processes of the run.
        weights: digest of the upstream's.

    Raises:
        BenchmarkError: training utterances would be cropped, or the states do not fit and there is no other way.
    """
    crop = run.data.crop_seconds
    if not run.features.keep:
        return None
    longer = [u.id for u in task.splits["train"] if crop is not None and task.seconds[u.id] > crop]
    if longer:
        raise BenchmarkError(
            f"features.keep=true keeps the states of whole utterances, but {len(longer)} training utterances are "
            f"longer than data.crop_seconds={crop} and would be cropped: {longer[0]} …; set data.crop_seconds=null"
        )
    more = [run.regime] if changes_upstream(run.regime) else []
    more += [run.trainer.precision] if precision.dtype is not None else []
    more += ["tf32"] if run.trainer.tf32 and precision.device.type == "cuda" else []
    chosen = run.upstream
    found = FeatureStore(
        upstream,
        identity(weights, chosen.name, chosen.options, *more),
        means=model.mean_suffices,
        normalize=run.featurizer.normalize,
        limit=run.features.limit_gb * 1e9,
        autocast=precision.autocast,
    )
    names = ("train", "dev", "test")
    utterances = [u for name in names for u in [*task.splits[name], *task.support(name)]]
    seconds = [task.seconds[utterance.id] for utterance in utterances]
    lacking = world.same(found.lacks(utterances, seconds) if world.main else 0.0)
    if lacking and chosen.stream:
        raise BenchmarkError(
            f"upstream.stream keeps the states of all utterances, and features.limit_gb={run.features.limit_gb:g} "
            f"leaves no room for them: {lacking / 1e9:.3g} GB are missing. Raise it, or use a head of means"
        )
    if lacking:
        log.warning(
            "the features of this run do not fit under features.limit_gb=%g: %.3g GB are missing, whatever else "
            "is removed from %s; they are computed at each pass instead",
            run.features.limit_gb, lacking / 1e9, found.root,
        )  # fmt: skip
        return None
    if model.mean_suffices:
        model.featurizer.normalize = False  # the means are of states that the store has normalised
    return found
