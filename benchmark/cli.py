"""The command line. Nothing heavy is imported before it is needed: ``--help`` and ``--list`` import no torch."""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import importlib
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

from benchmark import registry
from benchmark.errors import BenchmarkError

EXAMPLES = """\
examples:
  python run_downstream.py -u wav2vec2_tiny -d voxceleb1_sv --data-root data/demo --max-steps 200
  python run_downstream.py -u wav2vec2_large -d voxceleb1_sv --data-root /corpora   # SUPERB's speaker verification
  python run_downstream.py -u wav2vec2_local -k my.pt -d voxceleb1_sv -l 6          # one state of your own checkpoint
  python run_downstream.py -u fbank -d voxceleb1_sv -o optim.lr=1e-3 trainer.batch_size=20
  python run_downstream.py -u wav2vec2_base -d asr --train a.jsonl --dev b.jsonl --test c.jsonl   # your own data
  python run_downstream.py -e results/my_run                                        # go on where a run stopped
  python run_downstream.py -m evaluate -e results/my_run -t dev-other               # score another split
"""

COMMANDS = {
    "run": ("train and evaluate; the same as run_downstream.py", "benchmark.cli:run_downstream"),
    "list": ("upstreams, downstreams and recipes", "benchmark.cli:list_names"),
    "prepare": ("write manifests of a corpus, a Kaldi directory, lhotse cuts or a Hugging Face dataset",
                "benchmark.commands.data:prepare_main"),
    "validate": ("read the audio of manifests and list what is wrong", "benchmark.commands.data:validate_main"),
    "predict": ("embeddings, languages or transcripts of audio files, by a trained run", "benchmark.engine.predict:main"),
    "export": (
        "the upstream of a fine-tuned run, for fairseq, for transformers, or as an upstream again",
        "benchmark.engine.export:main",
    ),
    "recipe": ("run a study: upstreams x tasks x regimes x budgets x seeds", "benchmark.study.runner:main"),
    "report": ("one HTML page on studies, with tables and figures beside it", "benchmark.report.page:main"),
    "table": ("results as a Markdown table", "benchmark.cli:print_table"),
}  # fmt: skip
"""``wavbench COMMAND``: summary, and ``module:function`` that takes the arguments and returns the exit status."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        unknown = message.removeprefix("unrecognized arguments: ")
        if unknown != message:
            known = sorted(option for action in self._actions for option in action.option_strings)
            message = f"unknown option {unknown.split()[0]}. {registry.suggest(unknown.split()[0], known)}"
        self.exit(2, f"error: {message}\n")


def build_parser() -> argparse.ArgumentParser:
    """The parser of ``run_downstream.py`` (= ``wavbench run``)."""
    parser = _Parser(
        prog="run_downstream.py",
        description="Train a downstream task on an upstream's hidden states, choose on dev, evaluate once on test.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    what = parser.add_argument_group("what to run")
    what.add_argument("-u", "--upstream", metavar="NAME", help="upstream (see --list)")
    what.add_argument("-d", "--downstream", metavar="NAME", help="downstream (see --list)")
    what.add_argument("-m", "--mode", choices=("train", "evaluate"), default="train", help="default: train")
    what.add_argument("-k", "--checkpoint", metavar="FILE", help="a local fairseq checkpoint")
    what.add_argument("--data-root", metavar="DIR", help="holds the corpora; default: $BENCHMARK_DATA, else ./data")
    what.add_argument("-t", "--split", metavar="NAME", help="with -m evaluate: another split or trial list")
    what.add_argument("--plugin", metavar="FILE", action="append", default=[], help="a file that registers more names")
    what.add_argument("--list", action="store_true", help="upstreams, downstreams and recipes")
    own = parser.add_argument_group("own data: -d sv, lid, asr or sid; --test also with -m evaluate")
    own.add_argument("--train", metavar="FILE", help="manifest, JSONL or CSV (docs/data.md)")
    own.add_argument("--dev", metavar="FILE")
    own.add_argument("--test", metavar="FILE")
    own.add_argument("--trials", metavar="FILE", help="lines of 'label enrolment test', for speaker verification")
    how = parser.add_argument_group("how to train")
    how.add_argument("--regime", metavar="NAME", help="frozen (default) | probe | partial | finetune | lora")
    how.add_argument("-f", "--finetune", action="store_true", help="= --regime finetune")
    how.add_argument(
        "-l", "--layer", metavar="K", type=_layer, help="state K alone, or all in turn; without -f, = --regime probe"
    )
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
    where.add_argument("-a", "--auto-resume", action="store_true", help="go on if the folder holds a run, else start")
    where.add_argument("-e", "--resume-from", metavar="DIR", help="go on with the run in DIR, by its own configuration")
    where.add_argument("--overwrite", action="store_true", help="start again in a folder that holds a run")
    return parser


def _layer(text: str) -> int | str:
    if text == "all":
        return text
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"'{text}' is neither the number of a state nor 'all'") from None


def main(argv: Sequence[str] | None = None) -> int:
    """``wavbench COMMAND …``. Returns the exit status."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0] in ("-h", "--help"):
        print("usage: wavbench COMMAND …   (wavbench COMMAND --help)\n")
        print("\n".join(f"  {name:<10}{summary}" for name, (summary, _) in COMMANDS.items()))
        return 0 if arguments else 2
    command, *rest = arguments
    if command not in COMMANDS:
        print(f"error: unknown command '{command}'. {registry.suggest(command, list(COMMANDS))}", file=sys.stderr)
        return 2
    module, _, function = COMMANDS[command][1].partition(":")
    with reported() as status:
        status.code = getattr(importlib.import_module(module), function)(rest)
    return status.code


