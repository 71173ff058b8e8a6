"""The native library is compiled once, checked before it is loaded, and where it cannot be had one line says why."""

import os
import re
import shutil
import sys
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from speechmtp.errors import ConfigError, KernelWarning
from speechmtp.kernels.cpu import build, library
from speechmtp.kernels.cpu.library import find_native, native_library, native_reason
from tests.kernels.native_stubs import COMPILER, Bench, make_bench, needs_compiler, needs_shell

__all__ = ["make_bench"]  # a fixture

DIGITS = re.compile(r"[a-z0-9]+-[a-z0-9]+-\w+-[0-9a-f]{16}-[0-9a-f]{8}\.[0-9a-f]{32}\.(so|dll)")


def refused(match: str) -> None:
    """The library is not there, one warning says why, and a second call is silent."""
    with pytest.warns(KernelWarning, match=match) as caught:
        assert native_library() is None
    assert len(caught) == 1 and "\n" not in str(caught[0].message)
    assert str(caught[0].message).endswith("the same text, slower (SPEECHMTP_KERNELS=ref hides this line)")
    assert native_reason() and native_reason() in str(caught[0].message)
    quiet(False)


def quiet(there: bool = True) -> None:
    """The library is there or not, without a warning."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert (native_library() is not None) == there


@needs_compiler
def test_it_is_compiled_once_and_then_taken_from_the_cache(bench: Bench) -> None:
    quiet()
    assert native_reason() == "" and find_native().origin == "cache" and find_native().compiler
    (path,) = bench.libraries()
    assert DIGITS.fullmatch(path.name) and find_native().path == path
    assert not [p for p in bench.cache.iterdir() if p != path], "nothing else is left there"
    bench.never_compile()
    bench.restart()
    quiet()
    bench.no_compiler()
    bench.restart()
    quiet()


@needs_compiler
def test_other_sources_compilers_and_flags_are_other_libraries(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    compiler = build.find_compiler()
    names = {build.stem(variant) for variant in build.VARIANTS}
    monkeypatch.setattr(build, "FLAGS", (*build.FLAGS, "-g0"))
    names |= {build.stem(variant) for variant in build.VARIANTS}
    (bench.sources / "more.h").write_text("/* more */\n")
    names |= {build.stem(variant) for variant in build.VARIANTS}
    assert len(names) == 9
    keys = {compiler.key, build.Compiler(compiler.command, "2.0").key, build.Compiler(("x",), compiler.version).key}
    assert len(keys) == 3


@needs_compiler
def test_threads_that_ask_at_once_get_one_library(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    compiled, once = [], build.compile_library
    monkeypatch.setattr(build, "compile_library", lambda *a: compiled.append(1) or once(*a))
    with ThreadPoolExecutor(8) as pool:
        found = set(map(id, pool.map(lambda _: native_library(), range(8))))
    assert len(found) == 1 and compiled == [1]


@needs_compiler
def test_processes_may_compile_at_once(bench: Bench, tmp_path: Path) -> None:
    compiler, variant = build.find_compiler(), build.MACHINES[build.machine()][-1]
    with ThreadPoolExecutor(4) as pool:
        paths = list(pool.map(lambda _: build.compile_library(variant, compiler, tmp_path), range(4)))
    assert all(build.is_whole(path) for path in paths)


@needs_compiler
@pytest.mark.parametrize("how", ["cut", "garbage", "empty", "no library", "link"])
def test_a_damaged_cache_is_compiled_again_and_a_line_says_so(bench: Bench, how: str) -> None:
    quiet()
    (path,) = bench.libraries()
    whole = path.read_bytes()
    path.unlink()  # what is loaded stays as it is
    damaged = {"cut": whole[: len(whole) // 2], "garbage": b"\0" * 5000, "empty": b"", "no library": b"text"}
    if how == "link":
        path.symlink_to("nowhere")
    else:
        path.write_bytes(damaged[how])
    if how == "no library":  # its digits are right
        path.rename(path.with_name(f"{path.name.split('.')[0]}.{build._digest(b'text')[:32]}{build.SUFFIX}"))
    bench.restart()
    match = "does not load" if how in ("no library", "link") else "was damaged; it was compiled again"
    with pytest.warns(KernelWarning, match=match) as caught:
        assert native_library() is not None
    assert len(caught) == 1
    bench.restart()
    quiet()
    assert [item.read_bytes() for item in bench.libraries()] == [whole]


@needs_compiler
def test_a_damaged_cache_without_a_compiler_is_not_used(bench: Bench) -> None:
    quiet()
    (path,) = bench.libraries()
    path.unlink()
    path.write_bytes(b"\x7fELF")
    bench.restart()
    bench.no_compiler()
    refused(f"{re.escape(str(path))} was damaged; no C compiler found; install gcc, or name one in CC")


def test_no_compiler(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.no_compiler()
    refused("^no native kernels: no C compiler found; install gcc, or name one in CC. Decoding runs on PyTorch")
    monkeypatch.setenv("CC", "/nonexistent/cc")
    bench.restart()
    refused("CC='/nonexistent/cc' is not there; install it, correct or unset CC")
    monkeypatch.setenv("CC", "'gcc")
    bench.restart()
    refused('CC="\'gcc" cannot be read')


@needs_shell
@pytest.mark.parametrize(
    ("script", "match"),
    [
        ("exit 1", "does not give its version; install gcc"),
        (COMPILER + '[ "$1" = --version ] || exit 3', r"failed \(exit code 3\); mend it, or name another in CC"),
        (
            COMPILER + '[ "$1" = --version ] || { echo "a.c: note" >&2; echo "a.c:1: error: no" >&2; exit 1; }',
            r"failed \(a\.c:1: error: no\); mend it",
        ),
        (COMPILER + "exit 0", r"failed \(exit code 0\)"),
        (
            COMPILER + 'while [ $# -gt 1 ]; do [ "$1" = -o ] && echo garbage > "$2"; shift; done',
            r"what the C compiler made does not work \(OSError: .*\); mend it",
        ),
        (
            f"{COMPILER}[ $1 = --version ] || exec '{sys.executable}' -c 'import time; time.sleep(60)'",
            "took more than 1 s",
        ),
    ],
    ids=["silent", "failing", "saying why", "making nothing", "making garbage", "hanging"],
)
def test_a_broken_compiler(bench: Bench, script: str, match: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "TIMEOUT", 1.0)
    bench.use_compiler(script)
    refused(match)
    assert not list(bench.cache.iterdir())


@needs_compiler
@pytest.mark.parametrize(
    ("sources", "match"),
    [
        ({"abi": library.ABI + 1}, r"does not work \(exit code 1\)"),
        ({"selftest": "return 7;"}, r"does not work \(exit code 7\)"),
        ({"selftest": "__builtin_trap(); return 0;"}, r"does not work \(exit code -\d+\)"),
        ({"more": "#error no"}, r"failed \(.*error.*no\)"),
    ],
    ids=["of another interface", "that fails its test", "that crashes", "that does not compile"],
)
def test_a_library_that_does_not_work(bench: Bench, sources: dict[str, str], match: str) -> None:
    bench.write(**sources)  # type: ignore[arg-type]
    refused(match)
    assert not bench.libraries()


@needs_compiler
def test_one_that_is_whole_and_does_not_work_is_not_used(bench: Bench) -> None:
    """Loading checks again, so that a prebuilt library of other processors' making is never trusted."""
    compiler, variant = build.find_compiler(), build.MACHINES[build.machine()][-1]
    for number, sources in enumerate(({"abi": 99}, {"selftest": "return 7;"})):
        bench.write(**sources)  # type: ignore[arg-type]
        folder = bench.folder / str(number)
        folder.mkdir()
        path = build.compile_library(variant, compiler, folder)
        with pytest.raises(
            build.BuildError, match=["its interface is 99, expected 1", "its self-test 7 fails"][number]
        ):
            library.load(path)


