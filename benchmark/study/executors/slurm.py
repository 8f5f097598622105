"""Slurm: an array of jobs, each of which is the same command that joins in wherever the study is.

A task of the array runs cells on its own cores and GPUs as the local executor does; which cells, the claims in their
folders decide, so that any number of arrays may share a study. Shortly before its time is up (``--signal``), or when
somebody sends SIGUSR1, a task saves, asks to be requeued and goes on where it was when it is started again. On SIGTERM
it saves and ends: Slurm itself requeues what it preempts, and what was cancelled is to stay so. ``sbatch`` and
``scontrol`` are all that is needed.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shlex
import shutil
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmark.errors import BenchmarkError
from benchmark.study.executors import check_former
from benchmark.study.recipe import Study

TASKS = 8
"""Of an array, by default."""


def submit(study: Study, output: Path, data_root: str | None, options: argparse.Namespace) -> str:
    """Submit the array; returns what there is to say.

    Args:
        study: the recipe.
        output: the study's folder, which all nodes see.
        data_root: as they see it, too.
        options: of the command.

    Raises:
        BenchmarkError: there is no Slurm here, or it refuses.
    """
    if shutil.which("sbatch") is None:
        raise BenchmarkError(
            "sbatch is not found: --executor slurm needs a machine from which jobs of Slurm are submitted. "
            "Without one, --shard I/N divides a study by hand"
        )
    check_former(study, output)
    logs = output.resolve() / "slurm"
    try:
        logs.mkdir(parents=True, exist_ok=True)  # Slurm would lose what a task prints
    except OSError as error:
        raise BenchmarkError(f"cannot write into {output}: {error.strerror}. Choose another folder with -o") from error
    command = ["sbatch", "--parsable", *_sbatch(study, logs, options)]
    done = subprocess.run(command, input=_script(output, data_root, options), capture_output=True, text=True)
    if done.returncode:
        raise BenchmarkError(f"sbatch refuses: {done.stderr.strip()}\n  {shlex.join(command)}")
    job, tasks = done.stdout.strip().partition(";")[0], options.jobs or TASKS
    return (
        f"job {job}: {tasks} tasks run {study.name} in {output}; their output is in {logs}\n"
        f"wavbench recipe {options.recipe} -o {output} --status"
    )


def _sbatch(study: Study, logs: Path, options: argparse.Namespace) -> list[str]:
    """Options of the array; the user's come last, and win."""
    chosen = {name: getattr(options, name) for name in ("time", "partition", "gres", "mem")}
    return [
        f"--job-name={study.name}",
        f"--array=1-{options.jobs or TASKS}",
        f"--output={logs}/%A_%a.txt",
        "--open-mode=append",
        "--requeue",
        f"--signal=B:USR1@{options.grace}",
        f"--cpus-per-task={options.cpus or 1}",
        *(f"--{name}={value}" for name, value in chosen.items() if value is not None),
        *(f"--{option}" for option in options.sbatch),
    ]


def _script(output: Path, data_root: str | None, options: argparse.Namespace) -> str:
    """What a task runs. Python takes the place of the shell, so that signals reach it."""
    words = [sys.executable, "-m", "benchmark", "recipe", str(Path(options.recipe).resolve()), "--join"]
    words += ["-o", str(output.resolve()), "--per-gpu", str(options.per_gpu)]
    words += [] if data_root is None else ["--data-root", str(Path(data_root).resolve())]
    words += ["--one-by-one"] if options.one_by_one else []
    return f"#!/bin/sh\ntrap '' USR1\nexec {shlex.join(words)}\n"


def tasks() -> int:
    """Tasks of the array that this process is of; 1 outside of one."""
    return int(os.environ.get("SLURM_ARRAY_TASK_COUNT", "1"))


def restarts() -> int:
    """How often this task was started before. Cells that train together start again with it, so that fewer should."""
    return int(os.environ.get("SLURM_RESTART_COUNT", "0"))


def session() -> str:
    """The same for all tasks of an array."""
    return os.environ.get("SLURM_ARRAY_JOB_ID") or os.environ.get("SLURM_JOB_ID") or uuid.uuid4().hex[:12]


@contextlib.contextmanager
def requeued() -> Iterator[None]:
    """In a job: SIGUSR1 is Ctrl-C, after which the job is requeued. Elsewhere, nothing."""
    job = os.environ.get("SLURM_JOB_ID")
    if job is None:
        yield
        return
    array, task = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
    asked = False

    def stop(number: int, frame: Any) -> None:
        nonlocal asked
        asked = True
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)
        raise KeyboardInterrupt

    signal.signal(signal.SIGUSR1, stop)
    try:
        yield
    except KeyboardInterrupt:
        if asked:
            name = job if array is None else f"{array}_{task}"
            # Said first, and nothing after: Slurm kills this process and scontrol, perhaps before that has returned.
            print(f"stopped and saved; asking Slurm to requeue job {name}", file=sys.stderr, flush=True)
            done = subprocess.run(["scontrol", "requeue", name], capture_output=True, text=True)
            if done.returncode > 0:
                raise BenchmarkError(
                    f"stopped, but not requeued ({done.stderr.strip()}); submit the study again to go on"
                ) from None
        raise
