"""``wavbench run`` (= ``run_downstream.py``): train, choose on dev, evaluate once on test.

The parser imports nothing heavy, so that ``--help`` and ``--list`` answer at once.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmark import registry
from benchmark.commands import Parser, log_to_terminal, program
from benchmark.errors import BenchmarkError

if TYPE_CHECKING:
    from benchmark.config import RunConfig
    from benchmark.engine.prepare import Preparer

EXAMPLES = """\
examples:
  python run_downstream.py -u wav2vec2_tiny -d voxceleb1_sv --quick                 # a first number, in a minute or two
  python run_downstream.py -u wav2vec2_tiny -d voxceleb1_sv --data-root data/demo --max-steps 200
  python run_downstream.py -u wav2vec2_large -d voxceleb1_sv --data-root /corpora   # SUPERB's speaker verification
  python run_downstream.py -u wav2vec2_local -k my.pt -d voxceleb1_sv -l 6          # one layer of your own checkpoint
  python run_downstream.py -u fbank -d voxceleb1_sv -o optim.lr=1e-3 trainer.batch_size=20
  python run_downstream.py -u wav2vec2_base -d asr --train a.jsonl --dev b.jsonl --test c.jsonl   # your own data
  python run_downstream.py -e results/my_run                                        # resume a run
  python run_downstream.py -m evaluate -e results/my_run -t dev-other               # score another split
