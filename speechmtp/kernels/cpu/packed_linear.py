"""Linear layers on a CPU in float32 with weights packed for oneDNN. A decoding step multiplies few rows (1 to 32). This
takes two to four times as long with PyTorch's plain layout on some processors, where one row also takes another routine
than eight rows.

PyTorch's own module, `torch.utils.mkldnn.MkldnnLinear`, converts inputs and outputs at every call (half as fast here)
and hides its weights, which embeddings share."""

from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

MAX_BYTES = 2 << 30  # of weights per model: they are kept in both layouts


@cache
def has_packed() -> bool:
    """Whether this PyTorch has oneDNN's linear layer with packed weights, which its compiled models use. Tried once on
    a small layer, since it depends on build and processor."""
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
    """A linear layer that shares the parameters of another. With gradients, other dtypes or devices it is a plain
    `nn.Linear`. Weights are packed at the first call, and again after a change (changes through `.data` go unseen)."""

    def __init__(self, like: nn.Linear) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features = like.in_features, like.out_features
        self.weight, self.bias = like.weight, like.bias
        self.training = like.training
        self._packed: Tensor | None = None
        self._known: Any = None  # address and version of the weights when they were packed

    def forward(self, input: Tensor) -> Tensor:
        """Map `input` [..., in] to [..., out]."""
        weight = self.weight
        plain = input.dtype != torch.float32 or weight.dtype != torch.float32 or not input.is_cpu
        if plain or torch.is_grad_enabled() or weight.is_inference():  # inference tensors have no version counter
            return super().forward(input)
        version = (weight.data_ptr(), weight._version)
        if version != self._known:
            self._packed, self._known = torch.ops.mkldnn._reorder_linear_weight(weight.detach(), None), version
        out: Tensor = torch.ops.mkldnn._linear_pointwise(input, self._packed, self.bias, "none", [], "")
        return out

    def __getstate__(self) -> dict[str, Any]:
        """Return the state without the packed weights, which cannot be copied or stored."""
        return self.__dict__ | {"_packed": None, "_known": None}


def pack(model: nn.Module) -> None:
    """Replace every `nn.Linear` of a float32 model on a CPU by a `PackedLinear`, if this PyTorch supports it and the
    weights take at most `MAX_BYTES`."""
    size = sum(p.numel() * p.element_size() for p in model.parameters())
    if has_packed() and size <= MAX_BYTES:
        _pack(model)


def _pack(module: nn.Module) -> None:
    for name, child in module.named_children():
        if type(child) is nn.Linear:
            setattr(module, name, PackedLinear(child))
        else:
            _pack(child)
