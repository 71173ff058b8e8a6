"""What one process of several must know, under torchrun; a single process needs nothing."""

import os
from collections.abc import Iterable

import torch
import torch.distributed as dist
from torch import Tensor, nn


def start() -> tuple[int, int]:
    """(rank, world size); joins the process group that torchrun's environment names."""
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world > 1 and not dist.is_initialized():
        dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    return int(os.environ.get("RANK", "0")), world


def total(value: float) -> float:
    """The sum of a number over all processes."""
    if not dist.is_initialized():
        return value
    tensor = torch.tensor(value, dtype=torch.float64)
    if dist.get_backend() == "nccl":
        tensor = tensor.cuda()
    dist.all_reduce(tensor)
    return float(tensor)


def sum_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Sum gradients over all processes, in one flat message; what has none anywhere keeps None."""
    if not dist.is_initialized():
        return
    members = list(parameters)
    gradients: list[Tensor] = [torch.zeros_like(p) if p.grad is None else p.grad for p in members]
    used = torch.tensor([float(p.grad is not None) for p in members]).to(gradients[0])
    flat = torch.cat([*(g.reshape(-1) for g in gradients), used])
    dist.all_reduce(flat)
    *parts, used = flat.split([*(g.numel() for g in gradients), len(members)])
    for parameter, gradient, part, users in zip(members, gradients, parts, used.tolist()):
        # A zero gradient would move an unused weight by its decay, which one process alone does not do.
        parameter.grad = gradient.copy_(part.view_as(gradient)) if users else None


def barrier() -> None:
    """Wait for all processes."""
    if dist.is_initialized():
        dist.barrier()
