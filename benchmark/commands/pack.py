"""``wavbench pack``: corpora and manifests in tar files, and back."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from benchmark import registry
from benchmark.commands import Parser, log_to_terminal, positive
from benchmark.errors import BenchmarkError, raise_problems

if TYPE_CHECKING:
    from benchmark.interfaces import Corpus, Utterance

EXAMPLES = """\
examples:
  wavbench pack voxceleb1 voxceleb2 --data-root /corpora -o /packed
  wavbench run -u wav2vec2_base -d voxceleb1_sv --data-root /packed
  wavbench pack train.jsonl dev.jsonl test.jsonl --label emotion -o /packed/mine
  wavbench pack --verify /packed
  wavbench pack --reverse /packed -o /corpora2         # the files as they were
"""


def main(argv: Sequence[str]) -> int:
    """``wavbench pack CORPUS|MANIFEST… -o DIR``. Returns 1 where ``--verify`` finds something wrong, else 0.

    Raises:
        BenchmarkError: data are missing or cannot be packed, or a folder holds something else.
    """
    parser = _parser()
    options = parser.parse_args(argv)
    log_to_terminal()
    registry.load_plugin(*options.plugin)
    if options.verify or options.reverse:
        if len(options.what) != 1:
            parser.error("--verify and --reverse take one folder, as 'wavbench pack' wrote it")
        if options.reverse and options.output is None:
            parser.error("--reverse needs -o DIR, the folder to write to")
        return _verify(Path(options.what[0]), options.workers) if options.verify else _reverse(options)
    if options.output is None:
        parser.error("-o DIR is missing: the folder for the archives")
    return _pack(options)


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        "wavbench pack",
        "Pack corpora or manifests into tar files with an index, which are used like the loose files.",
        EXAMPLES,
    )
    parser.add_argument("what", metavar="CORPUS|MANIFEST", nargs="+", help="names of corpora, or manifests (.jsonl …)")
    parser.add_argument("-o", "--output", metavar="DIR", help="a folder of its own")
    parser.add_argument("--data-root", metavar="DIR", help="holds the corpora; default: $BENCHMARK_DATA, else ./data")
    parser.add_argument("--label", metavar="NAME", action="append", default=[], help="a column of manifests to keep")
    parser.add_argument("--size", metavar="MIB", type=positive, default=1024, help="of an archive; default: 1024")
    parser.add_argument("--workers", metavar="N", type=positive, default=2, help="archives at a time; default: 2")
    parser.add_argument("--verify", action="store_true", help="compare a packed folder with its SHA-256 sums")
    parser.add_argument("--reverse", action="store_true", help="unpack a packed folder to -o DIR")
    parser.add_argument("--plugin", metavar="FILE", action="append", default=[], help="a file that registers corpora")
    return parser


def _pack(options: argparse.Namespace) -> int:
    from benchmark.data import manifest, shards

    root = Path(options.data_root or os.environ.get("BENCHMARK_DATA") or "data")
    corpora: dict[str, Corpus] = {}
    manifests: dict[str, list[Utterance]] = {}
    for what in options.what:
        if what.lower().endswith(manifest.ENDINGS):
            name = f"{Path(what).stem}.jsonl"
            if name in manifests:
                raise BenchmarkError(f"two manifests would be called {name} in {options.output}; rename one")
            manifests[name] = manifest.read(what, options.label)
        else:
            entry = registry.corpora.get(what)
            corpora[entry.name] = entry.load()(root)
    output = Path(options.output)
    written = shards.pack(
        corpora, manifests, output, root=root if corpora else None, size=options.size * 2**20, workers=options.workers
    )
    size = sum(archive["size"] for archive in written.archives)
    files = sum(archive["members"] for archive in written.archives)
    print(f"{output}: {files:,} files in {len(written.archives):,} archives, {size / 2**20:,.1f} MiB")
    if corpora:
        print(f"use it by --data-root {output}")
    for name in manifests:
        print(f"{output / name}: {len(manifests[name]):,} utterances")
    return 0


def _verify(folder: Path, workers: int) -> int:
    from benchmark.data import shards

    if problems := shards.verify(folder, workers):
        raise_problems(str(folder), problems, "Fetch these files again, or pack the corpus again")
    print(f"{folder}: {len(shards.read(folder).archives):,} archives are as they were written")
    return 0


def _reverse(options: argparse.Namespace) -> int:
    from benchmark.data import shards

    count = shards.unpack(Path(options.what[0]), Path(options.output))
    print(f"{options.output}: {count:,} files")
    return 0
