"""``wavbench influence``: which speakers, languages or classes a result, or a difference, rests on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmark import registry
from benchmark.commands import Parser, page_file, positive
from benchmark.errors import BenchmarkError

if TYPE_CHECKING:
    from benchmark.report.explained import Grouping, System

EXAMPLES = """\
examples:
  wavbench influence results/tuned                             # of each speaker, on the EER or error of one run
  wavbench influence results/tuned --against results/frozen    # on the difference, tuned - frozen
  wavbench influence results/tuned --against results/frozen -o whom.html --audio
  wavbench influence results/my_asr --by language --metric cer # any label of the corpus or of the manifests
"""


def main(argv: Sequence[str]) -> int:
    """``wavbench influence RUN… --against RUN…``."""
    parser = Parser(
        "wavbench influence",
        "The exact influence of each speaker, language or class on a result, or on the difference between two: the "
        "value with all the data minus the value without them.",
        EXAMPLES,
    )
    parser.add_argument("runs", nargs="+", metavar="RUN", help="folder of a run; several (seeds) are averaged")
    parser.add_argument(
        "--against", nargs="+", metavar="RUN", default=[], help="explain the difference from these runs"
    )
    parser.add_argument("--metric", metavar="NAME", help="default: the one that selected the run on dev")
    parser.add_argument(
        "--by",
        metavar="LABEL",
        help="speaker, class, or a label of the data, which must be at hand: language, gender, …",
    )
    parser.add_argument("--top", type=positive, default=10, metavar="N", help="rows of the tables; default 10")
    parser.add_argument(
        "-o", "--output", metavar="FILE", type=page_file, help="write a page, with the trials and utterances behind"
    )
    parser.add_argument(
        "--audio", action="store_true", help="with -o: clips in a folder beside the page, to play there"
    )
    parser.add_argument("--data-root", metavar="DIR", help="where the data is now; default: where the run found it")
    parser.add_argument("--plugin", metavar="FILE", action="append", default=[], help="declares metrics of the runs")
    options = parser.parse_args(argv)
    if options.audio and not options.output:
        raise BenchmarkError("--audio needs a page to play the clips in; name it by -o FILE.html")
    registry.load_plugin(*options.plugin)

    from benchmark.report import explained as influences
    from benchmark.report import whom
    from benchmark.tables import Table

    sides = [options.against, options.runs] if options.against else [options.runs]
    systems = [influences.read([Path(folder) for folder in side], metric=options.metric) for side in sides]
    task = systems[0].results[0]["downstream"]["name"]
    title = f"{task}: {' against '.join(_tell_apart(systems))}"
    among = None if options.by is None else [_grouping(systems[0], options.by, options.data_root)]
    explained = influences.explain(title, systems, among)
    if not explained.found:
        raise BenchmarkError("the test set is of one speaker, language or class; there is nothing to compare")
    for found in explained.found:
        for sentence in influences.sentences(explained, found):
            print(sentence)
        for table in (influences.influence_table(explained, found), influences.spread_table(explained, found)):
            shown = Table(table.columns, table.rows[: options.top])
            print(f"\n{shown.text()}")
            if len(table.rows) > options.top:
                print(
                    f"… and {len(table.rows) - options.top:,} more (--top N; all of them beside a page, -o FILE.html)"
                )
        print()
    if options.output:
        output = Path(options.output)
        made = whom.page(
            "Whom does it help?", [explained], output.stem, audio=options.audio, data_root=options.data_root
        )
        whom.write(made, output)
        clips = f", {len(made.clips)} clips in {made.clip_folder}/" if options.audio else ""
        print(f"{output}: {len(made.tables)} tables in {output.stem}_tables/{clips}")
    return 0


def _tell_apart(systems: Sequence[System]) -> list[str]:
    """Name two systems by what differs between them, and return the names, that of the explained one first."""
    from benchmark.results import upstream_name

    upstreams, regimes = ([str(of(system.results[0])) for system in systems] for of in (upstream_name, _regime))
    if len(systems) == 2 and upstreams[0] == upstreams[1] and regimes[0] != regimes[1]:
        names = regimes
    elif len(systems) == 2 and regimes[0] == regimes[1] and upstreams[0] != upstreams[1]:
        names = upstreams
    elif len({system.name for system in systems}) == len(systems):
        names = [system.name for system in systems]
    else:
        names = [str(system.folders[0]) for system in systems]
    for system, name in zip(systems, names, strict=True):
        system.name = name
    return names[::-1]


def _regime(result: Mapping[str, Any]) -> str:
    return str(result["regime"]) + ("" if result["state"] is None else f", layer {result['state']}")


def _grouping(system: System, by: str, data_root: str | None) -> Grouping:
    """By what the run keeps itself, else by a label of its data."""
    from benchmark.report.clips import at_hand
    from benchmark.report.explained import groupings, labelled

    kept = {grouping.noun: grouping for grouping in groupings(system)}
    if by == "class" and "language" in kept:
        by = "language"
    if by in kept:
        return kept[by]
    utterances = at_hand(system.folders[0], data_root)
    return labelled(system, by, {name: utterance.label(by) for name, utterance in utterances.items()})
