"""``wavbench list``: upstreams, downstreams, regimes and recipes, or what the card of a downstream says."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from benchmark import registry
from benchmark.commands import Parser
from benchmark.errors import BenchmarkError

EXAMPLES = """\
examples:
  wavbench list
  wavbench list --upstreams
  wavbench list --upstreams 'xls_r*'
  wavbench list voxceleb1_sv
"""


def main(argv: Sequence[str]) -> int:
    """``wavbench list``."""
    parser = Parser("wavbench list", "Names of upstreams, downstreams, regimes and recipes.", EXAMPLES)
    parser.add_argument("name", nargs="?", help="a downstream: what its card says in words")
    parser.add_argument("--plugin", metavar="FILE", action="append", default=[], help="a file that adds names")
    parser.add_argument(
        "--upstreams", metavar="PATTERN", nargs="?", const="*",
        help="upstreams alone, with what is known of them without loading them; PATTERN as in a shell: 'xls_r*'",
    )  # fmt: skip
    options = parser.parse_args(argv)
    registry.load_plugin(*options.plugin)
    if options.name is not None:
        print(card_text(options.name))
    else:
        print(listing() if options.upstreams is None else upstream_table(options.upstreams))
    return 0


def card_text(name: str) -> str:
    """What a protocol card says in words: summary, confounds, sources and deviations.

    Raises:
        BenchmarkError: there is no such downstream, or its card cannot be read.
    """
    from benchmark.engine.cards import read_card  # not at the top: lists are shown without torch

    card = read_card(name)
    lines = [f"{card['name']}  {card.get('summary', '')}".rstrip(), f"task: {card['task']}, corpus: {card['corpus']}"]
    for key in ("confounds", "source", "deviations"):
        if card.get(key):
            lines += ["", f"{key}:", *(f"  - {text}" for text in card[key])]
    return "\n".join(lines)


def upstream_table(pattern: str) -> str:
    """A line for each upstream like ``pattern``: parameters, states, sizes, rates, licence, training data.

    Raises:
        BenchmarkError: there is none.
    """
    found = registry.list_upstreams(pattern, details=True)
    if not found:
        close = registry.suggest(pattern, registry.list_upstreams(), listed="wavbench list")
        raise BenchmarkError(f"no upstream is like '{pattern}'. {close}")
    rows = [("name", "parameters", "states", "size", "Hz", "frames/s", "licence", "trained on")]
    for row in found:
        rate, shift, parameters = row["sample_rate"], row["frame_shift"], row["parameters"]
        numbers = (
            f"{parameters / 1e6:,.1f} M" if parameters is not None else None,
            row["num_states"], row["hidden_size"], rate, f"{rate / shift:.4g}" if rate and shift else None,
        )  # fmt: skip
        shown = ("–" if value is None else str(value) for value in numbers)
        rows.append((row["name"], *shown, row["licence"] or "–", row["data"] or "–"))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for line in rows:
        cells = [
            cell.rjust(width) if 0 < place < 6 else cell.ljust(width)
            for place, (cell, width) in enumerate(zip(line, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def listing() -> str:
    """All names, their summaries and whatever is broken."""
    lines: list[str] = []
    for names in (registry.upstreams, registry.downstreams, registry.regimes):
        lines.append(f"{names.kind}s:")
        entries = list(names)
        width = max((len(entry.name) for entry in entries), default=0)
        for entry in entries:
            aliases = f" (= {', '.join(entry.aliases)})" if entry.aliases else ""
            note = f"BROKEN: {entry.problem}" if entry.problem else entry.summary
            origin = "" if entry.origin == "built in" else f" [{entry.origin}]"
            lines.append(f"  {entry.name:<{width}}  {note}{aliases}{origin}".rstrip())
        lines.append("")
    recipes = Path(__file__).resolve().parents[2] / "recipes"
    lines.append("recipes:")
    lines += [f"  {path.relative_to(recipes.parent)}" for path in sorted(recipes.rglob("*.yaml"))]
    return "\n".join(lines)