"""


def build_parser() -> argparse.ArgumentParser:
    """The parser of ``run_downstream.py`` (= ``wavbench run``)."""
    parser = Parser(
        program().removeprefix("python "),
        "Train a downstream task on an upstream's hidden states, choose on dev, evaluate once on test.",
        EXAMPLES,
    )
    what = parser.add_argument_group("what to run")
    what.add_argument("-u", "--upstream", metavar="NAME", help="upstream (see --list)")
    what.add_argument("-d", "--downstream", metavar="NAME", help="downstream (see --list)")
    what.add_argument("-m", "--mode", choices=("train", "evaluate"), default="train", help="default: train")
    what.add_argument("-k", "--checkpoint", metavar="FILE", help="a local checkpoint, or Hugging Face folder")
    what.add_argument("--data-root", metavar="DIR", help="holds the corpora; default: $BENCHMARK_DATA, else ./data")
    what.add_argument("-t", "--split", metavar="NAME", help="with -m evaluate: another split or trial list")
    what.add_argument("--quick", action="store_true", help="a run of a minute or two on a small synthetic corpus")
    what.add_argument("--plugin", metavar="FILE", action="append", default=[], help="a Python file that adds names")
    what.add_argument("--list", action="store_true", help="upstreams, downstreams and recipes")
    own = parser.add_argument_group("your own data: -d sv, lid, asr, sid or classify; --test also with -m evaluate")
    own.add_argument("--train", metavar="FILE", help="manifest, JSONL or CSV (docs/data.md)")
    own.add_argument("--dev", metavar="FILE")
    own.add_argument("--test", metavar="FILE")
    own.add_argument("--trials", metavar="FILE", help="lines of 'label enrolment test', for speaker verification")
    own.add_argument("--label", metavar="NAME", help="for -d classify: the column to predict (= -o task.label=NAME)")
    how = parser.add_argument_group("how to train")
    how.add_argument(
        "--regime",
        metavar="NAME",
        help="frozen (default) | single_layer | partial | finetune | bitfit | houlsby | prefix | lora",
    )
    how.add_argument("-f", "--finetune", action="store_true", help="= --regime finetune")
    how.add_argument(
        "-l", "--layer", metavar="K", type=_layer,
        help="layer K alone (0: input of the first block, -1: the last layer), or all in turn",
    )  # fmt: skip
    how.add_argument("--top-blocks", metavar="K", type=int, help="= --regime partial: train the last K blocks too")
    how.add_argument(
        "--budget", metavar="B", help="label budget: 10min, 5%%, 8utt/speaker, 100speakers … (default all)"
    )
    how.add_argument("-c", "--config", metavar="FILE", help="YAML of configuration values")
    how.add_argument("-o", "--override", metavar="KEY=VALUE", nargs="+", action="extend", default=[])
    how.add_argument("--max-steps", metavar="N", type=int, help="= -o trainer.max_steps=N")
    how.add_argument("--seed", metavar="N", type=int)
    how.add_argument("--device", choices=("auto", "cpu", "cuda"))
    where = parser.add_argument_group("where the run lives")
    where.add_argument("-n", "--name", help="experiment folder results/NAME")
    where.add_argument("-p", "--expdir", metavar="DIR", help="experiment folder")
    where.add_argument("-a", "--auto-resume", action="store_true", help="resume if the folder holds a run, else start")
    where.add_argument("-e", "--resume-from", metavar="DIR", help="resume the run in DIR with its saved configuration")
    where.add_argument("--overwrite", action="store_true", help="start again in a folder that holds a run")
    return parser


def _layer(text: str) -> int | str:
    if text == "all":
        return text
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"'{text}' is neither the number of a layer nor 'all'") from None


def main(argv: Sequence[str]) -> int:
    """Parse, run, print the result. Returns the exit status."""
    options = build_parser().parse_args(argv)
    registry.load_plugin(*options.plugin)
    if options.list:
        from benchmark.commands.list import listing

        print(listing())
        return 0
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return _run(options)
    from benchmark.engine.world import joined

    with joined():
        return _run(options)


def _layers(options: argparse.Namespace) -> list[tuple[str, dict[str, Any]]]:
    """The command line's flags as nested configuration values, after those of ``-c``."""
    from benchmark import config

    layers: list[tuple[str, dict[str, Any]]] = []
    root = os.environ.get("BENCHMARK_DATA")
    if root and not options.quick:
        layers.append(("$BENCHMARK_DATA", {"data": {"root": root}}))
    if options.resume_from:
        saved = Path(options.resume_from) / "config.yaml"
        if not saved.exists():
            raise BenchmarkError(f"{options.resume_from} holds no run (no config.yaml)")
        layers.append((str(saved), config.read_yaml(saved)))
    if options.config:
        layers.append((f"-c {options.config}", config.read_yaml(options.config)))
    partial = None if options.top_blocks is None else "partial"
    regimes = {options.regime, "finetune" if options.finetune else None, partial} - {None}
    if len(regimes) > 1:
        raise BenchmarkError(f"--regime, -f and --top-blocks ask for different regimes: {', '.join(sorted(regimes))}")
    regime = regimes.pop() if regimes else "single_layer" if options.layer is not None else None
    flags = {
        "--regime": ("regime", regime),
        "--top-blocks": ("tune.top_blocks", options.top_blocks),
        "-l": ("featurizer.layer", 0 if options.layer == "all" else options.layer),
        "--label": ("task.label", options.label),
        "--budget": ("budget", options.budget),
        "-u": ("upstream.name", options.upstream),
        "-k": ("upstream.checkpoint", options.checkpoint),
        "--data-root": ("data.root", options.data_root),
        "--max-steps": ("trainer.max_steps", options.max_steps),
        "--seed": ("seed", options.seed),
        "--device": ("device", options.device),
    }
    if options.mode == "train":  # with -m evaluate they say what is scored
        flags |= {f"--{name}": (f"data.{name}", getattr(options, name)) for name in config.MANIFESTS}
    return layers + [(flag, config.nested(key, value)) for flag, (key, value) in flags.items() if value is not None]


def _last(layers: list[tuple[str, dict[str, Any]]], *keys: str) -> Any:
    """The value that the last layer with these nested keys gives them, else ``None``."""
    for source, values in reversed(layers):
        value: Any = values
        for key in keys:
            if value is not None and not isinstance(value, dict):
                raise BenchmarkError(f"{source}: expected {'.'.join(keys)}: NAME, found {values}")
            value = (value or {}).get(key)
        if value is not None:
            return value
    return None


def _plugins(options: argparse.Namespace, layers: list[tuple[str, dict[str, Any]]]) -> list[str]:
    """The plug-in files of saved configurations and of ``--plugin``, each once."""
    paths: list[str] = []
    for source, values in layers:
        saved = values.get("plugins") or []
        if not isinstance(saved, list):
            raise BenchmarkError(f"{source}: plugins must be a list of files, found {saved!r}")
        paths += saved
    return list(dict.fromkeys(str(Path(path).resolve()) for path in [*paths, *options.plugin]))


