"""Several processes of one run, forked from a test, which has imported all that they need."""

from __future__ import annotations

import json
import multiprocessing
import os
import socket
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmark.engine.stopping import Interrupted
from benchmark.engine.world import World, joined
from benchmark.errors import BenchmarkError


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def member(rank: int, size: int, port: int, output: Path, function: Callable[[World], Any]) -> None:
    """What each process does: the exit status is 130 where it was interrupted."""
    torch.set_num_threads(1)
    os.environ |= {
        "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(size), "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }  # fmt: skip
    descriptor = os.open(output / f"stderr{rank}", os.O_WRONLY | os.O_CREAT)
    os.dup2(descriptor, 2)
    status = 1
    try:
        with joined() as world:
            value = function(world)
        (output / f"value{rank}").write_text(json.dumps(value))
        status = 0
    except Interrupted:
        status = 130
    except BenchmarkError as error:
        os.write(2, f"error: {error}\n".encode())
    except SystemExit as stopped:
        status = int(str(stopped.code))
    finally:
        os._exit(status)


def start(size: int, output: Path, function: Callable[[World], Any]) -> list[Any]:
    """Start processes; what each says on standard error and returns is in ``stderr0`` and ``value0`` of ``output``."""
    output.mkdir(parents=True, exist_ok=True)
    context, port = multiprocessing.get_context("fork"), free_port()
    found = [context.Process(target=member, args=(rank, size, port, output, function)) for rank in range(size)]
    for process in found:
        process.start()
    return found


def ended(processes: Sequence[Any], seconds: float = 60) -> list[int]:
    """Exit statuses, once all have ended in this time."""
    until = time.monotonic() + seconds
    for process in processes:
        process.join(max(0.1, until - time.monotonic()))
        if process.is_alive():
            for other in processes:
                other.kill()
            pytest.fail("a process did not end")
    return [process.exitcode for process in processes]
