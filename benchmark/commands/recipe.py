"""``wavbench recipe``: run a study, here or on a cluster, or tell how far it is."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from benchmark.commands import Parser, positive
from benchmark.errors import BenchmarkError

if TYPE_CHECKING:
    from benchmark.study.board import Executor
    from benchmark.study.recipe import Study

EXAMPLES = """examples:
  wavbench recipe study.yaml
  wavbench recipe study.yaml --executor ray --address auto --gpus 1
  wavbench recipe study.yaml --executor slurm --jobs 16 --time 4:00:00 --partition gpu --gres gpu:1
  wavbench recipe study.yaml --shard 1/4
  wavbench recipe study.yaml --status"""


def main(argv: Sequence[str]) -> int:
    """``wavbench recipe FILE``."""
    parser = Parser(
        "wavbench recipe",
        "Run a study: upstreams x tasks x regimes x budgets x seeds. A study that was stopped resumes where it was.",
        EXAMPLES,
    )
    parser.add_argument("recipe", metavar="FILE", help="a recipe, as in recipes/; with --status also a study's folder")
    parser.add_argument("-o", "--output", metavar="DIR", help="default: results/<name of the recipe>")
    parser.add_argument("--data-root", metavar="DIR", help="holds the corpora; default: $BENCHMARK_DATA, else ./data")
    parser.add_argument(
        "--jobs", type=positive, metavar="N",
        help="cells at a time (slurm: tasks of the array, by default 8); default: by GPUs or cores, or the cluster's",
    )  # fmt: skip
    parser.add_argument("--per-gpu", type=positive, default=1, metavar="N", help="cells at a time on a GPU; default 1")
    parser.add_argument("--one-by-one", action="store_true", help="train each cell by itself, also linear probes")
    parser.add_argument("--dry-run", action="store_true", help="print the cells and their cost, and stop")
    parser.add_argument("--status", action="store_true", help="print how far the study is, and stop")
    parser.add_argument("--executor", choices=("local", "ray", "slurm"), default="local", help="default: local")
    parser.add_argument("--shard", metavar="I/N", type=_shard, help="only the I-th of N parts of the cells: 1/4 … 4/4")
    parser.add_argument("--join", action="store_true", help="run cells that no other process has claimed")
    parser.add_argument("--cpus", type=positive, metavar="N", help="ray, slurm: cores of a cell or task; default 1")
    ray = parser.add_argument_group("--executor ray")
    ray.add_argument("--address", metavar="HOST:PORT", help="of a cluster; auto: the one of this machine")
    ray.add_argument("--gpus", type=float, metavar="X", help="of a cell, such as 1 or 0.5; default: 0")
    ray.add_argument("--send-back", action="store_true", help="nodes do not see the study's folder; send results to it")
    slurm = parser.add_argument_group("--executor slurm")
    for name, example in (("time", "4:00:00"), ("partition", "gpu"), ("gres", "gpu:1"), ("mem", "16G")):
        slurm.add_argument(f"--{name}", metavar=example, help=f"sbatch --{name}")
    slurm.add_argument("--sbatch", metavar="OPTION", action="append", default=[], help="another one, as account=mine")
    slurm.add_argument("--grace", type=positive, default=60, metavar="S", help="seconds to save in; default 60")
    options = parser.parse_args(argv)
    data_root = options.data_root or os.environ.get("BENCHMARK_DATA")

    if options.status:
        from benchmark.study.status import describe

        print(describe(_studied(options)))
        return 0
    from benchmark.study.executors.slurm import requeued

    with requeued():  # before what takes seconds
        return _main(options, data_root)


def _main(options: argparse.Namespace, data_root: str | None) -> int:
    from benchmark.study.recipe import read

    study = read(Path(options.recipe))
    if options.dry_run:
        from benchmark.study.plan import plan

        print(plan(study, data_root))
        return 0
    output = Path(options.output or f"results/{study.name}")
    if options.executor == "slurm":
        from benchmark.study.executors.slurm import submit

        print(submit(study, output, data_root, options))
        return 0
    return _run(study, output, data_root, options)


def _shard(text: str) -> tuple[int, int]:
    first, slash, second = text.partition("/")
    if slash and first.isdigit() and second.isdigit() and 1 <= int(first) <= int(second):
        return int(first), int(second)
    raise argparse.ArgumentTypeError(f"expected I/N, such as 1/4, found {text!r}")


def _studied(options: argparse.Namespace) -> Path:
    """The folder of a study, whose recipe need not be here."""
    if options.output or Path(options.recipe).is_dir():
        return Path(options.output or options.recipe)
    from benchmark import config

    name = config.read_yaml(Path(options.recipe)).get("name")
    if not isinstance(name, str):
        raise BenchmarkError(f"recipe {options.recipe} has no name; add -o DIR, the study's folder")
    return Path(f"results/{name}")


def _executor(options: argparse.Namespace) -> Executor:
    if options.executor == "ray":
        from benchmark.study.executors.ray import Ray

        return Ray(options.address, options.jobs, options.cpus or 1, options.gpus or 0.0, send_back=options.send_back)
    from benchmark.study.executors import slurm
    from benchmark.study.executors.local import Local

    shared = options.join or options.shard is not None
    return Local(options.jobs, options.per_gpu, shared=shared, parts=slurm.tasks() if options.join else 1)


def _run(study: Study, output: Path, data_root: str | None, options: argparse.Namespace) -> int:
    from benchmark import results
    from benchmark.study.executors import run_study, slurm
    from benchmark.study.runner import MOST_TOGETHER

    failed = run_study(
        study,
        output,
        data_root=data_root,
        one_by_one=options.one_by_one,
        executor=_executor(options),
        shard=options.shard or (1, 1),
        most=MOST_TOGETHER >> slurm.restarts(),
        session=slurm.session(),
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
