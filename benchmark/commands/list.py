"""``wavbench list``: upstreams, downstreams, regimes and recipes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from benchmark import registry
from benchmark.commands import Parser


def main(argv: Sequence[str]) -> int:
    """``wavbench list``."""
    parser = Parser("wavbench list", "Names of upstreams, downstreams, regimes and recipes.")
    parser.add_argument("--plugin", metavar="FILE", action="append", default=[], help="a file that adds names")
    registry.load_plugin(*parser.parse_args(argv).plugin)
    print(listing())
    return 0


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
