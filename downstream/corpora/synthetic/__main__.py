"""``python -m downstream.corpora.synthetic ROOT``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmark.errors import BenchmarkError
from downstream.corpora.synthetic import CORPORA, SIZES, synthesise, synthesise_pretraining


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m downstream.corpora.synthetic", description="Write synthetic speech in official layouts."
    )
    parser.add_argument("root", type=Path, help="data root; the corpora become folders in it")
    parser.add_argument("--size", choices=SIZES, default="demo")
    parser.add_argument(
        "--corpus",
        action="append",
        choices=[*CORPORA, "pretraining"],
        help="may be repeated (default: all but pretraining)",
    )
    parser.add_argument("--hours", type=float, default=10.0, help="length of the pre-training set (default: 10)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, help="processes (default: one per core)")
    options = parser.parse_args(arguments)
    try:
        corpora = options.corpus or CORPORA
        folders = [corpus for corpus in corpora if corpus != "pretraining"]
        synthesise(options.root, folders, size=options.size, seed=options.seed, workers=options.workers)
        if "pretraining" in corpora:
            folder = options.root / "pretraining"
            synthesise_pretraining(folder, hours=options.hours, seed=options.seed, workers=options.workers)
    except BenchmarkError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
