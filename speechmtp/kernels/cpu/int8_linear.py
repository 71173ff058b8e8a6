"""Linear layers on a CPU with 8-bit weights and inputs, for drafting only: small batches are bound by reading the
weights, which are a quarter of the size."""

import warnings
from typing import Any

import torch
from torch import Tensor, nn

ENGINES = ("x86", "fbgemm", "onednn", "qnnpack")  # PyTorch's quantised kernels; a build has some of them


_BLOCK = 256  # rows that are rounded at a time


def has_int8() -> bool:
    """Whether this PyTorch has 8-bit kernels: this depends on the build, and later releases plan to drop them."""
    known = hasattr(torch, "_make_per_channel_quantized_tensor") and hasattr(torch.ops.quantized, "linear_dynamic")
    return known and bool(set(ENGINES) & set(torch.backends.quantized.supported_engines))


def quantise(tensor: Tensor) -> tuple[Tensor, Tensor]:
    """Return int8 integers [..., N] and float32 scales [...], one per row of the last axis: value = integer * scale."""
    if tensor.dim() == 2 and len(tensor) > _BLOCK:  # in blocks that stay in the processor's cache
        blocks = [quantise(block) for block in tensor.split(_BLOCK)]
        return torch.cat([integers for integers, _ in blocks]), torch.cat([scale for _, scale in blocks])
    flat = tensor.float()
    scale = flat.abs().amax(-1, keepdim=True).clamp_min(1e-12) / 127
    integers = (flat / scale).round()
    # Weights from `unpack` get exactly their old scale, which the division may miss by the last bit.
    for to in (0.0, torch.inf) if not torch.equal(integers * scale, flat) else ():
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
        # Integers, scales and bias, until the first call packs them: heads that draft natively are never called.
        self._plain: Any = integers, scale, None if bias is None else bias.detach().float()
        self._packed: Any = None

    def parts(self) -> tuple[Tensor, Tensor, Tensor | None]:
        """Return the integers [out, in], the scales [out] in float32 and the bias [out], if there is one."""
        plain = self._plain
        if plain is None:
            weight, bias = torch.ops.quantized.linear_unpack(self._packed)
            plain = weight.int_repr(), weight.q_per_channel_scales().float(), bias
        found: tuple[Tensor, Tensor, Tensor | None] = plain
        return found

    @property
    def weight(self) -> Tensor:
        """The weights [out, in] that the layer multiplies with, made at each call."""
        integers, scale, _ = self.parts()
        return integers * scale[:, None]

    @property
    def bias(self) -> Tensor | None:
        """The bias [out], if there is one."""
        return self.parts()[2]

    def forward(self, x: Tensor) -> Tensor:
        """Map x [..., in] to [..., out]."""
        packed = self._packed
        if packed is None:
            packed = self._packed = _packed(*self.parts())
            self._plain = None  # other threads may pack it too, from what they have
        out: Tensor = torch.ops.quantized.linear_dynamic(x, packed, reduce_range=True)
        return out

    def __getstate__(self) -> dict[str, Any]:
        """Return the state with plain tensors instead of the packed weights."""
        return self.__dict__ | {"_packed": None, "_plain": self.parts()}


def _packed(integers: Tensor, scale: Tensor, bias: Tensor | None) -> Any:
    """Pack int8 weights [out, in] with one scale per row into the kernels' layout."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the deprecation that `has_int8` allows for
        zero = torch.zeros(len(scale), dtype=torch.long)
        per_row = torch._make_per_channel_quantized_tensor(integers, scale.double(), zero, 0)
    return torch.ops.quantized.linear_prepack(per_row, bias)


def in_int8(module: nn.Module) -> None:
    """Replace every `nn.Linear` inside a module by an `Int8Linear`; the module can then neither be trained nor
    stored."""
    for name, child in module.named_children():
        if isinstance(child, nn.Linear):
            setattr(module, name, Int8Linear(child.weight, child.bias))
        else:
            in_int8(child)
