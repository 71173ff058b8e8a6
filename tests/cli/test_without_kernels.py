"""Where the native library cannot be had, or only in another way, there is one line, and the text is the same."""

import warnings
from collections.abc import Callable

import pytest

import speechmtp
from speechmtp.cli.main import main
from speechmtp.errors import KernelWarning
from speechmtp.kernels.cpu import library
from speechmtp.models.bases.native import use_native
from tests.kernels.native_stubs import COMPILER, Bench, make_bench, needs_compiler, needs_shell

__all__ = ["make_bench"]  # a fixture

AUDIO = speechmtp.example("digits")


def read_only(bench: Bench) -> None:
    bench.cache.parent.write_text("")  # a file where the folder should be, which stops an administrator too


def damaged(bench: Bench) -> None:
    assert library.find_native().library is not None
    for path in bench.libraries():
        path.unlink()
        path.write_bytes(b"damaged")
    bench.restart()


CASES: dict[str, tuple[Callable[[Bench], None], bool]] = {  # and whether the library is there in the end
    "no compiler": (Bench.no_compiler, False),
    "broken compiler": (lambda bench: bench.use_compiler(COMPILER + '[ "$1" = --version ] || exit 1'), False),
    "read-only cache": (read_only, True),
    "damaged cache": (damaged, True),
}


@pytest.fixture(scope="module")
def recogniser() -> speechmtp.Recogniser:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SPEECHMTP_KERNELS", "ref")
        return speechmtp.load("default", device="cpu")


@needs_compiler
@needs_shell
@pytest.mark.parametrize("case", CASES)
def test_one_line_and_the_same_text(bench: Bench, recogniser: speechmtp.Recogniser, case: str) -> None:
    trunk = recogniser.bundle.model.trunk
    assert trunk.native is None
    expected = recogniser.transcribe(AUDIO)
    prepare, there = CASES[case]
    bench.use_sources()
    prepare(bench)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        use_native(trunk)
        use_native(trunk)
        native = trunk.native is not None
        found = recogniser.transcribe(AUDIO)
    trunk.native = None
    assert native == there, trunk.native_problem
    assert [item.category for item in caught] == [KernelWarning] and "\n" not in str(caught[0].message)
    assert str(found) == str(expected) and found.tokens == expected.tokens


def test_the_command_line_prints_it_as_one_line(bench: Bench, capsys, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library, "best_variant", lambda: ("", "the processor has no AVX2"))
    assert main(["transcribe", str(AUDIO)]) == 0
    text, line = capsys.readouterr()
    assert line == (
        "speechmtp: warning: no native kernels: the processor has no AVX2. Decoding runs on PyTorch: the same text, "
        "slower (SPEECHMTP_KERNELS=ref hides this line)\n"
    )
    monkeypatch.setenv("SPEECHMTP_KERNELS", "ref")
    assert main(["transcribe", str(AUDIO)]) == 0
    assert capsys.readouterr() == (text, "")
    monkeypatch.setenv("SPEECHMTP_KERNELS", "fast")
    assert main(["transcribe", str(AUDIO)]) == 2
    out, line = capsys.readouterr()
    assert out == "" and line.startswith("speechmtp: error: SPEECHMTP_KERNELS='fast': ") and line.count("\n") == 1
