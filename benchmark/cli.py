"""The command line: finds the command, and turns errors that a user can fix into a message and an exit status.

Nothing heavy is imported before it is needed: ``--help`` and ``--list`` import no torch.
"""

from __future__ import annotations

import contextlib
import getpass
import importlib
import io
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any, cast

from benchmark import registry
from benchmark.allocation import keep_freed
from benchmark.errors import BenchmarkError
from benchmark.files import cache_dir

COMMANDS = {
    "run": "train and evaluate; the same as run_downstream.py",
    "list": "upstreams, downstreams and recipes",
    "prepare": "write manifests of a corpus, a Kaldi directory, lhotse cuts or a Hugging Face dataset",
    "validate": "read the audio of manifests and list problems",
    "pack": "corpora in tar files with an index, read in place of millions of files; and back",
    "predict": "embeddings, classes or transcripts of audio files, by a trained run",
    "extract": "hidden states of audio files, or their means, to a folder",
    "check-upstream": "whether an upstream keeps its promises: lengths, padding, precision, gradients …",
    "export": "the upstream of a fine-tuned run, for other libraries, or as an upstream again",
    "recipe": "run a study: upstreams x tasks x regimes x budgets x seeds",
    "report": "one HTML page on studies, with tables and figures beside it",
    "compare": "ranks with ties: which systems a test set separates, and what it could detect",
    "influence": "which speakers, languages or classes a result, or a difference, rests on",
    "extrapolate": "the error to expect at label budgets that were not run, and where regimes cross",
    "table": "results as a Markdown table",
    "cache": "kept features of frozen upstreams: list, verify, clear",
    "doctor": "versions, devices, codecs, folders: what a bug report needs, and what is wrong",
}
"""``wavbench COMMAND``: summary. Each is a module of ``benchmark.commands``, where a hyphen is an underscore."""


def main(argv: Sequence[str] | None = None) -> int:
    """``wavbench COMMAND …``. Returns the exit status."""
    return _call(_dispatch, list(sys.argv[1:] if argv is None else argv))


def _dispatch(arguments: Sequence[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help"):
        print("usage: wavbench COMMAND …   (wavbench COMMAND --help)\n")
        print("\n".join(f"  {name:<16}{summary}" for name, summary in COMMANDS.items()))
        return 0 if arguments else 2
    command, *rest = arguments
    if command not in COMMANDS:
        print(f"error: unknown command '{command}'. {registry.suggest(command, list(COMMANDS))}", file=sys.stderr)
        return 2
    if command in ("recipe", "extract") and int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise BenchmarkError(
            f"$WORLD_SIZE says that this process is one of several (torchrun), each of which would {command} all; "
            "start one process (wavbench run and run_downstream.py share a run)"
        )
    module = f"benchmark.commands.{command.replace('-', '_')}"
    run: Callable[[Sequence[str]], int] = importlib.import_module(module).main
    return run(rest)


def run_downstream(argv: Sequence[str] | None = None) -> int:
    """``run_downstream.py``. Returns the exit status: 0 done, 1 failed, 2 wrong usage, 130 interrupted."""
    from benchmark.commands import run

    return _call(run.main, list(sys.argv[1:] if argv is None else argv))


def _call(command: Callable[[Sequence[str]], int], argv: Sequence[str]) -> int:
    """Run a command; errors that a user can fix become a message on the terminal and an exit status."""
    with _usable_streams():
        try:
            try:
                _check_current_folder(argv)
                _name_user()
                keep_freed()
                return command(argv)
            finally:
                sys.stdout.flush()
        except BrokenPipeError:  # `| head`: the reader has gone
            _silence(sys.stdout)
            return 0
        except BenchmarkError as error:
            message, status = f"error: {error}", 1
        except OSError as error:  # a disk that is full or gone, wherever a library writes to it
            where = f" ({error.filename})" if error.filename else ""
            message, status = f"error: {error.strerror or error}{where}", 1
            if where and Path(os.fsdecode(error.filename)).is_relative_to(cache_dir()):
                message += "; set BENCHMARK_CACHE to a folder that can be written"
        except UnicodeEncodeError as error:
            if error.encoding.lower() == "utf-8" or error.encoding != sys.getfilesystemencoding():
                raise
            what = f"{error.object!r} cannot name a file where names are in {error.encoding}, as the locale says"
            message, status = f"error: {what}; set PYTHONUTF8=1 or LC_ALL=C.UTF-8", 1
        except KeyboardInterrupt:
            message, status = "\ninterrupted", 130
        print(message, file=sys.stderr)
        return status


def _check_current_folder(argv: Sequence[str]) -> None:
    try:
        os.getcwd()
    except FileNotFoundError as error:  # libraries die of it in their own ways
        if list(argv) != ["doctor"]:
            raise BenchmarkError("the current folder has been deleted; change to another one") from error


def _name_user() -> None:
    """torch asks for the user's name, and fails where a container's user has none."""
    try:
        getpass.getuser()
    except (KeyError, OSError):
        os.environ["LOGNAME"] = f"user{os.getuid()}"


# -- terminals ---------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _usable_streams() -> Iterator[None]:
    """Let standard streams take whatever is printed, or nothing: they may be closed, gone or of a small alphabet.

    A terminal shows what it has no character for as ``?``; files and pipes get UTF-8, whatever the locale.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:  # the next file that is opened would take its place
            os.open(os.devnull, os.O_RDWR)
    nowhere = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
    output = sys.stdout or nowhere
    if isinstance(output, io.TextIOWrapper):
        if output.isatty():
            output.reconfigure(errors="replace")
        else:
            output.reconfigure(encoding="utf-8", errors="surrogateescape")
    errors = cast("IO[str]", _Forgiving(sys.stderr or nowhere))
    with nowhere, contextlib.redirect_stdout(output), contextlib.redirect_stderr(errors):
        try:
            yield
        finally:
            try:
                output.flush()
            except OSError:
                _silence(output)


class _Forgiving:
    """A stream for messages and progress: a run that loses its terminal goes on."""

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        try:
            return self._stream.write(text)
        except OSError:
            _silence(self._stream)
            return len(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError):
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def _silence(stream: IO[str]) -> None:
    """Let a stream end nowhere, also what it holds back."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


if __name__ == "__main__":
    sys.exit(main())
