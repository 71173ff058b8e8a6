"""Linear maps on a CPU in float32 with weights laid out for oneDNN. The maps of a decoding step are narrow (1 to 32
rows), where PyTorch's plain layout costs twice to four times as much on some processors, and multiplying one row is
another routine than multiplying eight.

PyTorch's own module for it, `torch.utils.mkldnn.MkldnnLinear`, converts inputs and outputs at every call (half as fast
here) and hides its weights, which embeddings share."""

from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

MAX_BYTES = 2 << 30  # of weights a model: they are kept in both layouts


@cache
def has_packed() -> bool:
    """Whether this PyTorch has oneDNN's maps of packed weights, which it uses itself in compiled models: tried once,
    since what a build has and what the processor can is found out only so."""
    if not torch.backends.mkldnn.is_available():
        return False
    try:
        with torch.inference_mode(False), torch.no_grad():
            plain, x = nn.Linear(8, 16, device="meta").to_empty(device="cpu"), torch.linspace(-1, 1, 24).view(3, 8)
            plain.weight.copy_(torch.linspace(-1, 1, 128).view(16, 8))
            plain.bias.zero_()
            return torch.allclose(PackedLinear(plain)(x), plain(x), atol=1e-5)
    except (AttributeError, RuntimeError):
        return False


class PackedLinear(nn.Linear):
    """The linear map with the same parameters as another; in training, in other types and on other devices it is
    that map. Weights are packed at the first call, and again where they were changed (but not through `.data`)."""

    def __init__(self, like: nn.Linear) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features = like.in_features, like.out_features
        self.weight, self.bias = like.weight, like.bias
        self.training = like.training
        self._packed: Tensor | None = None
        self._known: Any = None  # where and in which version the packed weights were

    def forward(self, input: Tensor) -> Tensor:
        """[..., out] of [..., in]."""
        weight = self.weight
        plain = input.dtype != torch.float32 or weight.dtype != torch.float32 or not input.is_cpu
        if plain or torch.is_grad_enabled() or weight.is_inference():  # the last have no version to know changes by
            return super().forward(input)
        version = (weight.data_ptr(), weight._version)
        if version != self._known:
            self._packed, self._known = torch.ops.mkldnn._reorder_linear_weight(weight.detach(), None), version
        out: Tensor = torch.ops.mkldnn._linear_pointwise(input, self._packed, self.bias, "none", [], "")
        return out

    def __getstate__(self) -> dict[str, Any]:
        """Without the packed weights, which cannot be copied or stored."""
        return self.__dict__ | {"_packed": None, "_known": None}


def pack(model: nn.Module) -> None:
    """Put a `PackedLinear` in the place of every linear map of a model on a CPU in float32, if this PyTorch has them
    and its weights are at most `MAX_BYTES`."""
    size = sum(p.numel() * p.element_size() for p in model.parameters())
    if has_packed() and size <= MAX_BYTES:
        _pack(model)


def _pack(module: nn.Module) -> None:
    for name, child in module.named_children():
        if type(child) is nn.Linear:
            setattr(module, name, PackedLinear(child))
        else:
            _pack(child)
