"""Linear layers on a CPU with 8-bit weights and inputs, for drafting only: small batches are bound by reading the
weights, which are a quarter of the size."""

import warnings
from typing import Any

import torch
from torch import Tensor, nn

ENGINES = ("x86", "fbgemm", "onednn", "qnnpack")  # PyTorch's quantised kernels; a build has some of them


def has_int8() -> bool:
    """Whether this PyTorch has 8-bit kernels: this depends on the build, and later releases plan to drop them."""
    known = hasattr(torch, "_make_per_channel_quantized_tensor") and hasattr(torch.ops.quantized, "linear_dynamic")
    return known and bool(set(ENGINES) & set(torch.backends.quantized.supported_engines))


def quantise(tensor: Tensor) -> tuple[Tensor, Tensor]:
    """Return int8 integers [..., N] and float32 scales [...], one per row of the last axis: value = integer * scale."""
    flat = tensor.float()
    scale = flat.abs().amax(-1, keepdim=True).clamp_min(1e-12) / 127
    integers = (flat / scale).round()
    # Weights from `unpack` get exactly their old scale, which the division may miss by the last bit.
    for to in (0.0, torch.inf):
        near = scale.nextafter(scale.new_tensor(to))
        scale = torch.where((integers * near == flat).all(-1, keepdim=True), near, scale)
    return integers.to(torch.int8), scale.squeeze(-1)


class Int8Linear(nn.Module):
    """x W^T + b with 8-bit integers and one scale per row of W [out, in], float32 in and out.

    Scales are those of the storage `int8`, so that weights stored this way are not rounded again. Inputs are rounded to
    7 bits by the range of each call.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None = None) -> None:
        super().__init__()
        integers, scale = quantise(weight.detach())
        self._packed = _packed(integers, scale.double(), None if bias is None else bias.detach().float())

    @property
    def weight(self) -> Tensor:
        """The weights [out, in] that the layer multiplies with, made at each call."""
        weight, _ = torch.ops.quantized.linear_unpack(self._packed)
        return weight.int_repr() * weight.q_per_channel_scales().float()[:, None]

    @property
    def bias(self) -> Tensor | None:
        """The bias [out], if there is one."""
        bias: Tensor | None = torch.ops.quantized.linear_unpack(self._packed)[1]
        return bias

    def forward(self, x: Tensor) -> Tensor:
        """Map x [..., in] to [..., out]."""
        out: Tensor = torch.ops.quantized.linear_dynamic(x, self._packed, reduce_range=True)
        return out

    def __getstate__(self) -> dict[str, Any]:
        """Return the state with plain tensors instead of the packed weights."""
        weight, bias = torch.ops.quantized.linear_unpack(self._packed)
        return self.__dict__ | {"_packed": (weight.int_repr(), weight.q_per_channel_scales(), bias)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._packed = _packed(*state["_packed"])


def _packed(integers: Tensor, scale: Tensor, bias: Tensor | None) -> Any:
    """Pack int8 weights [out, in] with one scale per row into the kernels' layout."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the deprecation that `has_int8` allows for
        zero = torch.zeros(len(scale), dtype=torch.long)
        per_row = torch._make_per_channel_quantized_tensor(integers, scale, zero, 0)
    return torch.ops.quantized.linear_prepack(per_row, bias)


def in_int8(module: nn.Module) -> None:
    """Replace every `nn.Linear` inside a module by an `Int8Linear`; the module can then neither be trained nor
    stored."""
    for name, child in module.named_children():
        if isinstance(child, nn.Linear):
            setattr(module, name, Int8Linear(child.weight, child.bias))
        else:
            in_int8(child)
