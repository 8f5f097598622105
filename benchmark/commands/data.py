"""``wavbench prepare``: a corpus -> manifests. ``wavbench validate``: what is wrong with manifests and their audio.

Nothing heavy is imported before it is needed.
"""

from __future__ import annotations

import argparse
import inspect
import itertools
import logging
import multiprocessing
import os
import signal
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmark import registry
from benchmark.errors import BenchmarkError

if TYPE_CHECKING:
    from benchmark.interfaces import Corpus, Utterance

log = logging.getLogger("wavbench")

_CHUNK = 64
"""Files that a worker is given at a time."""
_BLOCK = 2**16
"""Samples that are decoded at a time; where decoding breaks off is known to a block."""
_FULL_SCALE = 1 - 2**-15
"""The largest 16-bit sample, as a float."""

PREPARE_EXAMPLES = """\
examples:
  wavbench prepare voxceleb1 /corpora                      # /corpora/VoxCeleb1 -> manifests/voxceleb1/*.jsonl
  wavbench prepare kaldi egs/s5/data -o manifests/mine     # one split a data directory
  wavbench prepare lhotse data/fbank                       # every cuts file of the folder
  wavbench prepare datasets saved_dataset --column text=normalized
"""
VALIDATE_EXAMPLES = """\
examples:
  wavbench validate train.jsonl dev.jsonl test.jsonl --task asr
  wavbench validate train.csv --decode --workers 16
"""


# --------------------------------------------------------------------------------------------------------- prepare


