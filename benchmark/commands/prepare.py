"""``wavbench prepare``: a corpus, or the data of another tool -> manifests."""

from __future__ import annotations

import argparse
import inspect
import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from benchmark import registry
from benchmark.commands import Parser, log_to_terminal, positive
from benchmark.errors import BenchmarkError, raise_problems, shorten

if TYPE_CHECKING:
    from benchmark.interfaces import Corpus, Trial

log = logging.getLogger("wavbench")

EXAMPLES = """\
examples:
  wavbench prepare voxceleb1 /corpora                      # /corpora/VoxCeleb1 -> manifests/voxceleb1/*.jsonl
  wavbench prepare kaldi egs/s5/data -o manifests/mine     # one split per data directory
  wavbench prepare lhotse data/fbank --label emotion       # every cuts file of the folder
  wavbench prepare datasets saved_dataset --column text=normalized
"""


def main(argv: Sequence[str]) -> int:
    """``wavbench prepare CORPUS ROOT``.

    Raises:
        BenchmarkError: the corpus cannot be read, audio cannot be used, or the folder is not empty.
    """
    options = _parser().parse_args(argv)
    log_to_terminal()
    registry.load_plugin(*options.plugin)
    root = Path(options.root)
    options.corpus = _corpus_of(options.corpus)
    own = options.corpus in registry.corpora
    name = registry.corpora.get(options.corpus).name if own else f"{options.corpus}-{root.resolve().name}"
    output = Path(options.output or Path("manifests") / name)
    columns = _columns(options.column)
    read = _reader(options.corpus, columns, options.label)

    from benchmark.data import manifest
    from benchmark.data.examine import examine, summary, usable
    from benchmark.data.splits import overlaps
    from benchmark.data.trials import write_trials
    from benchmark.files import write_text

    if output.exists() and (not output.is_dir() or any(output.iterdir())) and not options.overwrite:
        raise BenchmarkError(f"{output} is not empty; --overwrite replaces files in it, -o DIR writes elsewhere")
    corpus = _with_labels(read(root, output), options.label)
    everything = [utterance for utterances in corpus.splits.values() for utterance in utterances]
    if not everything:
        raise BenchmarkError(f"'{options.corpus}' at {root} has no utterances")
    reports = examine(everything, workers=options.workers)
    broken = [problem for report in reports for problem in report.problems]
    splits = usable(corpus.splits, reports)
    if broken and not (options.leave_out_broken and splits):
        advice = "--leave-out-broken writes the others" if splits else ""
        raise_problems(f"{options.corpus} at {root}, no manifest was written", broken, advice)
    lists = _trials(corpus, {utterance.id for utterances in splits.values() for utterance in utterances})
    written = []
    for split, utterances in splits.items():
        written.append(output / f"{split}.jsonl")
        manifest.write(written[-1], utterances)
    for name, trials in lists.items():
        written.append(output / f"{name}.txt")
        write_trials(written[-1], trials)
    if broken:
        written.append(output / "left_out.txt")
        write_text(written[-1], "".join(f"{problem}\n" for problem in broken))
    print(summary(splits, reports, options.label))
    if shared := overlaps(splits):
        print(f"note: not all splits may be used together; they share {len(shared):,} utterances: {shared[0]}, …")
    if broken:
        number = len(everything) - sum(map(len, splits.values()))
        print(f"left out: {number:,} of {len(everything):,} utterances with unusable audio; see left_out.txt")
    print("written:", *written, sep="\n  ")
    if others := sorted(set(output.glob("*.jsonl")) - set(written)):
        print(f"not written now, but also in {output}: {shorten(path.name for path in others)}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        "wavbench prepare",
        "Find the utterances of a corpus, check the headers of their audio, write a manifest per split.",
        EXAMPLES,
    )
    parser.add_argument(
        "corpus", metavar="CORPUS", help="a corpus or benchmark (-d) known by name, or kaldi | lhotse | datasets"
    )
    parser.add_argument("root", metavar="ROOT", help="the data root that holds the corpus, or what to import")
    parser.add_argument(
        "-o", "--output", metavar="DIR", help="default: manifests/CORPUS; imports: CORPUS-<name of ROOT>"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace files of the same names in DIR")
    parser.add_argument("--leave-out-broken", action="store_true", help="write only utterances whose audio can be used")
    parser.add_argument(
        "--label", metavar="NAME", action="append", default=[], help="write this label too: emotion, keyword, …"
    )
    parser.add_argument(
        "--column", metavar="FIELD=NAME", action="append", default=[], help="datasets: the column of a field or label"
    )
    parser.add_argument("--workers", metavar="N", type=positive, default=8, help="files read at a time; default: 8")
    parser.add_argument("--plugin", metavar="FILE", action="append", default=[], help="a file that registers corpora")
    return parser


def _reader(name: str, columns: dict[str, str], labels: Sequence[str]) -> Callable[[Path, Path], Corpus]:
    """``(root, output) -> Corpus``: an importer, or the reader of a corpus known by name."""
    from benchmark.data.importers import IMPORTERS
    from benchmark.data.manifest import FIELDS
    from benchmark.data.shards import load_corpus

    importer = None if name in registry.corpora else IMPORTERS.get(name)
    if name not in registry.corpora and importer is None:
        names = [*registry.corpora.names(aliases=True), *IMPORTERS]
        raise BenchmarkError(f"unknown corpus '{name}'. " + registry.suggest(name, names))
    if columns and (importer is None or "columns" not in inspect.signature(importer).parameters):
        raise BenchmarkError(f"--column is for datasets; '{name}' has no columns to choose from")
    if importer is None:
        read = registry.corpora.get(name).load()
        return lambda root, output: load_corpus(root, registry.corpora.get(name).name) or read(root)
    others = [label for label in labels if label not in FIELDS]
    return partial(importer, labels=others, columns=columns) if columns else partial(importer, labels=others)


def _corpus_of(name: str) -> str:
    """The corpus of a downstream benchmark (``-d``), whose names are accepted too; any other name as it is."""
    from benchmark.data.importers import IMPORTERS

    if name in registry.corpora or name in IMPORTERS or name not in registry.downstreams:
        return name
    card = registry.downstreams.get(name).load()()
    corpus = str(card.get("corpus", "")) if isinstance(card, dict) else ""
    if corpus not in registry.corpora:
        raise BenchmarkError(
            f"'{name}' is a benchmark of own data, which is in manifests already; 'wavbench validate' checks them"
        )
    log.info("'%s' is a benchmark of the corpus '%s'", name, corpus)
    return corpus


def _trials(corpus: Corpus, ids: set[str]) -> dict[str, list[Trial]]:
    """The trial lists, with trials of the utterances ``ids``. The first must be readable, the others are optional."""
    lists: dict[str, list[Trial]] = {}
    for name in corpus.trials:
        try:
            trials = corpus.trials[name]
        except BenchmarkError as error:
            if not lists:
                raise
            log.warning("the trial list '%s' is left out. %s", name, error)
            continue
        lists[name] = [trial for trial in trials if trial.enrolment in ids and trial.test in ids]
        if len(lists[name]) < len(trials):
            log.warning("%s: %d of %d trials are left out", name, len(trials) - len(lists[name]), len(trials))
    return lists


def _columns(items: list[str]) -> dict[str, str]:
    columns = {}
    for item in items:
        name, equals, column = item.partition("=")
        if not (name and equals and column):
            raise BenchmarkError(f"--column {item}: expected FIELD=NAME, as in --column text=sentence")
        columns[name] = column
    return columns


def _with_labels(corpus: Corpus, names: Sequence[str]) -> Corpus:
    """The corpus with these of its labels; each must occur."""
    utterances = [utterance for split in corpus.splits.values() for utterance in split]
    for name in names:
        if all(utterance.label(name) is None for utterance in utterances):
            available = sorted({label for utterance in utterances for label in utterance.labels})
            raise BenchmarkError(
                f"--label {name}: no utterance has it. " + registry.suggest(name, available, noun="other labels")
            )
    return replace(
        corpus,
        splits={
            split: [replace(u, labels={name: u.labels[name] for name in names if name in u.labels}) for u in own]
            for split, own in corpus.splits.items()
        },
    )
