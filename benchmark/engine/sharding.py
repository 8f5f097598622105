"""A model of which each of several processes keeps a part (FSDP2), and its states as a single process has them.

Checkpoints hold whole tensors, gathered one at a time into the first process's memory: a run resumes with another
number of processes, and is exported, like any other. torch's own distributed checkpoints would need a conversion for
both. ``torch.distributed.fsdp`` takes a second to import, and is imported where it is needed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

if TYPE_CHECKING:
    from benchmark.engine.model import Model


def shard(model: Model, device: torch.device, processes: int, *, offload: bool) -> None:
    """Divide the parameters of a model among all processes, in place, a group for each block of the upstream and one
    for the rest. A group is gathered when it is computed.

    Args:
        model: with the same parameters in all processes, in the CPU's memory; a group at a time goes to the device.
        device: that the model computes on.
        processes: how many there are.
        offload: parts wait in the CPU's memory, where the optimizer then works.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import CPUOffloadPolicy, OffloadPolicy, fully_shard, register_fsdp_forward_method

    mesh = init_device_mesh(device.type, (processes,))
    policy = CPUOffloadPolicy() if offload and device.type != "cpu" else OffloadPolicy()
    for module in (*model.upstream.blocks, model):
        fully_shard(module, mesh=mesh, offload_policy=policy)
    register_fsdp_forward_method(model, "predict")
    model.upstream.sharded = True


def sync(model: nn.Module, last: bool) -> None:
    """Say whether the next backward pass is the last of an update, which sums the gradients over processes."""
    model.set_requires_gradient_sync(last)  # type: ignore[operator]


def plain(tensor: Tensor) -> Tensor:
    """The tensor of which a sharded one is a part, in all processes, which have to call it; others as they are."""
    whole: Tensor = tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor
    return whole


def whole(state: Any) -> Any:
    """A nested state with whole tensors on the CPU in place of sharded ones, empty ones but in the first process. All
    processes have to call it."""
    if isinstance(state, Tensor):
        if not hasattr(state, "full_tensor"):
            return state
        full = plain(state)
        return full.cpu() if dist.get_rank() == 0 else full.new_empty(0)
    if isinstance(state, dict):
        return {key: whole(value) for key, value in state.items()}
    return [whole(value) for value in state] if isinstance(state, list) else state


def model_state(state: dict[str, Tensor], model: Model) -> dict[str, Tensor]:
    """What :func:`whole` gave of a model, as this process has it."""
    now = model.state_dict()
    return {name: _like(value, now.get(name)) for name, value in state.items()}


def optimizer_state(state: dict[str, Any], optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """What :func:`whole` gave of an optimizer, as this process has it."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    kept = {
        index: {name: _like(value, parameters[index]) for name, value in values.items()}
        for index, values in state["state"].items()
    }
    return state | {"state": kept}


def _like(value: Any, parameter: Tensor | None) -> Any:
    """A whole tensor divided as a parameter of its shape is."""
    if parameter is None or not hasattr(parameter, "full_tensor") or getattr(value, "shape", None) != parameter.shape:
        return value
    from torch.distributed.tensor import DTensor, distribute_tensor

    assert isinstance(parameter, DTensor)
    return distribute_tensor(value, parameter.device_mesh, parameter.placements, src_data_rank=None)
