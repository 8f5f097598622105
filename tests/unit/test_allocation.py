"""Freed memory is kept for the next tensor."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

FAULTS = """
import resource, sys
import torch
from benchmark.allocation import keep_freed
if sys.argv[1] == "kept":
    assert keep_freed()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(100):
    tensors = [torch.ones(2**20) for _ in range(7)]  # 4 MiB each
    del tensors
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(how: str, **environment: str) -> int:
    command = [sys.executable, "-c", FAULTS, how]
    return int(subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="about glibc")
def test_freed_memory_is_kept() -> None:
    dropped, kept = faults("dropped"), faults("kept")
    assert kept < 20_000 < dropped, (kept, dropped)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="about glibc")
@pytest.mark.parametrize("name", ["MALLOC_TRIM_THRESHOLD_", "GLIBC_TUNABLES"])
def test_what_the_environment_says_stays(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from benchmark.allocation import keep_freed

    monkeypatch.setenv(name, "1")
    assert not keep_freed()
