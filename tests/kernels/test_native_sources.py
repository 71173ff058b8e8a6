"""The C sources compile without a warning, for every processor, and the library of this machine works."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from speechmtp.kernels.cpu import build, cache, processor
from speechmtp.kernels.cpu.build import MACHINES, VARIANTS, machine
from speechmtp.kernels.cpu.library import find_native
from speechmtp.kernels.cpu.processor import best_variant
from tests.kernels.native_stubs import needs_compiler

HERE = MACHINES.get(machine(), ())
ALL = "fpu avx2 fma f16c avx512f avx512bw avx512vl avx512dq"


@needs_compiler
@pytest.mark.parametrize("variant", HERE)
def test_sources_compile_without_warnings(variant: str) -> None:
    files = [str(path) for path in sorted(build.CSRC.glob("*.c"))]
    flags = (*build.FLAGS, *VARIANTS[variant], "-Wall", "-Wextra", "-fsyntax-only")
    command = [*build.find_compiler().command, *flags, *files]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@needs_compiler
@pytest.mark.skipif(not best_variant()[0], reason="no native kernels for this processor")
def test_the_library_of_this_machine_loads() -> None:
    assert find_native().reason == "" and find_native().variant == best_variant()[0]


@pytest.mark.parametrize(
    ("kind", "capability", "flags", "expected"),
    [
        ("x86_64", "AVX512", ALL, "avx512"),
        ("amd64", "AVX512", None, "avx512"),
        ("x86_64", "AVX512", ALL.replace(" avx512bw", ""), "avx2"),
        ("x86_64", "AVX2", ALL, "avx2"),
        ("x86_64", "AVX2", "fpu avx2 fma", ""),
        ("x86_64", "DEFAULT", ALL, ""),
        ("aarch64", "DEFAULT", None, "neon"),
        ("arm64", "SVE256", None, "neon"),
        ("riscv64", "DEFAULT", None, ""),
        ("x86_64-32", "AVX2", ALL, ""),
    ],
)
def test_the_variant_is_what_the_processor_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, capability: str, flags: str | None, expected: str
) -> None:
    monkeypatch.setattr(processor, "machine", lambda: kind)
    monkeypatch.setattr(processor.torch.backends.cpu, "get_cpu_capability", lambda: capability)
    if flags is not None:
        (tmp_path / "cpuinfo").write_text(f"processor\t: 0\nflags\t\t: {flags}\n\nprocessor\t: 1\nflags\t\t: fpu\n")
    variant, reason = best_variant(tmp_path / "cpuinfo")
    assert variant == expected and bool(reason) != bool(variant)
    assert kind not in ("riscv64", "x86_64-32") or reason == f"there are no native kernels for {kind} processors"


def test_nothing_is_loaded_with_the_package_and_pytorchs_limit_is_kept() -> None:
    code = (
        "import speechmtp.api\n"
        "from speechmtp.kernels.cpu import library, processor\n"
        "print(library._found, *processor.best_variant(), sep='|')\n"
    )
    environment = os.environ | {"ATEN_CPU_CAPABILITY": "default"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    found, variant, reason = done.stdout.strip().split("|")
    assert found == "None"
    if "avx2" in HERE:
        assert not variant and "no AVX2 with FMA and F16C, or may not use it" in reason


def test_the_cache_lies_where_the_system_has_caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    monkeypatch.setenv("SPEECHMTP_CACHE", str(tmp_path / "own"))
    assert cache.cache_folder() == tmp_path / "own" / "kernels"
    monkeypatch.delenv("SPEECHMTP_CACHE")
    for system, named, expected in (
        ("linux", "", ".cache"), ("linux", "relative", ".cache"), ("linux", str(tmp_path / "x"), "x"),
        ("darwin", "", "Library/Caches"), ("win32", "", "AppData/Local"),
    ):  # fmt: skip
        monkeypatch.setattr(cache.sys, "platform", system)
        monkeypatch.setenv("XDG_CACHE_HOME", named)
        monkeypatch.delenv("LOCALAPPDATA", raising=False)
        assert cache.cache_folder() == tmp_path / expected / "speechmtp" / "kernels"
