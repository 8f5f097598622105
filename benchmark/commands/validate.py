"""``wavbench validate``: problems of manifests and their audio."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmark import registry
from benchmark.commands import Parser, log_to_terminal, positive
from benchmark.errors import BenchmarkError

if TYPE_CHECKING:
    import argparse

    from benchmark.interfaces import Utterance

EXAMPLES = """\
examples:
  wavbench validate train.jsonl dev.jsonl test.jsonl --task asr
  wavbench validate train.csv --task classify --label emotion
  wavbench validate train.csv --decode --workers 16
"""


def main(argv: Sequence[str]) -> int:
    """``wavbench validate MANIFEST…``. Returns 0 if no problems are found, else 1.

    Raises:
        BenchmarkError: a manifest does not exist, the task is unknown.
    """
    options = _parser().parse_args(argv)
    log_to_terminal()
    registry.load_plugin(*options.plugin)
    requires = {label: f"--label {label}" for label in options.label} | _requirements(options.task, options.label)

    from benchmark.data import manifest
    from benchmark.data.examine import examine, summary, usable
    from benchmark.data.splits import overlaps
    from benchmark.data.trials import read_trials
    from benchmark.tables import plural

    scans = {str(Path(path)): manifest.scan(path, tuple(requires)) for path in options.manifests}
    splits = {name: [utterance for _, utterance in scan.rows] for name, scan in scans.items()}
    everything = [utterance for utterances in splits.values() for utterance in utterances]
    reports = examine(everything, decode=options.decode, workers=options.workers, clipped=options.max_clipped / 100)
    problems: list[str] = []
    remaining = iter(reports)
    for scan in scans.values():
        scan.problems += [*_lacking(scan.rows, requires), *_repeated(scan.rows)]
        scan.problems += [(line, problem) for line, _ in scan.rows for problem in next(remaining).problems]
        problems += scan.messages()
    problems += overlaps(splits)
    if options.trials:
        try:
            read_trials(options.trials, {utterance.id for utterance in everything})
        except BenchmarkError as error:
            problems.append(str(error))

    for problem in problems[: options.most]:
        print(problem)
    if options.most and len(problems) > options.most:
        print(f"… and {len(problems) - options.most:,} more (--most {options.most})")
    if problems:
        print()
    readable = usable(splits, reports)
    if readable:
        print(summary(readable, reports, tuple(requires)))
    if silent := sum(_may_be_empty(name, u) for name in requires for u in everything):
        print(f"note: {plural(silent, 'utterance')} with an empty text, which only dev and test sets may have")
    kind = "audio decoded" if options.decode else "headers read, audio not decoded (--decode does)"
    verdict = plural(len(problems), "problem") if problems else "no problems found"
    print(f"{verdict}: {plural(len(everything), 'utterance')}, {kind}")
    return 1 if problems else 0


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        "wavbench validate",
        "List the problems of manifests and their audio, one per line; exit status 1 if there are any.",
        EXAMPLES,
    )
    parser.add_argument(
        "manifests", metavar="MANIFEST", nargs="+", help=".jsonl, .json, .csv or .tsv; must not share utterances"
    )
    parser.add_argument("--task", metavar="NAME", help="check also what this task needs: sv, lid, asr, sid, classify")
    parser.add_argument(
        "--label", metavar="NAME", action="append", default=[], help="check also that every utterance has this label"
    )
    parser.add_argument("--trials", metavar="FILE", help="a trial list on utterances of the manifests")
    parser.add_argument("--decode", action="store_true", help="decode all audio: truncated, NaN, silent, clipped")
    parser.add_argument(
        "--max-clipped", metavar="PERCENT", type=float, default=1.0, help="samples at full scale; default: 1"
    )
    parser.add_argument(
        "--workers", metavar="N", type=positive, help="default: 8 threads; --decode: a process per core"
    )
    parser.add_argument("--most", metavar="N", type=positive, help="list at most N problems; default: all")
    parser.add_argument("--plugin", metavar="FILE", action="append", default=[], help="a file that registers tasks")
    return parser


def _requirements(task_name: str | None, labels: Sequence[str]) -> dict[str, str]:
    """Label -> who needs it, of a task with its default options and, if it has one, the option ``label``."""
    if task_name is None:
        return {}
    task: Any = registry.tasks.get(task_name).load()
    config = task.Config()
    if labels and hasattr(config, "label"):
        config = replace(config, label=labels[0])
    return dict.fromkeys(task.requires(config), f"task {task_name}")


def _lacking(rows: list[tuple[int, Utterance]], requires: dict[str, str]) -> Iterator[tuple[int, str]]:
    """(line, problem) of utterances without a label; one for all if none of them has it."""
    for name, why in requires.items():
        lacking = [(line, u) for line, u in rows if not u.label(name) and not _may_be_empty(name, u)]
        if lacking and len(lacking) == len(rows):
            yield 0, f"no utterance has the label '{name}' ({why})"
            continue
        for line, utterance in lacking:
            state = "empty" if utterance.label(name) == "" else "missing"
            yield line, f"utterance {utterance.id}: label '{name}' is {state} ({why})"


def _may_be_empty(name: str, utterance: Utterance) -> bool:
    """Whether a label is an empty text."""
    return name == "text" and utterance.text == ""


def _repeated(rows: list[tuple[int, Utterance]]) -> Iterator[tuple[int, str]]:
    """(line, problem) of stretches of a file that occurred before."""
    lines: dict[tuple[str, float, float | None], int] = {}
    for line, u in rows:
        before = lines.setdefault((u.path, u.start, u.duration), line)
        if before != line:
            yield line, f"utterance {u.id}: the same audio as line {before}"