@needs_compiler
@pytest.mark.parametrize("how", ["a file", "writable by others", "of another user", "no home"])
def test_a_cache_that_cannot_be_used(bench: Bench, how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if how == "a file":
        bench.cache.parent.write_text("")
        match = "the cache .* cannot be made"
    elif how == "no home":
        monkeypatch.delenv("SPEECHMTP_CACHE")
        monkeypatch.setattr(library, "open_cache", lambda: (None, "no folder for a cache (no home)"))
        match = r"no folder for a cache \(no home\)"
    elif os.name != "posix":
        pytest.skip("owners and modes are those of POSIX")
    elif how == "writable by others":
        bench.cache.mkdir(parents=True)
        bench.cache.chmod(0o777)
        match = "other users may write into "
    else:
        bench.cache.mkdir(parents=True)
        os.chown(bench.cache, 12345, -1) if os.geteuid() == 0 else monkeypatch.setattr(os, "geteuid", lambda: 12345)
        match = " belongs to another user"
    pattern = rf"^native kernels: .*{match}.*: compiled in \d+\.\d s for this process alone; name another folder in "
    with pytest.warns(KernelWarning, match=f"{pattern}SPEECHMTP_CACHE$") as caught:
        assert native_library() is not None
    assert len(caught) == 1 and find_native().path is None and native_reason() == ""
    quiet()
    assert not bench.cache.is_dir() or not bench.libraries()


@needs_compiler
def test_a_cache_that_cannot_be_written(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    once = build.compile_library

    def compile_elsewhere(variant: str, compiler: build.Compiler, folder: Path, *more: object) -> Path:
        if folder == bench.cache:
            raise PermissionError(30, "Read-only file system")
        return once(variant, compiler, folder, *more)  # type: ignore[arg-type]

    monkeypatch.setattr(build, "compile_library", compile_elsewhere)
    with pytest.warns(KernelWarning, match=r"the cache .* cannot be written \(Read-only file system\): compiled in"):
        assert native_library() is not None
    bench.restart()
    monkeypatch.setattr(library.tempfile, "tempdir", str(bench.folder / "nowhere"))
    refused(r"the cache .* cannot be written \(Read-only file system\), nor can a temporary folder be \(No such file")


@needs_compiler
def test_a_prebuilt_library_needs_no_compiler_and_no_cache(bench: Bench) -> None:
    bench.prebuilt.mkdir()
    quiet()
    (path,) = bench.libraries()
    shutil.move(path, bench.prebuilt)
    bench.restart()
    bench.no_compiler()
    bench.never_compile()
    quiet()
    assert find_native().origin == "prebuilt" and find_native().path == bench.prebuilt / path.name
    (bench.prebuilt / path.name).unlink()
    (bench.prebuilt / path.name).write_bytes(b"cut")
    bench.restart()
    refused(f"{path.name} was damaged; no C compiler found")
    assert (bench.prebuilt / path.name).exists(), "what was installed is left as it is"


def test_sources_that_are_not_there(bench: Bench) -> None:
    shutil.rmtree(bench.sources)
    refused("^no native kernels: .*No such file or directory: .*csrc")


def test_a_processor_that_cannot(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.never_compile()
    monkeypatch.setattr(library, "best_variant", lambda: ("", "the processor has no AVX2"))
    refused("^no native kernels: the processor has no AVX2. Decoding runs on PyTorch: ")


def test_ref_looks_for_nothing_and_says_nothing(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.never_compile()
    monkeypatch.setattr(library, "_find", lambda: pytest.fail("it looked"))
    monkeypatch.setenv("SPEECHMTP_KERNELS", "ref")
    quiet(False)
    assert native_reason() == "SPEECHMTP_KERNELS=ref"


def test_cpu_is_an_error_where_it_cannot_be(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.no_compiler()
    monkeypatch.setenv("SPEECHMTP_KERNELS", "cpu")
    with pytest.raises(
        ConfigError, match=r"^SPEECHMTP_KERNELS=cpu: no C compiler found; install gcc, or name one in CC$"
    ):
        native_library()


@pytest.mark.parametrize("call", [native_library, native_reason])
def test_an_unknown_setting_is_an_error(bench: Bench, call: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPEECHMTP_KERNELS", "fast")
    with pytest.raises(
        ConfigError, match=r"^SPEECHMTP_KERNELS='fast': expected one of auto, ref, cpu; correct or unset"
    ):
        call()  # type: ignore[operator]
