"""How a run is stopped: it is asked to, finishes an update, saves and says so."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from types import FrameType

from tqdm import tqdm


class Interrupted(Exception):
    """The user or the system asked the run to stop; it has saved its state."""


class StopRequest:
    """Ctrl-C or SIGTERM: finish the current update, save, stop. A second Ctrl-C stops at once.

    Outside of the main thread, where Python delivers no signals, only :attr:`requested` asks for it.
    """

    def __init__(self) -> None:
        self.requested = False
        self.tell: Callable[[], None] = lambda: None
        """Called when it is requested here: processes that share a run stop together."""

    def __enter__(self) -> StopRequest:
        self._former = {}
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._former[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._former.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.requested and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.requested = True
        self.tell()
        tqdm.write("stopping after this update (Ctrl-C again: at once)")
