"""Which variant of the native library this machine's processor can run."""

from pathlib import Path

import torch

from speechmtp.kernels.cpu.build import MACHINES, machine

# What a variant's code is compiled with, by the names of /proc/cpuinfo.
NEEDS = {
    "avx512": {"avx2", "fma", "f16c", "avx512f", "avx512bw", "avx512vl", "avx512dq"},
    "avx2": {"avx2", "fma", "f16c"},
}
CAPABILITIES = {"AVX512": ("avx512", "avx2"), "AVX2": ("avx2",)}  # what PyTorch says, and the variants it allows


def best_variant(cpuinfo: Path = Path("/proc/cpuinfo")) -> tuple[str, str]:
    """The best variant that the processor can run, and why there is none; one of the two is empty. What PyTorch uses
    is the upper limit, so `ATEN_CPU_CAPABILITY` holds for both."""
    known = MACHINES.get(machine(), ())
    if not known:
        return "", f"there are no native kernels for {machine()} processors"
    if known == ("neon",):
        return "neon", ""
    capability = torch.backends.cpu.get_cpu_capability()
    flags = _flags(cpuinfo)
    for variant in CAPABILITIES.get(capability, ()):
        if not flags or NEEDS[variant] <= flags:
            return variant, ""
    return "", f"the processor has no AVX2 with FMA and F16C, or may not use it (PyTorch's capability: {capability})"


def _flags(cpuinfo: Path) -> set[str]:
    """Instruction sets of the first processor; empty where the system does not list them."""
    try:
        lines = cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return set()
    found = (line.partition(":")[2] for line in lines if line.startswith("flags"))
    return set(next(found, "").split())
