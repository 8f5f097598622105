"""On which device each process of a study runs."""

from __future__ import annotations

import subprocess
from typing import Any

import pytest

from benchmark.study import devices

LISTING = "0, GPU-aaa, NVIDIA H100, 80000\n1, GPU-bbb, NVIDIA H100, 500\n2, GPU-ccc, NVIDIA H100, 79000\n"


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        assert command[0] == "nvidia-smi"
        return subprocess.CompletedProcess(command, 0, stdout=LISTING)

    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


@pytest.mark.usefixtures("gpus")
def test_a_process_on_each_gpu_that_is_free(caplog: pytest.LogCaptureFixture) -> None:
    assert devices.slots(None, 1) == ["GPU-aaa", "GPU-ccc"]
    assert "GPU 1 (NVIDIA H100) has 500 MiB free" in caplog.text
    assert devices.slots(None, 2) == ["GPU-aaa", "GPU-ccc", "GPU-aaa", "GPU-ccc"]
    assert devices.slots(1, 2) == ["GPU-aaa"]
    assert devices.slots(3, 2) == ["GPU-aaa", "GPU-ccc", "GPU-aaa"]
    assert devices.slots(3, 1) == ["GPU-aaa", "GPU-ccc"]
    assert devices.slots(3, 1, cpu=True) == [None] * 3


@pytest.mark.usefixtures("gpus")
@pytest.mark.parametrize(
    ("visible", "expected"),
    [
        ("2", ["GPU-ccc"]),
        ("GPU-ccc,0", ["GPU-ccc", "GPU-aaa"]),
        ("", [None] * 4),
        ("-1", [None] * 4),
        ("7", [None] * 4),
    ],
    ids=["index", "uuid", "none", "minus one", "absent"],
)
def test_only_visible_gpus(monkeypatch: pytest.MonkeyPatch, visible: str, expected: list[str | None]) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert devices.slots(None if expected[0] else 4, 1) == expected


def test_without_a_driver_the_cores_count(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(*_: Any, **__: Any) -> None:
        raise FileNotFoundError("nvidia-smi")

    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.setattr(devices.os, "sched_getaffinity", lambda _: set(range(64)))
    memory = {"SC_AVPHYS_PAGES": 10**6, "SC_PAGE_SIZE": 9001}
    monkeypatch.setattr(devices.os, "sysconf", memory.__getitem__)
    assert devices.slots(None, 1) == [None] * 3  # 9 GB, 3 for each
    assert devices.slots(5, 1) == [None] * 5
