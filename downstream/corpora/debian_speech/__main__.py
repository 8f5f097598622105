"""``python -m downstream.corpora.debian_speech ROOT``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmark.errors import BenchmarkError
from downstream.corpora.debian_speech.building import FOLDER, build
from downstream.corpora.debian_speech.packages import MIRROR
from downstream.corpora.debian_speech.sources import COLLECTIONS


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m downstream.corpora.debian_speech",
        description="Human speech out of Debian's packages: 16 kHz FLAC files, manifests and a table of sources.",
    )
    parser.add_argument("root", type=Path, help=f"data root; {FOLDER} becomes a folder in it")
    parser.add_argument("--debs", type=Path, help="folder that holds the packages (.deb); nothing is fetched then")
    parser.add_argument(
        "--mirror", help=f"root of a Debian mirror (default: apt-get download where there is apt, else {MIRROR})"
    )
    parser.add_argument(
        "--corpus", action="append", choices=list(COLLECTIONS), help="may be repeated (default: everything)"
    )
    parser.add_argument("--workers", type=int, help="processes (default: one per core)")
    options = parser.parse_args(arguments)
    try:
        build(
            options.root,
            options.corpus or tuple(COLLECTIONS),
            debs=options.debs,
            mirror=options.mirror,
            workers=options.workers,
        )
    except BenchmarkError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
