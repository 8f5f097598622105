"""Processes that share a run notice when one of them ends before its time, whatever they wait for.

A line of JSON at a time goes between the first process and each other over a connection of its own, which the kernel
closes when a process dies. A collective operation would wait: NCCL does not notice that the other side has gone.
"""

from __future__ import annotations

import json
import os
import secrets
import socket
import threading
from collections.abc import Callable, Sequence
from typing import IO, Any

import torch.distributed as dist

from benchmark.errors import BenchmarkError

SETTING_UP = 60.0
"""Seconds for connecting."""


class Watch:
    """A process's connections to the first process or, in that one, to all others.

    Args:
        rank: of this process.
        size: how many processes there are; torch's process group of all of them is there.
    """

    def __init__(self, rank: int, size: int) -> None:
        self.rank, self.size = rank, size
        self.on_stop: Callable[[], None] = lambda: None
        """Called when another process was asked to stop."""
        self.on_end: Callable[[str], None] = lambda text: None
        """Called in the first process with why the run ends, before the process does."""
        self.advice = ""
        """What to do after that."""
        self._leaving = False
        self._peers: dict[int, socket.socket] = {}
        self._lines: dict[int, IO[str]] = {}
        about = {"host": socket.gethostname(), "pid": os.getpid()}
        if rank == 0:
            self._accept(about)
        else:
            self._connect(about)
        for peer in self._peers:
            threading.Thread(target=self._listen, args=(peer,), daemon=True).start()

    def _accept(self, about: dict[str, Any]) -> None:
        token = secrets.token_hex(16)
        with socket.create_server(("", 0)) as server:
            server.settimeout(SETTING_UP)
            dist.broadcast_object_list([server.getsockname()[1], token, about], src=0)
            self._about = {0: about}
            while len(self._peers) < self.size - 1:
                connection, _ = server.accept()
                connection.settimeout(SETTING_UP)
                lines = connection.makefile(encoding="utf-8")
                hello = json.loads(lines.readline())
                if hello["token"] != token:
                    raise BenchmarkError(f"a connection from outside at port {server.getsockname()[1]}; start again")
                peer = hello["rank"]
                self._peers[peer], self._lines[peer], self._about[peer] = connection, lines, hello
                _keep_alive(connection)

    def _connect(self, about: dict[str, Any]) -> None:
        given: list[Any] = [None, None, None]
        dist.broadcast_object_list(given, src=0)
        port, token, self._about = given[0], given[1], {0: given[2]}
        connection = socket.create_connection((os.environ["MASTER_ADDR"], port), timeout=SETTING_UP)
        _keep_alive(connection)
        self._peers[0], self._lines[0] = connection, connection.makefile(encoding="utf-8")
        self._send({"token": token, "rank": self.rank, **about})

    def stop(self) -> None:
        """Tell all others that this process was asked to stop."""
        self._send("stop")

    def leave(self) -> None:
        """Say that this process ends in order."""
        self._leaving = True
        self._send("left")

    def fail(self, reason: str) -> None:
        """End all other processes; the first one says why, unless it is this one, whose caller does."""
        self._leaving = True
        self._send({"error": reason})

    def _send(self, message: Any, to: Sequence[int] | None = None) -> None:
        line = json.dumps(message).encode() + b"\n"
        for peer in self._peers if to is None else to:
            try:
                self._peers[peer].sendall(line)
            except OSError:  # it has ended
                continue

    def _listen(self, peer: int) -> None:
        try:
            for line in self._lines[peer]:
                message = json.loads(line)
                if message == "left":
                    return
                if message == "stop":
                    self._send("stop", [other for other in self._peers if other != peer])
                    self.on_stop()
                else:
                    self._end(peer, message["error"])
        except (OSError, ValueError):
            pass
        about = self._about[peer]
        self._end(peer, f"it has ended (pid {about['pid']} on {about['host']}), killed from outside or out of memory")

    def _end(self, peer: int, reason: str) -> None:
        """End this process, after the first one, or the second where that is gone, has said why."""
        if self._leaving:
            return
        text = f"process {peer} of {self.size}: {reason}. {self.advice}".rstrip()
        if self.rank == 0:
            self._send({"error": reason}, [other for other in self._peers if other != peer])
            self.on_end(text)
        if self.rank == 0 or (peer == 0 and self.rank == 1 and reason.startswith("it has ended")):
            os.write(2, f"error: {text}\n".encode())
        os._exit(1)


def _keep_alive(connection: socket.socket) -> None:
    """Notice within 20 seconds that a machine is gone."""
    connection.settimeout(None)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (("TCP_KEEPIDLE", 10), ("TCP_KEEPINTVL", 5), ("TCP_KEEPCNT", 2)):
        if hasattr(socket, name):
            connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
