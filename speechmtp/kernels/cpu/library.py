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
from dataclasses import dataclass
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
# A new library is first tried in a process of its own, which it may end.
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
            _found = _find()
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
    try:
        return _build(variant, compiler, folder, problem, damaged)
    except BuildError as error:
        return Native(reason=str(error), variant=variant)


def _load_any(paths: list[Path], variant: str, origin: str, damaged: list[str]) -> Native | None:
    """The first of some libraries that is whole and works; what is wrong with others is added to `damaged`."""
    for path in paths:
        try:
            problem = (origin == "cache" and trust_problem(path)) or ("" if build.is_whole(path) else "is damaged")
            if not problem:
                library = load(path)
                return Native(library, "", _again(damaged), variant, origin, path, _compiler_of(library))
        except (OSError, BuildError) as error:
            problem = f"does not load ({error})"
        damaged.append(f"{path} {problem}")
    return None


def _again(damaged: list[str]) -> str:
    return "; ".join(damaged) and f"{'; '.join(damaged)}; another one is used"


def _build(variant: str, compiler: build.Compiler, folder: Path | None, problem: str, damaged: list[str]) -> Native:
    """Compile the library into the cache, or where this cannot be for this process alone."""
    began = time.monotonic()
    if folder is not None:
        try:
            path = build.compile_library(variant, compiler, folder)
        except OSError as error:
            problem = f"the cache {folder} cannot be written ({error.strerror or error})"
        else:
            library = _try(path)
            return Native(library, "", _again(damaged), variant, "cache", path, _compiler_of(library))
    try:
        with tempfile.TemporaryDirectory(prefix="speechmtp-", ignore_cleanup_errors=True) as scratch:
            library = _try(build.compile_library(variant, compiler, Path(scratch)))
    except OSError as error:
        raise BuildError(f"{problem}, nor can a temporary folder be ({error.strerror or error})") from error
    note = f"{problem}: compiled in {time.monotonic() - began:.1f} s for this process alone; name a folder in {CACHE}"
    return Native(library, "", note, variant, "this process alone", None, _compiler_of(library))


def _try(path: Path) -> ctypes.CDLL:
    """Load a library that has just been compiled, after a trial in another process. BuildError, and the file is gone,
    if it does not work."""
    try:
        if sys.executable and not getattr(sys, "frozen", False):
            command = [sys.executable, "-I", "-S", "-c", TRIAL, str(path), str(ABI)]
            done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=build.ASKING)
            if done.returncode:
                raise BuildError("what the C compiler made does not work; mend it, or name another in CC")
        return load(path)
    except (OSError, BuildError, subprocess.SubprocessError) as error:
        path.unlink(missing_ok=True)
        raise error if isinstance(error, BuildError) else BuildError(str(error)) from error


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


def _compiler_of(library: ctypes.CDLL) -> str:
    return str(library.speechmtp_cpu_compiler().decode())