class _Status:
    code = 0


@contextlib.contextmanager
def reported() -> Iterator[_Status]:
    """Turn what a user can mend into a line on the terminal and an exit status."""
    status = _Status()
    try:
        yield status
        sys.stdout.flush()
    except BrokenPipeError:  # `| head`: nobody reads on
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except BenchmarkError as error:
        print(f"error: {error}", file=sys.stderr)
        status.code = 1
    except OSError as error:  # a disk that is full or gone, wherever a library writes to it
        where = f" ({error.filename})" if error.filename else ""
        print(f"error: {error.strerror or error}{where}", file=sys.stderr)
        status.code = 1
    except KeyboardInterrupt:
        print("\ninterrupted", file=sys.stderr)
        status.code = 130


def list_names(argv: Sequence[str]) -> int:
    """``wavbench list``."""
    return run_downstream(["--list", *argv])


def print_table(argv: Sequence[str]) -> int:
    """``wavbench table DIR…``: a line a result and evaluation set."""
    parser = _Parser(prog="wavbench table", description="Results below the folders given, as a Markdown table.")
    parser.add_argument("folders", nargs="+", metavar="DIR", help="experiment folders, or folders of them")
    options = parser.parse_args(argv)
    from benchmark import results

    print(results.markdown(results.collect([Path(folder) for folder in options.folders])))
    return 0


def run_downstream(argv: Sequence[str] | None = None) -> int:
    """Parse, run, report. Returns the exit status: 0 done, 1 failed, 2 wrong usage, 130 interrupted."""
    options = build_parser().parse_args(argv)
    with reported() as status:
        for plugin in options.plugin:
            registry.load_plugin(plugin)
        if options.list:
            print(listing())
        else:
            status.code = _run(options)
    return status.code


def listing() -> str:
    """All names, their summaries and whatever is broken."""
    lines: list[str] = []
    for of in (registry.upstreams, registry.downstreams):
        lines.append(f"{of.kind}s:")
        entries = list(of)
        width = max((len(entry.name) for entry in entries), default=0)
        for entry in entries:
            also = f" (= {', '.join(entry.aliases)})" if entry.aliases else ""
            note = f"BROKEN: {entry.problem}" if entry.problem else entry.summary
            origin = "" if entry.origin == "built in" else f" [{entry.origin}]"
            lines.append(f"  {entry.name:<{width}}  {note}{also}{origin}".rstrip())
        lines.append("")
    recipes = Path(__file__).resolve().parent.parent / "recipes"
    lines.append("recipes:")
    lines += [f"  {path.relative_to(recipes.parent)}" for path in sorted(recipes.rglob("*.yaml"))]
    return "\n".join(lines)


