"""Stored weights: float32, or 8-bit integers with scales, tied tensors once; and digests of weights.

`int8` rounds each row to signed integers. `uint8` is for weights that were published as unsigned integers with one
scale and zero point per tensor (Moonshine): the integers are recovered, so that loading gives the published float16
values bit for bit. `uint8` stores every other tensor in float16.
"""

import hashlib
from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from speechmtp.errors import CheckpointError
from speechmtp.kernels.cpu.int8_linear import quantise
from speechmtp.models.affine import dequantise, recover_affine

SCALE = ".scale"  # suffix of the float32 scales beside 8-bit integers
ZERO = ".zero"  # suffix of the zero point beside unsigned ones
SMALLEST = 1024  # tensors with fewer elements are not quantised

Storage = Literal["int8", "uint8", "float32"]


def pack(state: Mapping[str, Tensor], storage: Storage) -> dict[str, Tensor]:
    """Return the tensors to store; tied ones only once."""
    packed: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, tensor in state.items():
        if tensor.numel() and tensor.data_ptr() in seen:
            continue
        seen.add(tensor.data_ptr())
        packed |= _pack_one(name, tensor.detach().cpu().contiguous(), storage)
    return packed


def _pack_one(name: str, value: Tensor, storage: Storage) -> dict[str, Tensor]:
    if not value.is_floating_point():
        return {name: value}
    matrix = value.dim() > 1 and value.numel() >= SMALLEST
    if storage == "int8" and matrix:
        # A two-dimensional convolution has one scale per output channel.
        integers, scale = quantise(value.flatten(1) if value.dim() == 4 else value)
        return {name: integers.reshape(value.shape), name + SCALE: scale}
    found = recover_affine(value) if storage == "uint8" and matrix else None
    if found is not None:
        return dict(zip((name, name + SCALE, name + ZERO), found, strict=True))
    return {name: value.to(torch.float32 if storage == "float32" else torch.float16)}  # biases, norms, statistics


def unpack(packed: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the float32 tensors of a state that `pack` stored; integer tensors are unchanged."""
    state = {}
    for name, tensor in packed.items():
        if any(name.endswith(end) and name[: -len(end)] + SCALE in packed for end in (SCALE, ZERO)):
            continue
        scale, zero = packed.get(name + SCALE), packed.get(name + ZERO)
        if scale is not None and zero is not None:
            tensor = dequantise(tensor, scale, zero)
        elif scale is not None:
            while scale.dim() < tensor.dim():
                scale = scale.unsqueeze(-1)
            tensor = tensor.float() * scale
        state[name] = tensor.float() if tensor.is_floating_point() else tensor
    return state


def read_weights(path: Path) -> dict[str, Tensor]:
    """Return the stored tensors of a safetensors file; CheckpointError if it cannot be read."""
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path}: cannot be read: {' '.join(str(error).split())}") from error


def load_state(module: nn.Module, state: dict[str, Tensor], where: Path) -> None:
    """Load a state, filling in tied names; CheckpointError for missing, unexpected or wrongly shaped tensors."""
    own = module.state_dict()
    pointers: dict[int, list[str]] = {}
    for name, tensor in own.items():
        pointers.setdefault(tensor.data_ptr(), []).append(name)
    for names in pointers.values():
        known = next((n for n in names if n in state), None)
        if known is not None:
            state = dict.fromkeys(names, state[known]) | state
    missing, extra = sorted(set(own) - set(state)), sorted(set(state) - set(own))
    wrong = [n for n in own if n in state and own[n].shape != state[n].shape]
    if missing or extra or wrong:
        named = [f"{len(k)} {what} (first: {k[0]})" for what, k in
                 (("missing", missing), ("unexpected", extra), ("of another shape", wrong)) if k]  # fmt: skip
        raise CheckpointError(f"{where}: tensors do not fit the configuration: {', '.join(named)}")
    module.load_state_dict(state)


class _NoRandomWeights(TorchFunctionMode):
    """Skips the calls that fill a tensor with random numbers."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = kwargs or {}
        if getattr(func, "__name__", "") in _RANDOM_FILLS:
            return args[0] if args else given["tensor"]
        return func(*args, **given)


# By name: torch.nn.init has functions of these names too, and transformers replaces them by its own.
_RANDOM_FILLS = {"normal_", "uniform_", "trunc_normal_", "kaiming_uniform_"}


def without_random_weights() -> AbstractContextManager[Any]:
    """Return a context in which new modules are not filled with random numbers, since their weights are loaded next.

    Until then their parameters are undefined. torch's global generator does not advance. The context applies to the
    calling thread only.
    """
    return _NoRandomWeights()


def file_digest(path: Path) -> str:
    """Return the SHA-256 of a file's bytes; the empty string if there is no such file."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError:
        return ""


def weights_digest(module: nn.Module, storage: Storage = "float32") -> str:
    """Return the SHA-256 over the float32 weights as they are after a round trip through `storage`."""
    digest = hashlib.sha256()
    for name, tensor in sorted(unpack(pack(module.state_dict(), storage)).items()):
        digest.update(name.encode())
        digest.update(tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()
