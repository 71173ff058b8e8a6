"""Stored weights: float32, or 8-bit integers with scales, tied tensors once; and digests of weights.

`int8` rounds each row to signed integers. `uint8` is for weights that were published as unsigned integers with one
scale and zero point per tensor (Moonshine): the integers are recovered, so that loading gives the published float16
values bit for bit. `uint8` stores every other tensor in float16.
"""

import hashlib
import re
from collections.abc import Mapping, Sequence
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
from speechmtp.models.files import check_file

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
    """Return the float32 tensors of a state that `pack` stored, in memory of their own; integer tensors are unchanged.

    8-bit integers whose scale or zero point is missing or does not fit stay integers, next to what there is of these,
    so that `load_state` names them.
    """
    whole = {name for name in packed if _has_scale(name, packed)}
    scales = {name + end for name in whole for end in (SCALE, ZERO)}
    state = {}
    for name, tensor in packed.items():
        if name in scales:
            continue
        if name in whole and tensor.dtype == torch.uint8:
            tensor = dequantise(tensor, packed[name + SCALE], packed[name + ZERO])
        elif name in whole:
            scale = packed[name + SCALE]
            tensor = tensor.float() * scale.reshape(scale.shape + (1,) * (tensor.dim() - scale.dim()))
        own = tensor is packed[name] and tensor.dtype == torch.float32  # it may be a view of the file
        state[name] = (tensor.clone() if own else tensor.float()) if tensor.is_floating_point() else tensor
    return state


def _has_scale(name: str, packed: Mapping[str, Tensor]) -> bool:
    """Whether a tensor is 8-bit integers with a finite scale, and a zero point if unsigned, of the shapes that `pack`
    stores."""
    tensor, scale, zero = packed[name], packed.get(name + SCALE), packed.get(name + ZERO)
    if scale is None or not scale.is_floating_point() or not is_finite(scale):
        return False
    if tensor.dtype == torch.uint8:
        return zero is not None and zero.dtype == torch.uint8 and zero.shape == scale.shape == ()
    rows = tensor.shape[:1] if tensor.dim() == 4 else tensor.shape[:-1]
    return tensor.dtype == torch.int8 and zero is None and tensor.dim() > 1 and scale.shape == rows


def is_finite(tensor: Tensor) -> bool:
    """Whether a floating-point tensor has neither NaN nor infinity."""
    return bool(tensor.sum().isfinite()) or bool(tensor.isfinite().all())  # a sum is fast, but may overflow


def read_weights(path: Path) -> dict[str, Tensor]:
    """Return the stored tensors of a safetensors file; CheckpointError if it cannot be read."""
    check_file(path)
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        reason = " ".join(str(error).split())
        raise CheckpointError(f"{path}: cannot be read: {reason}; copy it again whole") from error


def load_state(module: nn.Module, state: Mapping[str, Tensor], where: Path, adopt: bool = False) -> None:
    """Load a state, filling in tied names; with `adopt`, parameters take over the memory of its tensors, of which there
    must be no other use. CheckpointError for missing, unexpected or wrongly shaped tensors, for
    integers in place of floats, for values that are not finite, and for tied tensors that differ. Names that the
    module's class says are left from earlier versions are skipped."""
    own = module.state_dict()
    given = {name: state[name] for name in state if name in own or not _is_obsolete(name, module)}
    pointers: dict[int, list[str]] = {}
    for name, tensor in own.items():
        if tensor.numel():
            pointers.setdefault(tensor.data_ptr(), []).append(name)
    torn: list[str] = []
    for names in pointers.values():
        known = [n for n in names if n in given]
        torn += [n for n in known[1:] if not torch.equal(given[n], given[known[0]])]
        if known:
            given = dict.fromkeys(names, given[known[0]]) | given
    both = [n for n in own if n in given]
    kinds = [n for n in both if _kind(own[n]) != _kind(given[n])]
    refuse_misfits(where, {
        "missing": sorted(set(own) - set(given)),
        "unexpected": sorted(set(given) - set(own)),
        "of another shape": [
            f"{n} {list(given[n].shape)}, expected {list(own[n].shape)}" for n in both if own[n].shape != given[n].shape
        ],
        "of another dtype or without their scales": [
            f"{n} {_kind(given[n])}, expected {_kind(own[n])}" for n in kinds
        ],
        "with NaN or infinity": [n for n in both if given[n].is_floating_point() and not is_finite(given[n])],
        "unlike the tensor that they are tied to": torn,
    })  # fmt: skip
    for name, parameter in module.named_parameters() if adopt else ():
        new = given[name]
        if (new.dtype, new.device) == (parameter.dtype, parameter.device) and new.is_contiguous():
            parameter.data = new
    places = {name: tensor.data_ptr() for name, tensor in module.state_dict().items()}
    rest = {name: tensor for name, tensor in given.items() if tensor.data_ptr() != places[name]}
    module.load_state_dict(rest, strict=False)  # all names were compared above


def refuse_misfits(where: Path, misfits: Mapping[str, Sequence[str]]) -> None:
    """Raise CheckpointError if there are tensors that do not fit, by what is wrong with them; each begins with its
    name."""
    named = [f"{len(names)} {what} (first: {names[0]})" for what, names in misfits.items() if names]
    if named:
        raise CheckpointError(
            f"{where}: tensors do not fit the configuration: {', '.join(named)}; copy the folder again whole"
        )


def _kind(tensor: Tensor) -> str:
    return "float" if tensor.is_floating_point() else str(tensor.dtype).removeprefix("torch.")


def _is_obsolete(name: str, module: nn.Module) -> bool:
    """Whether transformers ignores a stored tensor that a model does not have."""
    patterns = {*(getattr(module, "_keys_to_ignore_on_load_unexpected", None) or ()), *_OLD_BUFFERS}
    return any(re.search(pattern, name) for pattern in patterns)


_OLD_BUFFERS = (r"rotary_emb\.inv_freq$", r"(^|\.)position_ids$")  # buffers that are computed now


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