def prepare_parser() -> argparse.ArgumentParser:
    """The parser of ``wavbench prepare``."""
    parser = argparse.ArgumentParser(
        prog="wavbench prepare",
        description="Find the utterances of a corpus, check the headers of their audio, write a manifest a split.",
        epilog=PREPARE_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("corpus", metavar="CORPUS", help="a corpus that is known by name, or kaldi | lhotse | datasets")
    parser.add_argument("root", metavar="ROOT", help="the data root that holds the corpus, or what is to be imported")
    parser.add_argument("-o", "--output", metavar="DIR", help="default: manifests/CORPUS, for imports -NAME added")
    parser.add_argument("--overwrite", action="store_true", help="replace the files of these names in DIR")
    parser.add_argument("--leave-out-broken", action="store_true", help="utterances whose audio cannot be used")
    parser.add_argument(
        "--column", metavar="FIELD=NAME", action="append", default=[], help="datasets: the column behind a field"
    )
    parser.add_argument("--workers", metavar="N", type=_positive, default=8, help="files read at a time; default: 8")
    parser.add_argument("--plugin", metavar="FILE", action="append", default=[], help="a file that registers corpora")
    return parser


def prepare_main(argv: Sequence[str] | None = None) -> int:
    """``wavbench prepare``. Returns the exit status.

    Raises:
        BenchmarkError: the corpus cannot be read, audio cannot be used, or the folder holds something already.
    """
    options = prepare_parser().parse_args(argv)
    _log_to_terminal()
    for plugin in options.plugin:
        registry.load_plugin(plugin)
    root = Path(options.root)
    read = _reader(options.corpus, _columns(options.column))

    from benchmark.data import manifest

    own = options.corpus in registry.corpora.names(aliases=True)
    name = registry.corpora.get(options.corpus).name if own else f"{options.corpus}-{root.resolve().name}"
    output = Path(options.output or Path("manifests") / name)
    if output.exists() and (not output.is_dir() or any(output.iterdir())) and not options.overwrite:
        raise BenchmarkError(f"{output} is not empty; --overwrite replaces what is in it, -o DIR goes elsewhere")
    corpus = read(root, output)
    everything = [utterance for utterances in corpus.splits.values() for utterance in utterances]
    if not everything:
        raise BenchmarkError(f"'{options.corpus}' at {root} has no utterances")
    reports = examine(everything, decode=False, workers=options.workers)
    broken = [text for report in reports for text in report.problems]
    splits = _usable(corpus.splits, reports)
    if broken and not (options.leave_out_broken and splits):
        advice = "--leave-out-broken writes the others" if splits else ""
        manifest.complain(f"{options.corpus} at {root}, no manifest was written", broken, advice)
    left = [utterance for utterances in splits.values() for utterance in utterances]
    written = []
    for split, utterances in splits.items():
        written.append(output / f"{split}.jsonl")
        manifest.write(written[-1], utterances)
    written += _write_trials(corpus, {utterance.id for utterance in left}, output)
    if broken:
        written.append(output / "left_out.txt")
        _write_lines(written[-1], broken)
    print(table(splits))
    print(formats(reports))
    shared = manifest.overlaps(splits)
    if shared:
        print(f"note: not all splits may be used together, they share {len(shared):,} utterances: {shared[0]}, …")
    if broken:
        number = len(everything) - len(left)
        print(f"left out: {number:,} of {len(everything):,} utterances, whose audio cannot be used; see left_out.txt")
    print("written:", *written, sep="\n  ")
    others = sorted(set(output.glob("*.jsonl")) - set(written))
    if others:
        print(f"also there, from before: {manifest.some(others)}")
    return 0


def _usable(splits: Mapping[str, Sequence[Utterance]], reports: Sequence[Report]) -> dict[str, list[Utterance]]:
    """The utterances whose audio can be used, with their durations; splits without any are left out."""
    seconds = iter(report.seconds for report in reports)
    found = {
        name: [
            replace(utterance, duration=known) for utterance, known in zip(utterances, seconds, strict=False) if known
        ]
        for name, utterances in splits.items()
    }
    return {name: utterances for name, utterances in found.items() if utterances}


def _reader(name: str, columns: dict[str, str]) -> Callable[[Path, Path], Corpus]:
    """What reads a corpus of this name: an importer, or the corpus' own reader."""
    from benchmark.data.importers import IMPORTERS

    known = registry.corpora.names(aliases=True)
    if name not in known and name not in IMPORTERS:
        raise BenchmarkError(f"unknown corpus '{name}'. " + registry.suggest(name, [*known, *IMPORTERS]))
    importer = None if name in known else IMPORTERS[name]
    if columns and (importer is None or "columns" not in inspect.signature(importer).parameters):
        raise BenchmarkError(f"--column is for datasets; '{name}' has no columns to choose from")
    if importer is None:
        find = registry.corpora.get(name).load()
        return lambda root, output: find(root)
    return lambda root, output: importer(root, output, **({"columns": columns} if columns else {}))


def _columns(given: list[str]) -> dict[str, str]:
    found = {}
    for item in given:
        name, equals, column = item.partition("=")
        if not (name and equals and column):
            raise BenchmarkError(f"--column {item}: expected FIELD=NAME, as in --column text=sentence")
        found[name] = column
    return found


def _write_trials(corpus: Corpus, ids: set[str], output: Path) -> list[Path]:
    written = []
    for name, trials in corpus.trials.items():
        kept = [t for t in trials if t.enrolment in ids and t.test in ids]
        if len(kept) < len(trials):
            log.warning(
                "%s: %d of %d trials are left out with their utterances", name, len(trials) - len(kept), len(trials)
            )
        written.append(output / f"{name}.txt")
        _write_lines(written[-1], [f"{t.label} {t.enrolment} {t.test}" for t in kept])
    return written


def _write_lines(path: Path, lines: list[str]) -> None:
    from benchmark.files import write_text

    write_text(path, "\n".join([*lines, ""]))


# -------------------------------------------------------------------------------------------------------- validate


def validate_parser() -> argparse.ArgumentParser:
    """The parser of ``wavbench validate``."""
    parser = argparse.ArgumentParser(
        prog="wavbench validate",
        description="List what is wrong with manifests and their audio: a line an item; exit status 1 if anything is.",
        epilog=VALIDATE_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "manifests", metavar="MANIFEST", nargs="+", help=".jsonl, .csv or .tsv; must not share utterances"
    )
    parser.add_argument(
        "--task", metavar="NAME", help="also what this task needs of each utterance (sv, lid, asr, sid)"
    )
    parser.add_argument("--trials", metavar="FILE", help="a trial list on utterances of the manifests")
    parser.add_argument("--decode", action="store_true", help="decode all audio: truncated, NaN, silent, clipped")
    parser.add_argument(
        "--max-clipped", metavar="PERCENT", type=float, default=1.0, help="samples at full scale; default: 1"
    )
    parser.add_argument("--workers", metavar="N", type=_positive, help="default: 8 threads; --decode: a process a core")
    parser.add_argument("--most", metavar="N", type=_positive, help="list at most N problems; default: all")
    parser.add_argument("--plugin", metavar="FILE", action="append", default=[], help="a file that registers tasks")
    return parser


def validate_main(argv: Sequence[str] | None = None) -> int:
    """``wavbench validate``. Returns 0 if all is well and 1 otherwise.

    Raises:
        BenchmarkError: a manifest is not there, the task is unknown.
    """
    options = validate_parser().parse_args(argv)
    _log_to_terminal()
    for plugin in options.plugin:
        registry.load_plugin(plugin)
    requires: tuple[str, ...] = ()
    if options.task:
        task: Any = registry.tasks.get(options.task).load()
        requires = task.requires

    from benchmark.data import manifest

    paths = [Path(path) for path in dict.fromkeys(options.manifests)]
    scans = {str(path): manifest.scan(path) for path in paths}
    splits = {name: [utterance for _, utterance in scanned.rows] for name, scanned in scans.items()}
    everything = [utterance for utterances in splits.values() for utterance in utterances]
    workers = options.workers or (_cores() if options.decode else 8)
    reports = examine(everything, decode=options.decode, workers=workers, clipped=options.max_clipped / 100)
    problems = []
    left = iter(reports)
    for name, scanned in scans.items():
        found = [*scanned.found, *_lacking(scanned.rows, requires, options.task), *_repeated(scanned.rows)]
        found += [(line, text) for line, _ in scanned.rows for text in next(left).problems]
        problems += [f"{name}{f':{line}' if line else ''}: {text}" for line, text in sorted(found)]
    problems += manifest.overlaps(splits)
    if options.trials:
        try:
            manifest.read_trials(options.trials, {utterance.id for utterance in everything})
        except BenchmarkError as error:
            problems.append(str(error))

    for problem in problems[: options.most]:
        print(problem)
    if options.most and len(problems) > options.most:
        print(f"… and {len(problems) - options.most:,} more (--most {options.most})")
    if problems:
        print()
    readable = _usable(splits, reports)
    if readable:
        print(table(readable))
        print(formats(reports))
    kind = "audio decoded" if options.decode else "headers read, audio not decoded (--decode does)"
    print(f"{f'{len(problems):,} problems' if problems else 'all is well'}: {len(everything):,} utterances, {kind}")
    return 1 if problems else 0


def _lacking(rows: list[tuple[int, Utterance]], requires: Sequence[str], task: str) -> Iterator[tuple[int, str]]:
    """(line, text) of utterances without what the task needs; one for all if none of them has it."""
    for name in requires:
        lacking = [(line, utterance) for line, utterance in rows if not getattr(utterance, name)]
        if lacking and len(lacking) == len(rows):
            yield 0, f"no utterance has a {name}, which task {task} needs"
            continue
        for line, utterance in lacking:
            what = f"the {name} is empty" if getattr(utterance, name) == "" else f"there is no {name}"
            yield line, f"utterance {utterance.id}: {what}, which task {task} needs"


def _repeated(rows: list[tuple[int, Utterance]]) -> Iterator[tuple[int, str]]:
    """(line, text) of the same stretch of the same file again."""
    first: dict[tuple[str, float, float | None], int] = {}
    for line, u in rows:
        before = first.setdefault((u.path, u.start, u.duration), line)
        if before != line:
            yield line, f"utterance {u.id}: the same audio as line {before}"


# ----------------------------------------------------------------------------------------------------------- audio


@dataclass
class Report:
    """What the audio of an utterance is like."""

    seconds: float | None = None
    """``None``: it cannot be used."""
    format: str = ""
    """``16000 Hz, 1 channel``."""
    problems: list[str] = field(default_factory=list)


def examine(utterances: Sequence[Utterance], *, decode: bool, workers: int, clipped: float = 0.01) -> list[Report]:
    """Read the headers of all audio, or decode it, in parallel.

    A file is opened once, however many utterances lie in it; where it cannot be read as a whole, the first of them says
    so for all.

    Args:
        utterances: whose audio to look at.
        decode: decode it as well: all samples there, finite, not all the same, not clipped. In processes; headers are
            read in threads.
        workers: so many at a time.
        clipped: the share of samples at full scale above which this is a problem.

    Returns:
        A report an utterance.

    Raises:
        BenchmarkError: a worker process died.
    """
    from tqdm import tqdm

    by_file: dict[str, list[int]] = {}
    for index, utterance in enumerate(utterances):
        by_file.setdefault(utterance.path, []).append(index)
    files = list(by_file.values())
    chunks = [
        [[utterances[i] for i in file] for file in files[at : at + _CHUNK]] for at in range(0, len(files), _CHUNK)
    ]
    reports = [Report()] * len(utterances)
    description = "decoding" if decode else "reading headers"
    with (
        _pool(decode, workers) as run,
        tqdm(total=len(files), desc=description, unit="file", leave=False, delay=1.0) as bar,
    ):
        indices = iter(files)
        for of_chunk in run(_examine_files, chunks, itertools.repeat(decode), itertools.repeat(clipped)):
            for of_file, file in zip(of_chunk, indices, strict=False):
                for index, report in zip(file, of_file, strict=True):
                    reports[index] = report
            bar.update(len(of_chunk))
    return reports


@contextmanager
def _pool(processes: bool, workers: int) -> Iterator[Callable[..., Iterator[list[list[Report]]]]]:
    """A parallel ``map``."""
    if workers == 1:
        yield map
        return
    pool: Executor
    if processes:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["benchmark.data.audio"])  # imported once, not by every worker
        quiet = (signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that waits
        pool = ProcessPoolExecutor(workers, mp_context=context, initializer=signal.signal, initargs=quiet)
    else:
        pool = ThreadPoolExecutor(workers)
    try:
        yield pool.map
    except BrokenProcessPool as error:
        raise BenchmarkError(
            "a worker process died while decoding: out of memory, or a file that crashes libsndfile. --workers 1 "
            "decodes one file after the other in this process"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def _examine_files(files: list[list[Utterance]], decode: bool, clipped: float) -> list[list[Report]]:
    return [_examine_file(file, decode, clipped) for file in files]


def _examine_file(utterances: list[Utterance], decode: bool, clipped: float) -> list[Report]:
    """Reports of the utterances of one file."""
    import soundfile

    from benchmark.data import audio

    reports = [Report() for _ in utterances]
    first = utterances[0]
    try:
        audio.refuse_truncated(first)
        with soundfile.SoundFile(first.path) as file:
            channels = f"{file.channels} channel{'s' if file.channels > 1 else ''}"
            for utterance, report in zip(utterances, reports, strict=True):
                report.format = f"{file.samplerate} Hz, {channels}"
                try:
                    begin, frames = audio.span(utterance, file.frames, file.samplerate)
                except audio.AudioError as error:
                    report.problems.append(str(error))
                    continue
                report.seconds = frames / file.samplerate
                if decode:
                    about = f"utterance {utterance.id}: {utterance.path}"
                    report.problems += [f"{about} {text}" for text in _listen(file, begin, frames, clipped)]
    except audio.AudioError as error:
        reports[0].problems.append(str(error))
    except FileNotFoundError:
        reports[0].problems.append(f"utterance {first.id}: there is no file {first.path}")
    except (soundfile.SoundFileError, OSError) as error:
        reports[0].problems.append(str(audio.unreadable(first, error)))
    if len(utterances) > 1 and not any(report.format for report in reports):
        reports[0].problems[0] += f" ({len(utterances):,} utterances of it)"
    return reports


def _listen(file: Any, begin: int, frames: int, clipped: float) -> Iterator[str]:
    """What is wrong with ``frames`` samples of an open file from ``begin`` on."""
    import numpy as np
    import soundfile

    done = bad = full = 0
    first_bad = 0
    low, high = np.inf, -np.inf
    try:
        file.seek(begin)
        while done < frames:
            block = file.read(min(_BLOCK, frames - done), dtype="float32", always_2d=True)  # (sample, channel)
            if not len(block):
                break
            finite = np.isfinite(block).all(axis=1)
            if not finite.all():
                first_bad = first_bad if bad else done + int(finite.argmin())
                bad += int((~finite).sum())
            else:
                mono = block.mean(axis=1)
                low, high = min(low, float(mono.min())), max(high, float(mono.max()))
            full += int((np.abs(block) >= _FULL_SCALE).any(axis=1).sum())
            done += len(block)
    except (soundfile.SoundFileError, OSError) as error:
        yield f"cannot be decoded beyond {done / file.samplerate:.3f} s of it ({error}); fetch the file again"
        return
    if done < frames:
        yield f"ends early: its header promises {frames} samples from {begin}, {done} could be decoded; fetch it again"
    if bad:
        yield f"has {bad:,} samples that are NaN or infinite, first at {(begin + first_bad) / file.samplerate:.3f} s"
    elif low == high:
        yield f"is silent: all its samples are {low:g}"
    elif max(high, -low) > 10:
        yield f"has samples up to {max(high, -low):g}, where 1 is full scale: it was written without scaling"
    elif full > clipped * done:
        yield f"is clipped: {100 * full / done:.1f} % of its samples at full scale (--max-clipped {100 * clipped:g})"


# --------------------------------------------------------------------------------------------------------- summary


def table(splits: Mapping[str, Sequence[Utterance]]) -> str:
    """Utterances, hours, speakers, languages and quantiles of the durations, which must be known, of each split."""
    import numpy as np

    rows = [["split", "utterances", "hours", "speakers", "languages", "min s", "5 %", "median", "95 %", "max s"]]
    for name, utterances in splits.items():
        seconds = np.array([utterance.duration for utterance in utterances], dtype=np.float64)
        speakers = len({u.speaker for u in utterances if u.speaker is not None})
        languages = len({u.language for u in utterances if u.language is not None})
        quantiles = [f"{q:.2f}" for q in np.quantile(seconds, [0, 0.05, 0.5, 0.95, 1])] if len(seconds) else ["-"] * 5
        rows.append(
            [
                name,
                f"{len(utterances):,}",
                f"{seconds.sum() / 3600:,.2f}",
                f"{speakers:,}" if speakers else "-",
                f"{languages:,}" if languages else "-",
                *quantiles,
            ]
        )
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
        lines.append("  ".join([row[0].ljust(widths[0]), *cells]))
    return "\n".join(lines)


def formats(reports: Sequence[Report]) -> str:
    """Which sample rates and numbers of channels there are."""
    found = Counter(report.format for report in reports if report.format)
    several = "; channels are averaged, rates converted when loading" if len(found) > 1 else ""
    return "audio: " + "; ".join(f"{name}: {count:,} utterances" for name, count in found.most_common()) + several


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _positive(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a number of 1 or more, found {text!r}")
    return int(text)


def _log_to_terminal() -> None:
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    log.setLevel(logging.INFO)
