"""One broken directory for every defect code: the code, the file, the line, the exit code, and the mending."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from small_sets import lines, no_prefix, segments, snapshot, swap


@dataclass(frozen=True)
class Case:
    """What is broken, where it should be found, and how it is mended (fix, drop, none or warn)."""

    code: str
    where: str  # file:line
    mended: str
    breakage: Callable[[Path, Any, Any], object]
    options: tuple[str, ...] = ()


def text(line: str | bytes) -> Callable[[Path, Any, Any], object]:
    """Another second line of text."""
    return lambda d, put, tone: put(d / "text", 2, line)


CASES = [
    Case("E01", "text:0", "none", lambda d, put, tone: (d / "text").unlink()),
    Case("E01", "wav.scp:0", "none", lambda d, put, tone: (d / "wav.scp").unlink()),
    Case("E01", "spk2utt:0", "fix", lambda d, put, tone: (d / "spk2utt").unlink()),
    Case("E01", "utt2spk:0", "fix", lambda d, put, tone: (d / "utt2spk").unlink()),
    Case("E02", "text:0", "none", lambda d, put, tone: (d / "text").write_bytes(b"")),
    Case("E03", "text:2", "none", text(b"a-2 CAF\xc9")),
    Case("E03", "text:1", "fix", lambda d, put, tone: (d / "text").write_text((d / "text").read_text(), "utf-16")),
    Case("E04", "text:1", "fix", lambda d, put, tone: put(d / "text", 1, b"\xef\xbb\xbfa-1 HELLO")),
    Case("E05", "text:2", "fix", text("a-2 HELLO\r")),
    Case("E05", "utt2spk:4", "fix", lambda d, put, tone: put(d / "utt2spk", 4, "b-2 b\r")),
    Case("E06", "text:4", "fix", lambda d, put, tone: (d / "text").write_bytes((d / "text").read_bytes()[:-1])),
    Case("E07", "wav.scp:5", "fix", lambda d, put, tone: put(d / "wav.scp", 5, " \n")),
    Case("E08", "utt2spk:3", "none", lambda d, put, tone: put(d / "utt2spk", 3, "b-1 b c")),
    Case("E08", "wav.scp:3", "none", lambda d, put, tone: put(d / "wav.scp", 3, "b-1")),
    Case("E09", "text:2", "fix", lambda d, put, tone: swap(d / "text")),
    Case("E09", "text:5", "drop", lambda d, put, tone: put(d / "text", 5, "C-1 HELLO\n")),
    Case("E10", "text:5", "fix", lambda d, put, tone: put(d / "text", 5, "b-2 HELLO TEN\n")),
    Case("E11", "text:5", "none", lambda d, put, tone: put(d / "text", 5, "b-2 HELLO ELEVEN\n")),
    Case("E12", "text:2", "none", text("a/2 HELLO")),
    Case("E12", "text:2", "none", text("a\u00a02 HELLO")),
    Case("E13", "utt2spk:2", "drop", lambda d, put, tone: put(d / "text", 2, None)),
    Case("E13", "text:5", "drop", lambda d, put, tone: put(d / "text", 5, "c-1 HELLO\n")),
    Case("E14", "utt2spk:3", "drop", lambda d, put, tone: put(d / "wav.scp", 3, None)),
    Case("E14", "utt2dur:5", "drop", lambda d, put, tone: put(d / "utt2dur", 5, "c-1 1.0\n")),
    Case("E15", "utt2spk:2", "rename", lambda d, put, tone: no_prefix(d)),
    Case("E16", "spk2utt:1", "fix", lambda d, put, tone: put(d / "spk2utt", 1, "a a-1")),
    Case("E16", "utt2spk:3", "fix", lambda d, put, tone: put(d / "spk2utt", 2, None)),
    Case("E17", "text:2", "fix", text("a-2 HEL\u200bLO")),
    Case("E18", "text:2", "fix", text("a-2 HELLO\u3000THERE")),
    Case("E19", "text:2", "fix", text("a-2 HELLO  THERE")),
    Case("E19", "text:2", "fix", text("a-2 HELLO ")),
    Case("E19", "text:2", "fix", text("a-2  HELLO")),
    Case("E20", "text:2", "drop", text("a-2")),
    Case("E20", "text:2", "drop", text("a-2 \u00a0")),
    Case("E21", "text:2", "none", text("a-2 <s> HELLO")),
    Case("E21", "text:2", "none", text("a-2 HELLO<|endoftext|>")),
    Case("E22", "text:2", "fix", text("a-2 CAFE\u0301")),
    Case("E23", "segments:4", "drop", lambda d, put, tone: segments(d, "b-2 rec 1.5 1.2")),
    Case("E23", "segments:4", "drop", lambda d, put, tone: segments(d, "b-2 rec nan 1.2")),
    Case(
        "E23",
        "segments:1",
        "drop",
        lambda d, put, tone: segments(d, "b-2 rec 1.5 -1", first="a-1 rec -0.1 0.4"),
    ),
    Case("E24", "segments:4", "drop", lambda d, put, tone: segments(d, "b-2 rec 1.2 2.6")),
    Case("E24", "segments:4", "warn", lambda d, put, tone: segments(d, "b-2 rec 1.2 2.3")),
    Case("E25", "segments:4", "drop", lambda d, put, tone: segments(d, "b-2 rec 1.2 1.25")),
    Case("E25", "segments:4", "drop", lambda d, put, tone: segments(d, "b-2 rec 1.95 -1")),
    Case("E26", "segments:4", "drop", lambda d, put, tone: segments(d, "b-2 other 1.2 1.6")),
    Case("E27", "segments:4", "warn", lambda d, put, tone: segments(d, "b-1 rec 0.8 1.4", "b-2 rec 1.2 1.6")),
    Case("E28", "wav.scp:2", "drop", lambda d, put, tone: (d / "wav" / "a-2.wav").unlink()),
    Case("E29", "wav.scp:2", "drop", lambda d, put, tone: (d / "wav" / "a-2.wav").write_bytes(b"")),
    Case("E29", "wav.scp:2", "drop", lambda d, put, tone: tone(d / "wav" / "a-2.wav", seconds=0)),
    Case("E29", "wav.scp:2", "drop", lambda d, put, tone: (d / "wav" / "a-2.wav").write_bytes(b"RIFFjunk" * 9)),
    Case("E30", "wav.scp:2", "none", lambda d, put, tone: tone(d / "wav" / "a-2.wav", rate=8000)),
    Case("E30", "wav.scp:1", "none", lambda d, put, tone: (d / "info.json").write_text('{"fs": 8000}')),
    Case("E31", "wav.scp:2", "none", lambda d, put, tone: tone(d / "wav" / "a-2.wav", channels=2)),
    Case("E33", "utt2dur:2", "fix", lambda d, put, tone: put(d / "utt2dur", 2, "a-2 0.53")),
    Case("E34", "utt2dur:2", "fix", lambda d, put, tone: put(d / "utt2dur", 2, "a-2 nan")),
    Case(
        "E34",
        "utt2dur:2",
        "fix",
        lambda d, put, tone: put(d / "utt2dur", 2, "a-2 0"),
        ("--check-audio", "none"),
    ),
    Case(
        "E35",
        "wav.scp:2",
        "none",
        lambda d, put, tone: put(d / "wav.scp", 2, "a-2 sox x.wav -t wav - rate 8k |"),
    ),
    Case("E36", "wav.scp:2", "none", lambda d, put, tone: put(d / "wav.scp", 2, "a-2 ~/a-2.wav")),
    Case("E36", "wav.scp:2", "none", lambda d, put, tone: put(d / "wav.scp", 2, "a-2 https://x.org/a-2.wav")),
    Case("E36", "wav.scp:2", "warn", lambda d, put, tone: put(d / "wav.scp", 2, f"a-2 {d}/wav/a-2.wav")),
    Case("E37", "spk2gender:2", "drop", lambda d, put, tone: put(d / "spk2gender", 2, "b male")),
    Case("E37", "utt2spk:3", "drop", lambda d, put, tone: put(d / "spk2gender", 2, None)),
    Case(
        "E38",
        "reco2file_and_channel:1",
        "warn",
        lambda d, put, tone: lines(d / "reco2file_and_channel", "a-1 f 1"),
    ),
    Case("E39", "text:2", "warn", text("a-2 " + "VERY LONG " * 10 + "TEXT")),
    Case(
        "E40",
        "wav.scp:2",
        "warn",
        lambda d, put, tone: tone(d / "wav" / "a-2.wav", level=0),
        ("--check-audio", "decode"),
    ),
    Case(
        "E42",
        "utt2spk:0",
        "warn",
        lambda d, put, tone: (
            lines(d / "utt2spk", *(f"{k} a" for k in ("a-1", "a-2", "b-1", "b-2"))),
            lines(d / "spk2utt", "a a-1 a-2 b-1 b-2"),
            lines(d / "spk2gender", "a f"),
        ),
    ),
]


def test_sound_set_has_no_defects(good: Path, run: Any) -> None:
    code, printed = run("validate", good, "--check-audio", "decode")
    assert (code, printed) == (0, f"{good}: 0 defects, 0 warnings\n")
    before = snapshot(good)
    assert run("validate", good, "--fix", "--fix-drop", "--rename")[0] == 0
    assert snapshot(good) == before


@pytest.mark.parametrize("case", CASES, ids=[f"{c.code}-{c.where}-{n}" for n, c in enumerate(CASES)])
def test_defect(case: Case, good: Path, put: Any, tone: Any, run: Any) -> None:
    case.breakage(good, put, tone)
    code, printed = run("validate", good, *case.options)
    label = "warning: " if case.mended == "warn" else ""
    assert f"{good}/{case.where}: {case.code} {label}" in printed
    assert code == (0 if case.mended == "warn" else 1), printed
    if case.mended == "warn":
        assert f"{good}: 0 defects" in printed
        return
    words = {"drop": ["--fix-drop"], "rename": ["--fix", "--rename"]}.get(case.mended, ["--fix"])
    code, printed = run("validate", good, *words, *case.options)
    if case.mended == "none":
        assert code == 1, printed
        assert f": {case.code} " in printed
    else:
        assert code == 0, printed
        assert run("validate", good, *case.options)[0] == 0
    before = snapshot(good)
    run("validate", good, *words, *case.options)
    assert snapshot(good) == before


def test_many_codes_are_covered() -> None:
    assert len({case.code for case in CASES}) >= 38


def test_fix_alone_drops_nothing(good: Path, put: Any, run: Any) -> None:
    put(good / "text", 2, "a-2")
    assert run("validate", good, "--fix")[0] == 1
    assert (good / "utt2spk").read_text().count("\n") == 4
