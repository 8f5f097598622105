"""``wavbench cache``: the kept features of frozen upstreams, what they take, whether they are intact."""

from __future__ import annotations

import argparse
import contextlib
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from benchmark.commands import Parser, log_to_terminal
from benchmark.errors import BenchmarkError
from benchmark.registry import suggest

if TYPE_CHECKING:
    from benchmark.engine.feature_shards import Store

EXAMPLES = """\
examples:
  wavbench cache ls
  wavbench cache verify
  wavbench cache clear --upstream wav2vec2_base
  wavbench cache clear --unused-for 30
  wavbench cache clear --all
"""


def main(argv: Sequence[str]) -> int:
    """``wavbench cache ls | verify | clear``. Returns 1 if ``verify`` found features that are damaged, else 0.

    Raises:
        BenchmarkError: ``clear`` without saying what; an upstream of which nothing is kept.
    """
    options = _parser().parse_args(argv)
    log_to_terminal()

    from benchmark.engine.feature_shards import stores
    from benchmark.files import cache_dir

    root = (options.folder or cache_dir() / "features").absolute()
    there = list(stores(root))
    found = [store for store in there if options.upstream in (None, store.about.get("upstream"))]
    if options.upstream and not found:
        known = sorted({str(store.about.get("upstream") or "?") for store in there})
        raise BenchmarkError(
            f"nothing is kept of upstream '{options.upstream}' in {root}. "
            + suggest(options.upstream, known, noun="kept upstreams")
        )
    if options.action == "verify":
        return _verify(found)
    if options.action == "clear":
        return _clear(found, options)
    return _list(root, found)


def _list(root: Path, found: Sequence[Store]) -> int:
    from benchmark.tables import Table

    rows = [
        [
            str(store.about.get("upstream") or "?"), str(store.about.get("kind") or store.folder.name),
            _size(store.size), str(len(store.shards)), _ago(store.used), str(store.folder),
        ]
        for store in found
    ]  # fmt: skip
    if rows:
        print(Table(["upstream", "kept", "size", "files", "last used", "folder"], rows, "").text())
    print(f"{_size(sum(store.size for store in found))} of features in {root}")
    return 0


def _verify(found: Sequence[Store]) -> int:
    """Read every number; damaged files are removed, so that their utterances are computed again."""
    from tqdm import tqdm

    from benchmark.engine.feature_shards import Shard, Unreadable

    shards = [path for store in found for path in store.shards]
    damaged, unread = [], []
    for path in tqdm(shards, desc="verifying", unit="file", disable=None):
        try:
            Shard(path).check()
        except Unreadable as error:
            unread.append(path)
            print(error)
        except BenchmarkError:
            damaged.append(path)
            path.unlink(missing_ok=True)
            print(f"damaged, removed: {path}")
    could_not = f", {len(unread)} that could not be read" if unread else ""
    print(f"{len(shards)} files of features, {len(damaged)} damaged{could_not}")
    return 1 if damaged or unread else 0


def _clear(found: Sequence[Store], options: argparse.Namespace) -> int:
    from benchmark.tables import plural

    if not (options.all or options.upstream or options.unused_for is not None):
        raise BenchmarkError("say what to clear: --upstream NAME, --unused-for DAYS, or --all")
    before = time.time() - 86400 * (options.unused_for or 0)
    old = [store for store in found if options.unused_for is None or store.used < before]
    for store in old:
        shutil.rmtree(store.folder, ignore_errors=True)
    print(f"removed {_size(sum(store.size for store in old))} of features of {plural(len(old), 'store')}")
    return 0


def _size(number: float) -> str:
    unit, name = (1e9, "GB") if number >= 1e9 else (1e6, "MB") if number >= 1e6 else (1e3, "kB")
    return f"{number / unit:.1f} {name}"


def _days(text: str) -> float:
    """An option's number of days, 0 or more."""
    with contextlib.suppress(ValueError):
        if float(text) >= 0:
            return float(text)
    raise argparse.ArgumentTypeError(f"expected a number of days, 0 or more, found {text!r}")


def _ago(moment: float) -> str:
    days = (time.time() - moment) / 86400
    return f"{days:.0f} days ago" if days >= 1 else "today"


def _parser() -> argparse.ArgumentParser:
    parser = Parser("wavbench cache", "Kept features of frozen upstreams: list, verify, clear.", EXAMPLES)
    parser.add_argument("action", choices=("ls", "verify", "clear"), help="list, check every number, or remove")
    parser.add_argument("--upstream", metavar="NAME", help="only the features of this upstream")
    parser.add_argument("--unused-for", type=_days, metavar="DAYS", help="clear: only what was not used for so long")
    parser.add_argument("--all", action="store_true", help="clear: everything")
    parser.add_argument("--folder", type=Path, help="of all features; default: features in the cache folder")
    return parser
