"""What `speechmtp kernels` prints: each kernel, what is chosen on this machine, and why."""

import os
from collections.abc import Mapping
from datetime import datetime
from typing import Any

import torch

from speechmtp.kernels.cpu import library
from speechmtp.kernels.cpu.build import machine
from speechmtp.kernels.cpu.int8_linear import ENGINES, has_int8
from speechmtp.kernels.cpu.packed_linear import SETTING as LINEAR
from speechmtp.kernels.cpu.packed_linear import has_packed

Line = tuple[str, str, str]  # the kernel, what is chosen, and why


def describe_kernels() -> list[Line]:
    """Choices of this process for every model. The native library is looked for, and may be compiled.

    ConfigError for an unknown value of `SPEECHMTP_KERNELS`.
    """
    setting = library.kernels_setting()
    lines = [("processor", torch.backends.cpu.get_cpu_capability(), f"{machine()}; the capability that PyTorch uses"),
             ("setting", setting, f"{library.SETTING}: one of {', '.join(library.SETTINGS)}")]  # fmt: skip
    if setting == "ref":
        lines.append(("native library", "not used", "the setting says so"))
    else:
        lines += _native_lines(library.find_native())
    return [*lines, _linear_line(), _draft_line()]


def _native_lines(native: library.Native) -> list[Line]:
    if native.library is None:
        return [("native library", "none", native.reason)]
    if native.origin == "prebuilt":
        how = f"in the package, compiled by {native.compiler}: {native.path}"
    elif native.path is not None:
        when = datetime.fromtimestamp(native.path.stat().st_mtime)
        how = f"compiled here {when:%Y-%m-%d %H:%M} by {native.compiler}: {native.path}"
    else:
        how = f"compiled for this process alone by {native.compiler}"
    lines = [("native library", native.variant, how)]
    return lines + ([("native library", "note", native.note)] if native.note else [])


def _linear_line() -> Line:
    setting = os.environ.get(LINEAR) or "measured"
    if setting == "plain" or not has_packed():
        return "linear layers", "plain", f"{LINEAR}=plain" if has_packed() else "this PyTorch has no packed weights"
    why = "weights as they are or packed for oneDNN, whichever is faster at the first calls"
    return "linear layers", setting, f"{LINEAR}=packed" if setting == "packed" else why


def _draft_line() -> Line:
    if not has_int8():
        return "8-bit drafts", "none", "this PyTorch has no 8-bit linear layers; heads draft in float32"
    engines = [name for name in ENGINES if name in torch.backends.quantized.supported_engines]
    return "8-bit drafts", torch.backends.quantized.engine, f"PyTorch's kernels, of {', '.join(engines)}"


def describe_parts(parts: Mapping[str, Any]) -> list[Line]:
    """Which parts of a loaded model run natively, by their attributes `native` and `native_problem`; a part without
    them never does. `parts` are given by name."""
    lines = []
    for name, part in parts.items():
        native = getattr(part, "native", None) is not None
        problem = getattr(part, "native_problem", "there are no native kernels for it")
        lines.append((name, "native" if native else "PyTorch", "calls of the library" if native else problem))
    return lines
