"""``wavbench table``: results as a Markdown table."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from benchmark import results
from benchmark.commands import Parser


def main(argv: Sequence[str]) -> int:
    """``wavbench table DIR…``: one line per result."""
    parser = Parser("wavbench table", "The results at and below some folders as a Markdown table.")
    parser.add_argument("folders", nargs="+", metavar="DIR", help="experiment folders, or folders of them")
    options = parser.parse_args(argv)
    folders = [Path(folder) for folder in options.folders]
    names = [str(path.parent) for path in results.paths(folders)]
    print(results.markdown(results.collect(folders), names))
    return 0
