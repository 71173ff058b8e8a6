"""Sequential depths: forward and backward of each depth before the next (Gloeckle et al., arXiv 2404.19737, §2)."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

Losses = Callable[[Tensor, Tensor | None], Iterator[Tensor]]


class _OneByOne(torch.autograd.Function):
    """Computes losses and gradients depth by depth in `forward`; `backward` only scales and returns the gradients."""

    @staticmethod
    def forward(ctx: Any, losses: Losses, hidden: Tensor, taps: Tensor | None, *parameters: Tensor) -> Tensor:
        with torch.enable_grad():
            leaf = hidden.detach().requires_grad_(hidden.requires_grad)
            taps_leaf = None if taps is None else taps.detach().requires_grad_(taps.requires_grad)
            inputs = [leaf, taps_leaf, *parameters]
            asked = [(i, tensor) for i, tensor in enumerate(inputs) if tensor is not None and tensor.requires_grad]
            places, wanted = [i for i, _ in asked], [tensor for _, tensor in asked]
            found: list[Tensor | None] = [None] * len(inputs)
            total = None
            for part in losses(leaf, taps_leaf):
                total = part.detach() if total is None else total + part.detach()
                if part.requires_grad and wanted:
                    _add(found, places, torch.autograd.grad(part, wanted, allow_unused=True))
        ctx.found = found
        return hidden.new_zeros(()) if total is None else total

    @staticmethod
    def backward(ctx: Any, scale: Tensor) -> tuple[Tensor | None, ...]:
        found, ctx.found = ctx.found, None  # scaled in place, to save the memory of a copy
        if found is None:
            raise RuntimeError("one by one: second backward pass, expected one; compute the loss again")
        return (None, *(None if g is None else g.mul_(scale) for g in found))


def _add(found: list[Tensor | None], places: Sequence[int], gradients: Sequence[Tensor | None]) -> None:
    """Add gradients to `found` in place, to save the memory of a third tensor."""
    for i, gradient in zip(places, gradients):
        if gradient is not None:
            kept = found[i]
            # Autograd may return a tensor that is shared with other gradients, so the first one is copied.
            found[i] = gradient.clone() if kept is None else kept.add_(gradient)


def one_by_one(losses: Losses, hidden: Tensor, taps: Tensor | None, parameters: Sequence[nn.Parameter]) -> Tensor:
    """Sum of the scalars that `losses(hidden, taps)` yields; the graph of each is freed before the next is computed.

    `parameters` are all trained parameters that the losses use. The gradients equal those of the sum, and the trunk
    needs one backward pass for all depths. If gradients are disabled, the losses are only summed. RuntimeError at a
    second backward pass through the result.
    """
    if not torch.is_grad_enabled():
        return sum(losses(hidden, taps), hidden.new_zeros(()))
    total: Tensor = _OneByOne.apply(losses, hidden, taps, *parameters)
    return total
