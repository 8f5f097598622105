"""``python interrupted.py MOMENT N SIGNAL ARGUMENTS``: run_downstream.py, which signals itself at the Nth such moment.

Moments: ``update``, applied but not saved; ``prediction``, in the middle of an evaluation; ``write``, the new file lies
complete beside the one that it replaces; ``written``, it has just taken its place.
"""

from __future__ import annotations

import itertools
import os
import signal
import sys
from typing import Any

from torch import nn
from torch.nn.modules.module import register_module_forward_hook
from torch.optim.optimizer import register_optimizer_step_post_hook

from benchmark.cli import run_downstream
from benchmark.interfaces import Upstream


def arm(moment: str, count: int, number: signal.Signals) -> None:
    calls = itertools.count(1)
    replace = os.replace

    def reached(*_: Any) -> None:
        if next(calls) == count:
            os.kill(os.getpid(), number)

    def replaced(*arguments: Any, **options: Any) -> None:
        if moment == "write":
            reached()
        replace(*arguments, **options)
        if moment == "written":
            reached()

    def forwarded(module: nn.Module, *_: Any) -> None:
        if isinstance(module, Upstream) and not module.training:
            reached()

    if moment == "update":
        register_optimizer_step_post_hook(reached)
    elif moment == "prediction":
        register_module_forward_hook(forwarded)
    elif moment in ("write", "written"):
        os.replace = replaced  # type: ignore[assignment]
    else:
        sys.exit(f"unknown moment {moment}")


if __name__ == "__main__":
    arm(sys.argv[1], int(sys.argv[2]), signal.Signals[sys.argv[3]])
    arguments, sys.argv = sys.argv[4:], ["run_downstream.py"]
    sys.exit(run_downstream(arguments))
