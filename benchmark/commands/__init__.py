"""The commands of ``wavbench``, one module each: ``main(argv) -> exit status``. Importing one imports nothing heavy."""

from __future__ import annotations

import argparse
from typing import NoReturn

from benchmark import registry


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