def _run(options: argparse.Namespace) -> int:
    named = options.expdir or (f"results/{options.name}" if options.name else None)
    if options.expdir and options.name:
        raise BenchmarkError("-p and -n both name the experiment folder; leave out one")
    if options.overwrite and (options.auto_resume or options.resume_from or options.mode == "evaluate"):
        raise BenchmarkError("--overwrite starts a run again; it does not go with -a, -e or -m evaluate")
    if named and options.resume_from:
        raise BenchmarkError(f"-e {options.resume_from} names the folder of the run; leave out -p and -n")
    if options.layer == "all" and (options.mode == "evaluate" or options.resume_from):
        raise BenchmarkError("-l all trains a run for every layer; evaluate them one by one, and resume with -a")
    if options.mode == "evaluate" and named:
        options.resume_from, named = named, None
    scored = _scored(options)
    layers = _layers(options)
    plugins = _plugins(options, layers)
    registry.load_plugin(*plugins)
    upstream = _last(layers, "upstream", "name")
    downstream = options.downstream or _last(layers, "downstream")
    if upstream is None or downstream is None:
        raise BenchmarkError("say what to run: -u UPSTREAM -d DOWNSTREAM (see --list; examples in --help)")
    registry.upstreams.get(upstream)
    name = registry.downstreams.get(downstream).name
    for source, values in layers:
        saved = values.get("downstream")
        if saved is not None and registry.downstreams.get(saved).name != name:
            raise BenchmarkError(f"-d {downstream}, but {source} is of '{saved}'")
        values.pop("downstream", None)
    layers.append(("--plugin", {"plugins": plugins}))

    from benchmark.engine.prepare import Preparer, Scored, configure, default_folder  # imports torch

    settings = configure(downstream, layers, options.override, quick=options.quick)
    default = default_folder(settings)
    resume = options.auto_resume or options.resume_from is not None
    arguments = {"mode": options.mode, "resume": resume, "overwrite": options.overwrite, "preparer": Preparer()}
    log_to_terminal()
    if options.layer == "all":
        return _run_layers(Path(named or f"{default}-all"), settings, **arguments)
    folder = Path(named or options.resume_from or default)
    return _run_in(folder, settings, scored=None if scored is None else Scored(**scored), **arguments)


def _run_layers(folder: Path, settings: RunConfig, *, preparer: Preparer, **arguments: Any) -> int:
    """Train on each layer in turn, in folders of their own, then print a table of them."""
    from benchmark import results

    folders: list[Path] = []
    layers = 1
    while len(folders) < layers:
        settings.featurizer.layer = len(folders)
        folders.append(folder / f"layer{len(folders)}")
        advice = "resume with the same command and -a"
        code = _run_in(folders[-1], settings, advice=advice, preparer=preparer, **arguments)
        if code:
            return code
        layers = preparer.upstream(settings).num_states
    print(results.markdown(results.collect(folders)))
    return 0


def _run_in(folder: Path, settings: RunConfig, *, advice: str = "", **arguments: Any) -> int:
    from benchmark import results
    from benchmark.engine.run import run
    from benchmark.engine.stopping import Interrupted

    try:
        outcome = run(settings, folder, **arguments)
    except Interrupted:
        print(advice or f"resume with: {program()} -e {folder}", file=sys.stderr)
        return 130
    assert outcome.result is not None
    if outcome.complete:
        print(f"{folder} is complete:\n{results.table(outcome.result)}")
    else:
        print(f"{results.table(outcome.result)}\n{outcome.folder}/result.json")
    return 0


def _scored(options: argparse.Namespace) -> dict[str, Any] | None:
    """What ``-m evaluate`` is to score: the arguments of :class:`benchmark.engine.prepare.Scored`."""
    if options.mode == "train":
        if options.split:
            raise BenchmarkError(f"-t {options.split} goes with -m evaluate")
        return None
    if options.train or options.dev:
        raise BenchmarkError("-m evaluate takes --test (and --trials); --train and --dev belong to the run itself")
    if options.split and (options.test or options.trials):
        raise BenchmarkError("-t names a split of the run's own corpus, --test other data; leave out one")
    if options.split:
        return {"name": options.split}
    if not options.test:
        if options.trials:
            raise BenchmarkError("--trials needs the manifest of its utterances: add --test FILE")
        return None
    paths = [path and Path(path).absolute() for path in (options.test, options.trials)]
    manifest, trials = (path and str(path) for path in paths)
    return {"name": "-".join(path.stem for path in paths if path), "manifest": manifest, "trials": trials}
