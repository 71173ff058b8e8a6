"""Helpers for distributed training under torchrun; in a single process they do nothing."""

import os
from collections.abc import Iterable

import torch
import torch.distributed as dist
from torch import Tensor, nn


def start(device: torch.device | None = None) -> tuple[int, int]:
    """Join the process group of torchrun's environment, for training on `device`; returns (rank, world size)."""
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world > 1 and not dist.is_initialized():
        dist.init_process_group("nccl" if device is not None and device.type == "cuda" else "gloo")
    return int(os.environ.get("RANK", "0")), world


def own_device(name: str) -> torch.device:
    """The device of this process; `cuda` without an index is the GPU of torchrun's LOCAL_RANK."""
    device = torch.device(name)
    if device.type == "cuda" and device.index is None and "LOCAL_RANK" in os.environ:
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
    if device.type == "cuda":
        torch.cuda.set_device(device)
    return device


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
    """Sum gradients over all processes in one all-reduce. A parameter without a gradient in any process keeps None."""
    if not dist.is_initialized():
        return
    members = list(parameters)
    gradients: list[Tensor] = [torch.zeros_like(p) if p.grad is None else p.grad for p in members]
    used = torch.tensor([float(p.grad is not None) for p in members]).to(gradients[0])
    flat = torch.cat([*(g.reshape(-1) for g in gradients), used])
    dist.all_reduce(flat)
    *parts, used = flat.split([*(g.numel() for g in gradients), len(members)])
    for parameter, gradient, part, users in zip(members, gradients, parts, used.tolist()):
        # With a zero gradient, weight decay would change an unused weight, which does not happen in a single process.
        parameter.grad = gradient.copy_(part.view_as(gradient)) if users else None


def barrier() -> None:
    """Wait for all processes."""
    if dist.is_initialized():
        dist.barrier()
