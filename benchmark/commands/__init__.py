"""The commands of ``wavbench``, one module each: ``main(argv) -> exit status``. Importing one imports nothing heavy."""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from benchmark import registry
from benchmark.errors import BenchmarkError

if TYPE_CHECKING:
    from benchmark.interfaces import Upstream


def program() -> str:
    """How ``wavbench run`` was called: a wheel has no ``run_downstream.py``."""
    script = "run_downstream.py"
    return f"python {script}" if Path(sys.argv[0]).name == script else "wavbench run"


class Parser(argparse.ArgumentParser):
    """A parser of exact option names that suggests the nearest one for a typo.

    Args:
        command: ``run_downstream.py`` or ``wavbench COMMAND``.
        description: one sentence.
        examples: shown below the options, as they are.
    """

    def __init__(self, command: str, description: str, examples: str = "") -> None:
        super().__init__(
            prog=command,
            description=description,
            epilog=examples,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )

    def error(self, message: str) -> NoReturn:
        """Print the message, with a suggestion for an unknown option, and exit with status 2."""
        unknown = message.removeprefix("unrecognized arguments: ")
        if unknown != message:
            options = sorted(option for action in self._actions for option in action.option_strings)
            message = f"unknown option {unknown.split()[0]}. {registry.suggest(unknown.split()[0], options)}"
        self.exit(2, f"error: {message}\n")


def positive(text: str) -> int:
    """An option's number of 1 or more."""
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a number of 1 or more, found {text!r}")
    return int(text)


def page_file(text: str) -> str:
    """An option's file for a page, which must not be a folder."""
    from pathlib import Path

    if not Path(text).name or Path(text).is_dir():
        raise argparse.ArgumentTypeError(f"{text!r} is a folder; name a file, such as report.html")
    return text


def add_upstream_arguments(parser: argparse.ArgumentParser) -> None:
    """Which upstream, for :func:`load_chosen_upstream`, beside its name."""
    parser.add_argument("-k", "--checkpoint", metavar="FILE", help="for upstreams that read one")
    parser.add_argument("--plugin", metavar="FILE", action="append", default=[], help="a file that adds names")
    parser.add_argument(
        "--option", metavar="NAME=VALUE", action="append", default=[],
        help="an option of the upstream (in runs -o upstream.options.NAME=VALUE); may be repeated",
    )  # fmt: skip


def load_chosen_upstream(name: str, options: argparse.Namespace) -> tuple[Upstream, dict[str, Any]]:
    """The upstream that the arguments choose, and its options.

    Raises:
        BenchmarkError: an unknown name, plug-in, checkpoint or option, or one that cannot be loaded.
    """
    import yaml

    registry.load_plugin(*options.plugin)
    values: dict[str, Any] = {}
    for text in options.option:
        key, equals, value = text.partition("=")
        if not (key and equals):
            raise BenchmarkError(f"--option {text}: expected NAME=VALUE")
        values[key] = yaml.safe_load(value)
    return registry.load_upstream(name, checkpoint=options.checkpoint, **values), values


def log_to_terminal() -> None:
    """Show the log on the terminal, as plain lines."""
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    logging.getLogger("wavbench").setLevel(logging.INFO)
    logging.raiseExceptions = False  # a log that cannot be written is no reason for a traceback
