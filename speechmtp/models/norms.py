"""What a norm of a transformers model computes, found by applying it: models differ in names and in what their weights
mean."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class NormParts:
    """A norm as x' * weight + bias, where x' is x over its root mean square (`rms`), or x without its mean over its
    standard deviation (`layer`). `weight` [C] is what x' is multiplied with, which the model may store less 1; `weight`
    and `bias` are None if the norm has none."""

    kind: Literal["rms", "layer"] = "rms"
    eps: float = 1e-6
    weight: Tensor | None = None
    bias: Tensor | None = None

    def named(self, name: str) -> dict[str, Tensor]:
        """Return `name.weight` and `name.bias`, those that the norm has."""
        parts = {f"{name}.weight": self.weight, f"{name}.bias": self.bias}
        return {key: value for key, value in parts.items() if value is not None}


def is_norm(module: nn.Module) -> bool:
    """Return whether a module is a norm over its last axis. There is no common base class, only a common name."""
    return "Norm" in type(module).__name__ and not list(module.children())


def final_norm(decoder: nn.Module) -> nn.Module | None:
    """Return the norm behind the layers of a decoder, which is its last one; None if it has none."""
    found = [module for module in decoder.children() if is_norm(module)]
    return found[-1] if found else None


@torch.no_grad()
def norm_parts(norm: nn.Module, width: int) -> NormParts:
    """Return what a norm over vectors [width] computes: of both kinds, with weights w and 1 + w, what comes nearest."""
    weight, bias = getattr(norm, "weight", None), getattr(norm, "bias", None)
    eps = next((float(getattr(norm, name)) for name in ("eps", "variance_epsilon") if hasattr(norm, name)), 1e-6)
    like = torch.zeros(()) if weight is None else weight.detach()
    steps = torch.linspace(0, 1, width, dtype=torch.float64)
    probe = torch.stack([1 + 3 * steps, 2 - (9 * steps).sin()]).to(like)  # of different means and spreads
    wanted, x = norm(probe).double(), probe.double()
    normed = {"rms": F.rms_norm(x, (width,), None, eps), "layer": F.layer_norm(x, (width,), None, None, eps)}
    offset = 0.0 if bias is None else bias.detach().double()
    precise = like.to(torch.promote_types(like.dtype, torch.float32))  # 1 + w has more digits than w
    gains = [None] if weight is None else [weight.detach(), 1 + precise]

    def miss(kind: str, gain: Tensor | None) -> float:
        return float((normed[kind] * (1.0 if gain is None else gain.double()) + offset - wanted).abs().mean())

    kinds: tuple[Literal["rms", "layer"], ...] = ("rms", "layer")
    kind, gain = min(product(kinds, gains), key=lambda pair: miss(*pair))
    return NormParts(kind, eps, gain, None if bias is None else bias.detach())


def layer_norms(layer: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Yield the names and tensors of a layer's norms, as `NormParts` has them."""
    for name, module in layer.named_modules():
        weight = getattr(module, "weight", None)
        if is_norm(module) and weight is not None and weight.dim() == 1:
            yield from norm_parts(module, len(weight)).named(name).items()
