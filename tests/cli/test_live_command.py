"""`transcribe --stream` and `--mic`: words while they are spoken, in files, pipes, terminals and from a microphone."""

import fcntl
import io
import json
import os
import pty
import re
import signal
import struct
import sys
import termios
import threading
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import tiny
from screen import Screen, joined

import speechmtp
from speechmtp.api import Recogniser
from speechmtp.audio.io import read_audio, write_audio
from speechmtp.cli import live
from speechmtp.cli.interrupts import PoliteInterrupts
from speechmtp.cli.live_view import PlainView
from speechmtp.cli.main import main
from speechmtp.errors import ConfigError
from speechmtp.streaming.config import StreamConfig
from speechmtp.streaming.events import Committed, Tail
from speechmtp.streaming.passes import strategy_of

READING = str(speechmtp.example("reading"))
TEXT = "I opened my eyes upon a strange and weird landscape. I knew that I was on Mars."


@pytest.fixture(scope="module")
def brief(tmp_path_factory: pytest.TempPathFactory) -> Recogniser:
    """A tiny model that says a few letters of anything."""
    return speechmtp.load(tiny.write_brief(tmp_path_factory.mktemp("models") / "brief"), device="cpu")


@pytest.fixture
def loaded(brief: Recogniser, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is what the command loads."""
    monkeypatch.setattr("speechmtp.cli.checks.open_recogniser", lambda args: brief)


@pytest.fixture(scope="module")
def text(brief: Recogniser) -> str:
    """What it says of the recording."""
    stream = brief.create_stream(StreamConfig(words=False))
    events = [*stream.feed(*read_audio(READING)), *stream.finish()]
    found = "".join(event.text for event in events if isinstance(event, Committed))
    assert len(found) > 5 and sum(isinstance(event, Tail) for event in events) > 2
    return joined(found)


def test_a_file_is_committed_text_a_line_a_segment(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["transcribe", "--stream", READING]) == 0
    said = capsys.readouterr()
    assert joined(said.out) == TEXT and said.out.endswith("Mars.\n") and not said.err
    assert all(line == line.strip() for line in said.out.splitlines())


@pytest.mark.usefixtures("loaded")
def test_events_are_json_lines_and_words_have_times(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["transcribe", "--stream", READING, "--output", "json", "--step", "1.5"]) == 0
    plain = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    kinds = [event["event"] for event in plain]
    assert kinds[0] == "speech_started" and kinds[-1] == "ended" and kinds[-2] in ("final", "speech_stopped")
    committed = "".join(event["text"] for event in plain if event["event"] == "committed")
    finals = [event for event in plain if event["event"] == "final"]
    assert joined(committed) == joined(" ".join(event["text"] for event in finals))
    assert not [event for event in plain if "words" in event]
    steps = [event["time"] for event in plain if event["event"] == "tail"]
    assert steps and all(later - earlier > 0.7 for earlier, later in pairwise(steps))
    assert main(["transcribe", "--stream", READING, "--output", "json", "--words"]) == 0
    with_words = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    words = [word for event in with_words if event["event"] == "final" for word in event["words"]]
    assert words and all(word["confidence"] is not None for word in words)


@pytest.mark.usefixtures("loaded")
def test_standard_input_is_heard(
    text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    samples, rate = read_audio(READING)
    raw = (samples * 32768).astype("<i2").tobytes()
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(raw)))
    assert main(["transcribe", "--stream", "-", "--rate", str(rate)]) == 0
    assert joined(capsys.readouterr().out) == text
    path = tmp_path / "a.wav"
    write_audio(path, samples, rate)
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(path.read_bytes())))
    assert main(["transcribe", "--stream", "-"]) == 0
    assert joined(capsys.readouterr().out) == text


@pytest.mark.usefixtures("loaded")
def test_a_terminal_shows_what_may_change_dimmed(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 34, 0, 0))
    written: list[bytes] = []

    def listen() -> None:
        try:
            while data := os.read(ours, 4096):
                written.append(data)
        except OSError:  # how Linux says that the other side is closed
            pass

    listener = threading.Thread(target=listen)
    listener.start()
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    with open(theirs, "w", encoding="utf-8") as out:
        monkeypatch.setattr("sys.stdout", out)
        assert main(["transcribe", "--stream", READING]) == 0
        monkeypatch.undo()
    listener.join()
    os.close(ours)
    screen, seen = Screen(34), set[str]()
    for part in re.split(r"(?=\r)", b"".join(written).decode().replace("\r\n", "\n")):
        screen.write(part)
        seen.add(joined(screen.text(dim=True)))
    assert joined(screen.text(dim=False)) == text and not screen.text(dim=True)
    assert len(seen) > 2 and all(len(line) < 34 for line in screen.lines)


class Microphone:
    """Stands in for sounddevice: what is heard, and then Ctrl-C."""

    class PortAudioError(Exception):
        """Its error."""

    def __init__(self, sound: np.ndarray, presses: Callable[[], None]) -> None:
        self.sound, self.presses = sound, presses

    def query_devices(self, kind: str) -> dict[str, Any]:
        return {"name": "Headset", "default_samplerate": 16000.0}

    def InputStream(self, callback: Any, blocksize: int, **asked: Any) -> Any:
        def play() -> None:
            for start in range(0, len(self.sound), blocksize):
                block = self.sound[start : start + blocksize, None]
                callback(block, len(block), SimpleNamespace(), "")
            self.presses()

        class Stream:
            def __enter__(self) -> None:
                threading.Thread(target=play).start()

            def __exit__(self, *error: object) -> None:
                pass

        return Stream()


def press() -> None:
    """Ctrl-C."""
    os.kill(os.getpid(), signal.SIGINT)


@pytest.mark.usefixtures("loaded")
@pytest.mark.parametrize("when", ["waiting", "working"])
def test_ctrl_c_ends_the_microphone_with_the_last_words(
    when: str, brief: Recogniser, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    sound, heard, passes, decode = read_audio(READING)[0], threading.Event(), [0], brief.decode
    blocks = len(sound) // 800
    sound = sound[: 800 * blocks]
    stream = brief.create_stream(StreamConfig(words=False))
    stream.feed(sound)
    stream.finish()
    text = joined(stream.result().text)

    class View(PlainView):
        def show(self, events: Any) -> None:
            nonlocal blocks
            super().show(events)
            blocks -= 1
            if blocks == 0:
                heard.set()

    def decoded(*given: Any, **named: Any) -> Any:
        passes[0] += 1
        if passes[0] == 6 and when == "working":
            press()
        return decode(*given, **named)

    def end() -> None:
        if when == "waiting" and heard.wait(60):
            press()

    monkeypatch.setattr(brief, "decode", decoded)
    monkeypatch.setattr(live, "view_for", lambda output, words: View(sys.stdout))
    monkeypatch.setitem(sys.modules, "sounddevice", Microphone(sound, end))
    assert main(["transcribe", "--mic"]) == 130
    said = capsys.readouterr()
    assert said.err == "speechmtp: interrupted\n" and said.out.endswith("\n")
    assert passes[0] == 7 if when == "working" else joined(said.out) == text, "one more pass, for the last words"
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_ctrl_c_comes_through_where_it_may() -> None:
    done = []
    with PoliteInterrupts() as interrupts:
        press()
        done.append("work")
        with pytest.raises(KeyboardInterrupt), interrupts.allowed():
            done.append("never")
    assert done == ["work"]
    with PoliteInterrupts():
        press()
        with pytest.raises(KeyboardInterrupt):
            press()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.mark.usefixtures("loaded")
def test_a_cut_file_gives_its_words_and_then_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "cut.wav"
    write_audio(path, *read_audio(READING))
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    with open(path, "rb") as file:
        sys_stdin, sys.stdin = sys.stdin, io.TextIOWrapper(file)
        try:
            assert main(["transcribe", "--stream", "-"]) == 2
        finally:
            sys.stdin = sys_stdin
    said = capsys.readouterr()
    assert len(said.out) > 2 and said.out.endswith("\n")
    assert said.err.count("\n") == 1 and "the file is cut short" in said.err


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ("--stream nowhere.wav", "nowhere.wav: no such file"),
        ("--stream", "0 files given, expected one FILE"),
        ("--stream a.wav b.wav", "2 files given"),
        ("--mic a.wav", "--mic: hears the microphone alone"),
        ("--mic", "microphone: needs sounddevice, not installed; pip install 'speechmtp[mic]'"),
        ("--stream - --rate 0", "rate: 0 Hz, expected 1000"),
        ("--stream a.wav --step 0", "--step 0: expected a number above 0, at most 60 seconds"),
        ("--stream a.wav --output srt", "--output srt: not with --stream"),
        ("--stream a.wav --words", "--words: a line of text has no times"),
        ("--stream a.wav --depth 3", "--depth, --theta: of which strategy"),
        ("--stream a.wav --jobs 2 --temperature 0.5", "--jobs, --temperature: not with --stream; leave them out"),
        ("--stream a.wav --strategy sing", "sing"),
        ("--stream a.wav --strategy oracle", "strategy oracle: drafts a text that is known before; choose another"),
        ("a.wav --step 1", "--step, --rate: only with --stream or --mic"),
        ("", "FILE: none given, expected audio files"),
    ],
)
@pytest.mark.usefixtures("loaded")
def test_a_wrong_use_is_one_line(
    arguments: str, problem: str, failing: Callable[[list[str]], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "sounddevice", None)
    assert problem in failing(["transcribe", *arguments.split()])


@pytest.mark.parametrize(
    ("strategy", "problem"),
    [
        ("ctc-only", "cannot go on behind those that are committed"), ("draft-model", "needs a draft model"),
        ("oracle", "known before"), ("ctc", "needs a CTC head, and the model has none"),
    ],
)  # fmt: skip
def test_a_stream_refuses_what_it_cannot_run(strategy: str, problem: str, brief: Recogniser) -> None:
    with pytest.raises(ConfigError, match=problem):
        strategy_of(brief, strategy)
    assert strategy_of(brief, "previous").label == "previous"
    assert strategy_of(brief, "").label == "previous"
