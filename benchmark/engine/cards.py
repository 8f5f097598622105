"""What a protocol card names: its task, and the corpus or the manifests that a run takes its utterances from."""

from __future__ import annotations

import pkgutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmark import config, registry
from benchmark.config import RunConfig
from benchmark.data import manifest, shards
from benchmark.errors import BenchmarkError, MissingData
from benchmark.interfaces import LABEL_FIELDS, Corpus, Task


def read_card(name: str) -> dict[str, Any]:
    """The protocol card of a downstream, under its canonical name."""
    card = registry.downstreams.get(name).load()()
    if isinstance(card, Mapping) and isinstance(card.get("extends"), str) and "corpus" not in card:  # a plug-in's
        base = {key: value for key, value in read_card(card["extends"]).items() if key not in ("aliases", "summary")}
        card = registry.overlay(base, card)
    if not isinstance(card, Mapping) or not {"name", "task", "corpus"} <= card.keys():
        raise BenchmarkError(
            f"downstream '{name}': its card must be a mapping with name, task and corpus, or extend another card"
        )
    return dict(card)


def task_class(card: Mapping[str, Any]) -> type[Task]:
    """The task that a card names, by a registered name or as ``module:attr``."""
    task: type[Task] = _resolve(registry.tasks, card["task"])
    return task


def _resolve(names: registry.Registry, name: str) -> Any:
    if ":" not in name:
        return names.get(name).load()
    try:
        return pkgutil.resolve_name(name)
    except (ImportError, AttributeError, ValueError) as error:
        raise BenchmarkError(f"{names.kind} '{name}' cannot be imported: {error}") from error


def find_corpus(run: RunConfig, card: Mapping[str, Any], *, training: bool = True) -> Corpus:
    """The corpus that a card names, or the manifests of own data.

    Args:
        run: the configuration.
        card: of the run's downstream.
        training: false: without the training data, where the reader of the corpus has such an argument.

    Raises:
        BenchmarkError: it is not there; manifests are given to a protocol that fixes its data, or none to one that
            takes them.
    """
    given = {name: getattr(run.data, name) for name in config.MANIFESTS if getattr(run.data, name) is not None}
    if card["corpus"] != manifest.OWN_DATA:
        if given:
            flags = ", ".join(f"--{name}" for name in given)
            raise BenchmarkError(
                f"{flags}: '{card['name']}' is a protocol on the corpus '{card['corpus']}'. For your own data, use "
                f"-d {card['task']}; to score a trained run on other data, -m evaluate"
            )
        reader = _resolve(registry.corpora, card["corpus"])
        if (packed := shards.load_corpus(Path(run.data.root), _registered(card["corpus"]))) is not None:
            return packed
        options = {"training": False} if not training and registry.takes(reader, "training") else {}
        corpus: Corpus = reader(Path(run.data.root), **options)
        return corpus
    if not training:
        return _own_test(given, open_labels(run, card))
    absent = [f"--{name}" for name in ("train", "test") if name not in given]
    if absent:
        raise BenchmarkError(
            f"-d {card['name']} takes your own data: {' and '.join(absent)} missing. Give manifests (JSONL or CSV), as "
            "wavbench prepare writes them: --train train.jsonl --dev dev.jsonl --test test.jsonl"
        )
    return manifest.corpus(**given, labels=open_labels(run, card))


def _registered(name: str) -> str:
    """The name of a corpus that an alias stands for; any other name as it is."""
    return registry.corpora.get(name).name if name in registry.corpora else name


def _own_test(given: Mapping[str, str], labels: Sequence[str]) -> Corpus:
    """Those of a run's manifests that are there, but for the training data."""
    there = {name: path for name, path in given.items() if name != "train" and Path(path).is_file()}
    if not {"dev", "test"} & there.keys():
        raise MissingData(
            f"neither is the run's test manifest, {given.get('test')}; say where it is by -o data.test=FILE, or score "
            "other data by --test FILE"
        )
    if "test" not in there:
        there.pop("trials", None)
    return manifest.corpus(**there, labels=labels)


def open_labels(run: RunConfig, card: Mapping[str, Any]) -> tuple[str, ...]:
    """The labels that the run's task asks for and :class:`Utterance` has no field for: columns of manifests."""
    return tuple(name for name in task_class(card).requires(run.task) if name not in LABEL_FIELDS)
