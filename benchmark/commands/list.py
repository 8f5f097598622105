"""``wavbench list``: upstreams, downstreams, regimes and recipes."""

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
"""


def main(argv: Sequence[str]) -> int:
    """``wavbench list``."""
    parser = Parser("wavbench list", "Names of upstreams, downstreams, regimes and recipes.", EXAMPLES)
    parser.add_argument("--plugin", metavar="FILE", action="append", default=[], help="a file that adds names")
    parser.add_argument(
        "--upstreams", metavar="PATTERN", nargs="?", const="*",
        help="upstreams alone, with what is known of them without loading them; PATTERN as in a shell: 'xls_r*'",
    )  # fmt: skip
    options = parser.parse_args(argv)
    registry.load_plugin(*options.plugin)
    print(listing() if options.upstreams is None else upstream_table(options.upstreams))
    return 0


def upstream_table(pattern: str) -> str:
    """A line for each upstream like ``pattern``: parameters, states, sizes, rates, licence, training data.

    Raises:
        BenchmarkError: there is none.
    """
    found = registry.list_upstreams(pattern, details=True)
    if not found:
        raise BenchmarkError(f"no upstream is like '{pattern}'. {registry.suggest(pattern, registry.list_upstreams())}")
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
