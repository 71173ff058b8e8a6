"""The native library of CPU kernels: found or built at the first use, checked, and loaded once in a process.

`SPEECHMTP_KERNELS` says whether it is used: `auto` (default) where it can be, else PyTorch's operations with one line
of explanation; `ref` never; `cpu` or an error."""

import ctypes
import os
import subprocess
import sys
import tempfile
import time
import warnings
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Lock

from speechmtp.errors import ConfigError, KernelWarning
from speechmtp.kernels.cpu import build
from speechmtp.kernels.cpu.build import BuildError
from speechmtp.kernels.cpu.cache import SETTING as CACHE
from speechmtp.kernels.cpu.cache import open_cache, trust_problem
from speechmtp.kernels.cpu.processor import best_variant

SETTING, SETTINGS = "SPEECHMTP_KERNELS", ("auto", "ref", "cpu")
ABI = 1  # what `speechmtp_cpu_abi` of the sources returns: both change together with the interface
PREBUILT = Path(__file__).with_name("prebuilt")
TRIAL = "import ctypes, sys; l = ctypes.CDLL(sys.argv[1]); sys.exit(l.speechmtp_cpu_abi() != int(sys.argv[2]) or " \
    "l.speechmtp_cpu_selftest())"  # fmt: skip


@dataclass(frozen=True)
class Native:
    """What became of the native library: it, or `reason`, why there is none. `note` is what the user should know
    although it was loaded; `origin` is where it comes from, and `compiler` who compiled it."""

    library: ctypes.CDLL | None = None
    reason: str = ""
    note: str = ""
    variant: str = ""
    origin: str = ""
    path: Path | None = None
    compiler: str = ""


_lock = Lock()
_found: Native | None = None
_said = False


def kernels_setting() -> str:
    """The value of `SPEECHMTP_KERNELS`; ConfigError for an unknown one."""
    setting = os.environ.get(SETTING) or "auto"
    if setting not in SETTINGS:
        raise ConfigError(f"{SETTING}={setting!r}: expected one of {', '.join(SETTINGS)}; correct or unset it")
    return setting


def native_library() -> ctypes.CDLL | None:
    """The native library, or None where PyTorch's operations are to be used. The first call of a process looks for it
    and may compile it for some seconds; if it cannot be had, one KernelWarning says why. ConfigError if
    `SPEECHMTP_KERNELS=cpu` asks for a library that cannot be had, or has an unknown value."""
    global _said
    setting = kernels_setting()
    if setting == "ref":
        return None
    native = find_native()
    if native.library is None and setting == "cpu":
        raise ConfigError(f"{SETTING}=cpu: {native.reason}")
    with _lock:
        first, _said = not _said, True
    if first and native.library is None:
        warnings.warn(KernelWarning(f"no native kernels: {native.reason}. Decoding runs on PyTorch: the same text, "
                                    f"slower ({SETTING}=ref hides this line)"), stacklevel=2)  # fmt: skip
    elif first and native.note:
        warnings.warn(KernelWarning(f"native kernels: {native.note}"), stacklevel=2)
    return native.library


def native_reason() -> str:
    """Why `native_library` gives none; empty if it gives one."""
    return f"{SETTING}=ref" if kernels_setting() == "ref" else find_native().reason


def find_native() -> Native:
    """Look for the library at the first call, whatever `SPEECHMTP_KERNELS` says, and return what was found then."""
    global _found
    with _lock:
        if _found is None:
            try:
                _found = _find()
            except (BuildError, OSError) as error:
                _found = Native(reason=str(error))
        return _found


def _find() -> Native:
    variant, reason = best_variant()
    if not variant:
        return Native(reason=reason)
    stem = build.stem(variant)
    damaged: list[str] = []
    if native := _load_any(sorted(PREBUILT.glob(f"{stem}-*{build.SUFFIX}")), variant, "prebuilt", damaged):
        return native
    try:
        compiler, missing = build.find_compiler(), ""
    except BuildError as error:
        compiler, missing = None, str(error)
    folder, problem = open_cache()
    if folder is not None:
        # Without a compiler the library of any will do.
        key = compiler.key if compiler else "*"
        if native := _load_any(sorted(folder.glob(f"{stem}-{key}.*{build.SUFFIX}")), variant, "cache", damaged):
            return native
    if compiler is None:
        return Native(reason="; ".join([*damaged, missing]), variant=variant)
    return _build(variant, compiler, folder, problem, damaged)


def _load_any(paths: list[Path], variant: str, origin: str, damaged: list[str]) -> Native | None:
    """The first of some libraries that is whole and works. What is wrong with others is added to `damaged`, and they
    are removed from the cache."""
    for path in paths:
        try:
            problem = trust_problem(path) if origin == "cache" else ""
            if not problem and not build.is_whole(path):
                problem = f"{path} was damaged"
            if not problem:
                return _loaded(path, variant, origin, "; ".join(damaged))
        except (OSError, BuildError) as error:
            problem = f"{path} does not load ({error})"
        damaged.append(problem)
        if origin == "cache":
            with suppress(OSError):
                path.unlink()
    return None


def _loaded(path: Path, variant: str, origin: str, note: str) -> Native:
    library = load(path)
    return Native(library, "", note, variant, origin, path, str(library.speechmtp_cpu_compiler().decode()))


def _build(variant: str, compiler: build.Compiler, folder: Path | None, problem: str, damaged: list[str]) -> Native:
    """Compile the library into the cache, or where this cannot be for this process alone. BuildError if it cannot be
    compiled, or does not work."""
    began = time.monotonic()
    if folder is not None:
        try:
            path = build.compile_library(variant, compiler, folder, _try)
        except OSError as error:
            problem = f"the cache {folder} cannot be written ({error.strerror or error})"
        else:
            return _loaded(path, variant, "cache", f"{'; '.join(damaged)}; it was compiled again" if damaged else "")
    try:
        with tempfile.TemporaryDirectory(prefix="speechmtp-", ignore_cleanup_errors=True) as scratch:
            native = _loaded(build.compile_library(variant, compiler, Path(scratch), _try), variant, "process", "")
    except OSError as error:
        raise BuildError(f"{problem}, nor can a temporary folder be ({error.strerror or error})") from error
    seconds = time.monotonic() - began
    note = f"{problem}: compiled in {seconds:.1f} s for this process alone; name another folder in {CACHE}"
    return replace(native, note=note, path=None)


def _try(path: Path) -> None:
    """Load a library that has just been compiled in a process of its own, which it may end. BuildError if it fails."""
    if not sys.executable or getattr(sys, "frozen", False):
        return
    command = [sys.executable, "-I", "-S", "-c", TRIAL, str(path), str(ABI)]
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", timeout=build.ASKING
        )
        said = [f"exit code {done.returncode}", *done.stderr.splitlines()][-1] if done.returncode else ""
    except (OSError, subprocess.SubprocessError) as error:
        said = str(error)
    if said:
        raise BuildError(f"what the C compiler made does not work ({said[:200]}); mend it, or name another in CC")


def load(path: Path) -> ctypes.CDLL:
    """Load a library and check that it is one of this package's that works. OSError or BuildError if it is not."""
    library = ctypes.CDLL(str(path))
    try:
        if (found := library.speechmtp_cpu_abi()) != ABI:
            raise BuildError(f"its interface is {found}, expected {ABI}")
        library.speechmtp_cpu_compiler.restype = ctypes.c_char_p
    except AttributeError as error:
        raise BuildError(f"it is no library of speechmtp ({error})") from error
    if failed := library.speechmtp_cpu_selftest():
        raise BuildError(f"its self-test {failed} fails")
    return library
