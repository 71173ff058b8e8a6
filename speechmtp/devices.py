"""Devices and number types: those that are known by name, and those that this machine can compute with."""

import torch

from speechmtp.errors import ConfigError
from speechmtp.kernels.cpu.int8_linear import has_int8

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16, "float64": torch.float64}


def int8_problem(device: str | torch.device, dtype: str | torch.dtype) -> str:
    """Why heads cannot draft in 8 bits on a device and in a dtype; empty if they can."""
    if not has_int8():
        return "a PyTorch without 8-bit kernels"
    return (
        ""
        if torch.device(device).type == "cpu" and dtype_name(dtype) == "float32"
        else f"{device} and {dtype_name(dtype)}"
    )


def device_problem(name: str) -> str:
    """Why this machine cannot compute on a device, in one line; empty if it can."""
    try:
        torch.zeros(1, device=name).item()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        return str(error).splitlines()[0]
    return ""


def parse_dtype(dtype: str | torch.dtype) -> torch.dtype:
    """The torch dtype of a name; ConfigError for one that models do not compute in."""
    name = dtype_name(dtype)
    if name not in DTYPES:
        raise ConfigError(f"dtype={name!r}: expected one of {', '.join(DTYPES)}")
    return DTYPES[name]


def dtype_name(dtype: str | torch.dtype) -> str:
    """The name of a dtype, such as `float32`."""
    return str(dtype).removeprefix("torch.")


def find_device(device: str | torch.device) -> str:
    """The name of a device; `auto` becomes `cuda` if CUDA works, else `cpu`. ConfigError for a device that this machine
    does not have."""
    name = str(device)
    if name == "auto":
        return "cuda" if has_cuda() else "cpu"
    if problem := device_problem(name):
        raise ConfigError(f"device={name!r}: not available here ({problem})")
    return name


def has_cuda() -> bool:
    """Whether CUDA works here."""
    return not device_problem("cuda")
