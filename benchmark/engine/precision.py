"""The device of a run and its precision."""

from __future__ import annotations

import copy

import torch
from torch import nn

from benchmark.interfaces import Upstream


class Precision:
    """Mixed precision on one device: ``no``, ``bf16``, or ``fp16`` with a gradient scaler.

    No state is shared between runs, so that one process can run several of different precision, also in threads.
    """

    def __init__(self, name: str, device: torch.device) -> None:
        dtype = {"no": None, "bf16": torch.bfloat16, "fp16": torch.float16}[name]
        self.device, self.dtype = device, dtype
        self.scaler = torch.amp.grad_scaler.GradScaler(device.type, enabled=name == "fp16")

    def autocast(self) -> torch.autocast:
        """The context of forward passes."""
        return torch.autocast(self.device.type, dtype=self.dtype, enabled=self.dtype is not None)

    def frozen(self, upstream: Upstream) -> Upstream:
        """An upstream that no update changes, its matrices rounded once instead of by autocast at each pass; a copy,
        since the preparer keeps the upstream for other runs."""
        if self.dtype is None:
            return upstream
        upstream = copy.deepcopy(upstream)
        for module in upstream.modules():
            if isinstance(module, nn.Linear | nn.Conv1d | nn.Conv2d):
                module.to(self.dtype)
        return upstream


def choose_device(name: str) -> torch.device:
    """``auto``, ``cpu`` or ``cuda`` as a device."""
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")


def fast_bf16(name: str) -> bool:
    """Whether the device of this name has fast products in bf16, as PyTorch knows it: older processors have not."""
    if choose_device(name).type != "cpu":
        return True
    fast = torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()  # type: ignore[no-untyped-call]
    return bool(fast)


def use_tf32(enabled: bool) -> None:
    """Whether float32 matrix products and convolutions on CUDA devices may round their factors to TF32 (10 bits of
    mantissa); for the whole process. torch's own default is to do so in convolutions."""
    torch.backends.cuda.matmul.allow_tf32 = enabled
    torch.backends.cudnn.allow_tf32 = enabled
