"""The command line: finds the command, and turns errors that a user can fix into a message and an exit status.

Nothing heavy is imported before it is needed: ``--help`` and ``--list`` import no torch.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable, Sequence

from benchmark import registry
from benchmark.errors import BenchmarkError

COMMANDS = {
    "run": "train and evaluate; the same as run_downstream.py",
    "list": "upstreams, downstreams and recipes",
    "prepare": "write manifests of a corpus, a Kaldi directory, lhotse cuts or a Hugging Face dataset",
    "validate": "read the audio of manifests and list problems",
    "predict": "embeddings, classes or transcripts of audio files, by a trained run",
    "export": "the upstream of a fine-tuned run, for fairseq, for transformers, or as an upstream again",
    "recipe": "run a study: upstreams x tasks x regimes x budgets x seeds",
    "report": "one HTML page on studies, with tables and figures beside it",
    "table": "results as a Markdown table",
}
"""``wavbench COMMAND``, a module of ``benchmark.commands`` each: summary."""


def main(argv: Sequence[str] | None = None) -> int:
    """``wavbench COMMAND …``. Returns the exit status."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0] in ("-h", "--help"):
        print("usage: wavbench COMMAND …   (wavbench COMMAND --help)\n")
        print("\n".join(f"  {name:<10}{summary}" for name, summary in COMMANDS.items()))
        return 0 if arguments else 2
    command, *rest = arguments
    if command not in COMMANDS:
        print(f"error: unknown command '{command}'. {registry.suggest(command, list(COMMANDS))}", file=sys.stderr)
        return 2
    return _call(importlib.import_module(f"benchmark.commands.{command}").main, rest)


def run_downstream(argv: Sequence[str] | None = None) -> int:
    """``run_downstream.py``. Returns the exit status: 0 done, 1 failed, 2 wrong usage, 130 interrupted."""
    from benchmark.commands import run

    return _call(run.main, list(sys.argv[1:] if argv is None else argv))


def _call(command: Callable[[Sequence[str]], int], argv: Sequence[str]) -> int:
    """Run a command; errors that a user can fix become a message on the terminal and an exit status."""
    status = 0
    try:
        status = command(argv)
        sys.stdout.flush()
    except BrokenPipeError:  # `| head`: the reader has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except BenchmarkError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except OSError as error:  # a disk that is full or gone, wherever a library writes to it
        where = f" ({error.filename})" if error.filename else ""
        print(f"error: {error.strerror or error}{where}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\ninterrupted", file=sys.stderr)
        return 130
    return status


if __name__ == "__main__":
    sys.exit(main())