def _layers(options: argparse.Namespace) -> list[tuple[str, dict[str, Any]]]:
    """The command line's flags as nested configuration values, after those of ``-c``."""
    from benchmark import config

    layers: list[tuple[str, dict[str, Any]]] = []
    root = os.environ.get("BENCHMARK_DATA")
    if root:
        layers.append(("$BENCHMARK_DATA", {"data": {"root": root}}))
    if options.resume_from:
        saved = Path(options.resume_from) / "config.yaml"
        if not saved.exists():
            raise BenchmarkError(f"{options.resume_from} holds no run (no config.yaml)")
        layers.append((str(saved), config.read_yaml(saved)))
    if options.config:
        layers.append((f"-c {options.config}", config.read_yaml(options.config)))
    said = {options.regime, "finetune" if options.finetune else None, "partial" if options.top_blocks else None} - {
        None
    }
    if len(said) > 1:
        raise BenchmarkError(f"--regime, -f and --top-blocks ask for different regimes: {', '.join(sorted(said))}")
    regime = said.pop() if said else "probe" if options.layer is not None else None
    flags: dict[str, dict[str, Any]] = {
        "--regime": {"regime": regime},
        "--top-blocks": {"tune": {"top_blocks": options.top_blocks}},
        "-l": {"featurizer": {"state": 0 if options.layer == "all" else options.layer}},
        "--budget": {"budget": options.budget},
        "-u": {"upstream": {"name": options.upstream}},
        "-k": {"upstream": {"checkpoint": options.checkpoint}},
        "--data-root": {"data": {"root": options.data_root}},
        "--max-steps": {"trainer": {"max_steps": options.max_steps}},
        "--seed": {"seed": options.seed},
        "--device": {"device": options.device},
    }
    if options.mode == "train":  # with -m evaluate they say what is scored
        flags |= {f"--{name}": {"data": {name: getattr(options, name)}} for name in config.MANIFESTS}
    return layers + [(flag, values) for flag, values in flags.items() if not _is_unset(values)]


def _last(layers: list[tuple[str, dict[str, Any]]], *keys: str) -> Any:
    """The value that the last layer with these nested keys gives them, else ``None``."""
    for source, values in reversed(layers):
        found: Any = values
        for key in keys:
            if found is not None and not isinstance(found, dict):
                raise BenchmarkError(f"{source}: expected {'.'.join(keys)}: NAME, found {values}")
            found = (found or {}).get(key)
        if found is not None:
            return found
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


def _is_unset(values: Any) -> bool:
    return all(_is_unset(value) for value in values.values()) if isinstance(values, dict) else values is None


def _run(options: argparse.Namespace) -> int:
    from benchmark import config

    named = options.expdir or (f"results/{options.name}" if options.name else None)
    if options.expdir and options.name:
        raise BenchmarkError("-p and -n both name the experiment folder; leave out one")
    if options.overwrite and (options.auto_resume or options.resume_from or options.mode == "evaluate"):
        raise BenchmarkError("--overwrite starts a run again; it does not go with -a, -e or -m evaluate")
    if named and options.resume_from:
        raise BenchmarkError(f"-e {options.resume_from} names the folder to go on in; leave out -p and -n")
    if options.layer == "all" and (options.mode == "evaluate" or options.resume_from):
        raise BenchmarkError("-l all trains a run for every state; evaluate them one by one, and go on with -a")
    if options.mode == "evaluate" and named:
        options.resume_from, named = named, None
    target = _target(options)
    layers = _layers(options)
    plugins = _plugins(options, layers)
    for path in plugins:
        registry.load_plugin(path)
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

    from benchmark.engine import run as experiment  # imports torch

    card = experiment.read_card(downstream)
    run = config.compose(card, experiment.task_class(card).Config, layers, options.override)
    run.upstream.name = registry.upstreams.get(run.upstream.name).name
    default = f"results/{run.upstream.name}-{run.downstream}-{run.regime}-{config.digest(run)}"
    resume = options.auto_resume or options.resume_from is not None
    arguments = {"mode": options.mode, "resume": resume, "overwrite": options.overwrite}
    if options.layer == "all":
        return _run_states(Path(named or f"{default}-all"), run, card, **arguments)
    return _run_in(Path(named or options.resume_from or default), run, card, target=target, **arguments)


