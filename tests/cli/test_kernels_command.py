"""`speechmtp kernels` says what is chosen and why, and compiles on demand."""

import json
import re
from types import SimpleNamespace

import pytest

from speechmtp.cli.main import main
from speechmtp.kernels import report
from speechmtp.kernels.cpu import library
from tests.kernels.native_stubs import Bench, make_bench, needs_compiler

__all__ = ["make_bench"]  # a fixture


def said(capsys: pytest.CaptureFixture[str], *options: str) -> dict[str, tuple[str, str]]:
    """Kernel -> what is chosen, and why."""
    assert main(["kernels", "--json", *options]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    return {row["kernel"]: (row["chosen"], row["why"]) for row in json.loads(out)}


@needs_compiler
def test_what_was_compiled_is_told_with_place_time_and_compiler(bench: Bench, capsys) -> None:
    assert main(["kernels", "--build"]) == 0
    out = capsys.readouterr().out
    (path,) = bench.libraries()
    native = library.find_native()
    assert re.search(rf"^native library +{native.variant} +compiled here \d{{4}}-\d\d-\d\d \d\d:\d\d by ", out, re.M)
    assert f"{native.compiler}: {path}" in out
    assert out.splitlines()[0].split() == ["kernel", "chosen", "why"]
    bench.prebuilt.mkdir()
    path.rename(bench.prebuilt / path.name)
    bench.restart()
    why = f"in the package, compiled by {native.compiler}: {bench.prebuilt / path.name}"
    assert said(capsys)["native library"] == (native.variant, why)


@needs_compiler
def test_a_cache_that_cannot_be_used_is_a_note(bench: Bench, capsys) -> None:
    bench.cache.parent.write_text("")
    assert main(["kernels"]) == 0
    out, err = capsys.readouterr()
    assert re.search(r"^native library +note +the cache .* cannot be made", out, re.M) and err == ""
    assert re.search(r"^native library +\w+ +compiled for this process alone by ", out, re.M)


def test_why_there_is_none(bench: Bench, capsys, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.no_compiler()
    lines = said(capsys)
    assert lines["native library"] == ("none", "no C compiler found; install gcc, or name one in CC")
    assert main(["kernels", "--build"]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err == "speechmtp: error: --build: no C compiler found; install gcc, or name one in CC\n"
    monkeypatch.setenv("SPEECHMTP_KERNELS", "ref")
    monkeypatch.setattr(library, "_find", lambda: pytest.fail("it looked"))
    bench.restart()
    assert said(capsys)["native library"] == ("not used", "the setting says so")


def test_an_unknown_setting_is_one_line(capsys, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPEECHMTP_KERNELS", "fast")
    assert main(["kernels"]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err == (
        "speechmtp: error: SPEECHMTP_KERNELS='fast': expected one of auto, ref, cpu; correct or unset it\n"
    )


def test_settings_of_linear_layers_and_drafts_are_told(bench: Bench, capsys, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPEECHMTP_KERNELS", "ref")
    monkeypatch.setattr(report, "has_packed", lambda: True)
    for value, expected in (("", "measured"), ("plain", "plain"), ("packed", "packed")):
        monkeypatch.setenv("SPEECHMTP_LINEAR", value)
        assert said(capsys)["linear layers"][0] == expected
    monkeypatch.setattr(report, "has_packed", lambda: False)
    monkeypatch.setattr(report, "has_int8", lambda: False)
    lines = said(capsys)
    assert lines["linear layers"] == ("plain", "this PyTorch has no packed weights")
    assert lines["8-bit drafts"][0] == "none" and "processor" in lines and lines["setting"][0] == "ref"


def test_a_model_says_what_of_it_is_native(bench: Bench, capsys, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPEECHMTP_KERNELS", "ref")
    assert main(["kernels", "--model", "nowhere/at/all"]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    lines = said(capsys, "--model", "default")
    assert lines["decoder"] == ("PyTorch", "SPEECHMTP_KERNELS=ref")
    assert lines["heads chain"][0] == "PyTorch" and lines["heads chain"][1]


def test_a_part_is_native_or_says_why_not() -> None:
    parts = {
        "step": SimpleNamespace(native=object(), native_problem=""),
        "draft": SimpleNamespace(native=None, native_problem="too large"),
        "rest": object(),
    }
    assert report.describe_parts(parts) == [
        ("step", "native", "calls of the library"),
        ("draft", "PyTorch", "too large"),
        ("rest", "PyTorch", "there are no native kernels for it"),
    ]
