"""Small C sources and compilers for tests of the native library's build."""

import shutil
import sys
from pathlib import Path

import pytest

from speechmtp.kernels.cpu import build, library
from speechmtp.kernels.cpu.build import BuildError, find_compiler

COMPILER = "echo 'cc 1.0'\n"  # what answers to --version


def has_compiler() -> bool:
    """Whether kernels can be compiled here."""
    try:
        return bool(build.MACHINES.get(build.machine())) and bool(find_compiler())
    except BuildError:
        return False


needs_compiler = pytest.mark.skipif(not has_compiler(), reason="no C compiler here")
needs_shell = pytest.mark.skipif(sys.platform == "win32", reason="compilers of these tests are shell scripts")


class Bench:
    """A place of its own for sources, cache and prebuilt libraries, in which nothing was looked for yet."""

    def __init__(self, folder: Path, patch: pytest.MonkeyPatch) -> None:
        self.folder, self._patch = folder, patch
        self.cache, self.prebuilt, self.sources = folder / "cache" / "kernels", folder / "prebuilt", folder / "csrc"
        self._own = build.CSRC
        self.sources.mkdir()
        shutil.copy(build.CSRC / "about.c", self.sources)
        self.write()
        patch.setattr(build, "CSRC", self.sources)
        patch.setattr(library, "PREBUILT", self.prebuilt)
        patch.setattr(library, "best_variant", lambda: (build.MACHINES[build.machine()][-1], ""))
        patch.setenv("SPEECHMTP_CACHE", str(folder / "cache"))
        patch.delenv("SPEECHMTP_KERNELS", raising=False)
        self.restart()

    def use_sources(self) -> None:
        """Compile the package's own sources, for a library that decodes, with less care for its speed."""
        self._patch.setattr(build, "CSRC", self._own)
        self._patch.setattr(build, "FLAGS", tuple(flag.replace("-O3", "-O1") for flag in build.FLAGS))

    def restart(self) -> None:
        """Forget what was found, as a new process would."""
        self._patch.setattr(library, "_found", None)
        self._patch.setattr(library, "_said", False)

    def write(self, abi: int = library.ABI, selftest: str = "return 0;", more: str = "") -> None:
        """Write sources of a library: its interface, the body of its self-test, and other code."""
        (self.sources / "speechmtp_cpu.c").write_text(
            f"{more}\nint speechmtp_cpu_abi(void) {{ return {abi}; }}\n"
            f"int speechmtp_cpu_selftest(void) {{ {selftest} }}\n"
        )

    def use_compiler(self, script: str) -> None:
        """Let CC be a shell script."""
        path = self.folder / "compiler"
        path.write_text(f"#!/bin/sh\n{script}")
        path.chmod(0o755)
        self._patch.setenv("CC", str(path))

    def no_compiler(self) -> None:
        """Let there be no compiler at all."""
        self._patch.setenv("PATH", str(self.folder / "nowhere"))
        self._patch.delenv("CC", raising=False)

    def never_compile(self) -> None:
        """Let every compilation fail the test."""

        def refuse(*_: object) -> Path:
            raise AssertionError("a library was compiled")

        self._patch.setattr(build, "compile_library", refuse)

    def libraries(self) -> list[Path]:
        """The libraries in the cache."""
        return sorted(self.cache.glob(f"*{build.SUFFIX}"))


@pytest.fixture(name="bench")
def make_bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    """A `Bench`."""
    return Bench(tmp_path, monkeypatch)