def _run_states(folder: Path, run: Any, card: dict[str, Any], **arguments: Any) -> int:
    """A probe of each hidden state in turn, in folders of their own, then a table of them."""
    from benchmark import results

    folders: list[Path] = []
    states = 1
    while len(folders) < states:
        run.featurizer.state = len(folders)
        folders.append(folder / f"state{len(folders)}")
        code = _run_in(folders[-1], run, card, target=None, **arguments)
        if code:
            return code
        if states == 1:  # not before the first run has found everything in order
            chosen = run.upstream
            states = registry.load_upstream(
                chosen.name, checkpoint=chosen.checkpoint, **dict(chosen.options)
            ).num_states
    print(results.markdown(results.collect(folders)))
    return 0


def _target(options: argparse.Namespace) -> dict[str, Any] | None:
    """What ``-m evaluate`` was pointed at: the arguments of ``experiment.Target``."""
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
    name = "-".join(Path(path).stem for path in (options.test, options.trials) if path)
    paths = {
        key: path and str(Path(path).absolute())
        for key, path in (("manifest", options.test), ("trials", options.trials))
    }
    return {"name": name, **paths}


def _run_in(
    folder: Path,
    run: Any,
    card: dict[str, Any],
    *,
    mode: str,
    target: dict[str, Any] | None,
    resume: bool,
    overwrite: bool,
) -> int:
    import logging

    from benchmark import config, results
    from benchmark.engine import run as experiment
    from benchmark.engine.trainer import Interrupted

    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    logging.getLogger("wavbench").setLevel(logging.INFO)
    logging.raiseExceptions = False  # a log that cannot be written is no reason for a traceback
    if mode == "evaluate" and not (folder / "config.yaml").exists():
        raise BenchmarkError(f"{folder} holds no run to evaluate; name its folder with -p, -n or -e")
    scoring = [f"task.{name}" for name in experiment.task_class(card).scoring] if mode == "evaluate" else []
    if not overwrite:  # before the work of preparing, and again under the lock
        experiment.occupy(folder, run, resume=resume, but=scoring)
    prepared = experiment.prepare(run, card, None if target is None else experiment.Target(**target))
    output = folder
    if mode == "evaluate":
        changed = config.differences(config.read_yaml(folder / "config.yaml"), run)  # scoring options, no others
        if target is not None or changed:  # the run's own result stays what its configuration says
            own = [*changed, *((target or {}).get(key) for key in ("manifest", "trials"))]
            told_apart = hashlib.sha256(repr(own).encode()).hexdigest()[:6] if any(own) else ""
            named = "rescored" if target is None else target["name"]
            output = folder / "evaluations" / "-".join(part for part in (named, told_apart) if part)
    with experiment.exclusive(folder):
        if not overwrite:
            experiment.occupy(folder, run, resume=resume, but=scoring)
            done = experiment.finished(folder, prepared) if mode == "train" else None
            if done is not None:
                print(f"{folder} is complete:\n{results.table(done)}")
                return 0
        log = logging.getLogger("wavbench")
        with experiment.logged_to(folder):
            for line in experiment.describe(prepared):
                log.info(line)
            try:
                if mode == "train":
                    result = experiment.train(prepared, folder, resume=resume, overwrite=overwrite)
                else:
                    result = experiment.evaluate(prepared, folder, output)
            except Interrupted as stopped:
                log.info("%s; go on with: python run_downstream.py -e %s", stopped, folder)
                return 130
            except BenchmarkError as error:
                log.error("error: %s", error)
                return 1
    print(f"{results.table(result)}\n{output}/result.json")
    return 0


if __name__ == "__main__":
    sys.exit(main())
