"""Compiles the C kernels of `csrc/` into one shared library for each kind of processor.

It imports the standard library alone: a wheel is built with it (setup.py) where nothing else is installed."""

import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

CSRC = Path(__file__).with_name("csrc")
SUFFIX = ".dll" if sys.platform == "win32" else ".so"
COMPILERS = ("cc", "gcc", "clang")  # in this order, where CC names none
# Arithmetic is what is written (no -ffast-math, no fused operations but those named), and a library runs on
# every processor of its kind (no -march=native), so that a cache can be shared.
ELF = () if sys.platform in ("win32", "darwin") else ("-fno-semantic-interposition",)
FLAGS = ("-O3", "-std=gnu11", "-fPIC", "-fno-math-errno", "-ffp-contract=off", *ELF)
AVX2 = ("-mavx2", "-mfma", "-mf16c")
VARIANTS = {
    "avx512": (*AVX2, "-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512dq"),
    "avx2": AVX2,
    "neon": (),
}
# Variants by machine, the best first.
MACHINES = {"x86_64": ("avx512", "avx2"), "amd64": ("avx512", "avx2"), "aarch64": ("neon",), "arm64": ("neon",)}
TIMEOUT = 120.0  # seconds for a compilation, which takes a few
ASKING = 20.0  # seconds for a compiler to give its version


class BuildError(Exception):
    """A library that could not be built or used; the message is one clause that names the mend."""


@dataclass(frozen=True)
class Compiler:
    """A C compiler: how it is called, and the first line of its `--version`."""

    command: tuple[str, ...]
    version: str

    @cached_property
    def key(self) -> str:
        """Eight digits that another compiler or version has others of."""
        return _digest("\0".join((*self.command, self.version)).encode())[:8]


def machine() -> str:
    """This machine's kind in lower case, such as `x86_64`; a process of 32 bits has `-32` behind it."""
    return platform.machine().lower() + ("" if sys.maxsize > 2**32 else "-32")


def find_compiler() -> Compiler:
    """The compiler that the environment variable CC names, else the first of `COMPILERS` that answers. BuildError if
    there is none."""
    named = os.environ.get("CC", "").strip()
    if named:
        try:
            words = shlex.split(named)
        except ValueError as error:
            raise BuildError(f"CC={named!r} cannot be read ({error}); correct or unset it") from error
        if not words or shutil.which(words[0]) is None:
            raise BuildError(f"CC={named!r} is not there; install it, correct or unset CC")
        return _ask([str(shutil.which(words[0])), *words[1:]])
    problem = "no C compiler found; install gcc, or name one in CC"
    for path in filter(None, map(shutil.which, COMPILERS)):
        try:
            return _ask([path])
        except BuildError as error:
            problem = str(error)
    raise BuildError(problem)


def _ask(command: list[str]) -> Compiler:
    done = _run([*command, "--version"], ASKING)
    lines = done.stdout.strip().splitlines()
    if done.returncode or not lines:
        raise BuildError(f"the C compiler {command[0]} does not give its version; install gcc, or name one in CC")
    return Compiler(tuple(command), lines[0])


def stem(variant: str) -> str:
    """How names of a variant's libraries begin: variant, system, machine, and digits of sources and flags."""
    files = sorted(path for path in CSRC.iterdir() if path.suffix in (".c", ".h"))
    parts = [" ".join((*FLAGS, *VARIANTS[variant])).encode()]
    for path in files:
        parts += [path.name.encode(), path.read_bytes()]
    digits = _digest(b"".join(len(part).to_bytes(8, "little") + part for part in parts))[:16]
    return f"{variant}-{sys.platform}-{machine()}-{digits}"


def compile_library(
    variant: str, compiler: Compiler, folder: Path, trial: Callable[[Path], None] | None = None
) -> Path:
    """Compile a variant into a folder. The file appears at once and whole, so that two processes may do it together:
    its name is `stem`, the compiler's digits, and the first 32 digits of its own SHA-256. `trial` is called with it
    before that, and may raise. BuildError if the compiler fails; OSError if the folder cannot be written.
    """
    with tempfile.TemporaryDirectory(prefix=".build-", dir=folder, ignore_cleanup_errors=True) as scratch:
        made = Path(scratch) / f"library{SUFFIX}"
        files = {path: Path(scratch) / f"{path.stem}.o" for path in sorted(CSRC.glob("*.c"))}
        flags = [*FLAGS, *VARIANTS[variant]]
        with ThreadPoolExecutor(min(len(files), os.cpu_count() or 1)) as pool:
            list(pool.map(lambda path: _make(compiler, files[path], *flags, "-c", str(path)), files))
        _make(compiler, made, *flags, "-shared", *map(str, files.values()), "-lm")
        made.chmod(0o644)
        if trial is not None:
            trial(made)
        place = folder / f"{stem(variant)}-{compiler.key}.{_digest(made.read_bytes())[:32]}{SUFFIX}"
        os.replace(made, place)
    return place


def _make(compiler: Compiler, out: Path, *arguments: str) -> None:
    """Let a compiler make a file. BuildError, with the first error it prints, if it does not."""
    done = _run([*compiler.command, "-o", str(out), *arguments], TIMEOUT)
    if done.returncode or not out.is_file():
        said = [line for line in done.stderr.splitlines() if "error" in line.lower()] or done.stderr.splitlines()
        said = said or [f"exit code {done.returncode}"]
        problem = f"the C compiler {compiler.command[0]} failed ({said[0].strip()[:200]})"
        raise BuildError(f"{problem}; mend it, or name another in CC")


def is_whole(path: Path) -> bool:
    """Whether a library holds what it was built with, by the digits in its name."""
    return path.name.split(".")[-2] == _digest(path.read_bytes())[:32]


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _run(command: list[str], seconds: float) -> "subprocess.CompletedProcess[str]":
    """Run a compiler, with its messages in English. BuildError if it cannot be started or takes too long."""
    called = f"the C compiler {command[0]}"
    try:
        return subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=seconds,
            env=os.environ | {"LC_ALL": "C"},
        )
    except subprocess.TimeoutExpired as error:
        raise BuildError(f"{called} took more than {seconds:.0f} s; mend it, or name another in CC") from error
    except OSError as error:
        raise BuildError(f"{called} does not run ({error.strerror or error}); name another in CC") from error
