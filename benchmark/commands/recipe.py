"""``wavbench recipe``: run a study."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmark.commands import Parser, positive


def main(argv: Sequence[str]) -> int:
    """``wavbench recipe FILE``."""
    parser = Parser(
        "wavbench recipe",
        "Run a study: upstreams x tasks x regimes x budgets x seeds. A study that was stopped resumes where it was.",
    )
    parser.add_argument("recipe", metavar="FILE", help="a recipe, as in recipes/")
    parser.add_argument("-o", "--output", metavar="DIR", help="default: results/<name of the recipe>")
    parser.add_argument("--data-root", metavar="DIR", help="holds the corpora; default: $BENCHMARK_DATA, else ./data")
    parser.add_argument("--jobs", type=positive, metavar="N", help="cells at a time; default: by GPUs or cores")
    parser.add_argument("--per-gpu", type=positive, default=1, metavar="N", help="cells at a time on a GPU; default 1")
    parser.add_argument("--one-by-one", action="store_true", help="train each cell by itself, also linear probes")
    parser.add_argument("--dry-run", action="store_true", help="print the cells and their cost, and stop")
    options = parser.parse_args(argv)
    data_root = options.data_root or os.environ.get("BENCHMARK_DATA")

    from benchmark.study.recipe import read

    study = read(Path(options.recipe))
    if options.dry_run:
        from benchmark.study.plan import plan

        print(plan(study, data_root))
        return 0
    from benchmark import results
    from benchmark.study.runner import run_study

    output = Path(options.output or f"results/{study.name}")
    failed = run_study(
        study,
        output,
        data_root=data_root,
        jobs=options.jobs,
        per_gpu=options.per_gpu,
        one_by_one=options.one_by_one,
    )
    if any(output.rglob("result.json")):
        print(results.markdown(results.collect([output])))
    if failed:
        print(f"{len(failed)} cells failed:", file=sys.stderr)
        for cell, reason in failed.items():
            print(f"  {cell.folder}: {reason}", file=sys.stderr)
        return 1
    print(f"\n{output}: wavbench report {output} -o report.html")
    return 0
