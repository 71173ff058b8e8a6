"""`speechmtp stream`: a server's words while they are spoken, how late they were, and servers that do not help."""

import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from realtime_stand_in import PER_WORD, TEXT, Behaviour, StandIn

import speechmtp
from speechmtp.audio.io import read_audio
from speechmtp.cli.main import main
from speechmtp.cli.stream_figures import Figures
from speechmtp.errors import ConfigError, ProtocolError
from speechmtp.server.client import Answered, Committed, Final, Heard, Realtime, Tail, address
from speechmtp.words.word import Word

READING = str(speechmtp.example("reading"))
Capture = pytest.CaptureFixture[str]


def stream(server: StandIn, *more: str) -> int:
    """The command on the recording, as fast as it goes."""
    return main(["stream", READING, "--url", server.url, "--realtime-factor", "0", *more])


def test_a_file_is_sent_whole_and_its_words_are_shown(capsys: Capture) -> None:
    with StandIn() as server:
        assert stream(server) == 0
        sent = server.sessions[0]
    samples, rate = read_audio(READING)
    assert sent.rate == rate == 16000 and np.abs(sent.samples / 32768 - samples).max() < 1e-4
    said = capsys.readouterr()
    assert said.out == f"{TEXT}\n"
    assert (
        said.err.startswith("speechmtp: 7.3 s of audio in ")
        and "last words" in said.err
        and "tokens a call" in said.err
    )


def test_a_server_like_it_without_extensions_serves_too(capsys: Capture) -> None:
    with StandIn(Behaviour(extends=False)) as server:
        assert stream(server) == 0
    assert capsys.readouterr().out == f"{TEXT}\n"


def test_events_are_json_lines_and_figures_the_last(capsys: Capture) -> None:
    with StandIn() as server:
        assert stream(server, "--output", "json", "--language", "en", "--silence", "0.3", "--model", "m") == 0
        asked = server.sessions[0].messages[0]["session"]
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert "".join(row["text"] for row in rows if row["event"] == "committed") == TEXT
    assert {row["event"] for row in rows} == {"committed", "tail", "final", "figures"}
    assert rows[-1]["audio"] == 7.29 and rows[-1]["finalisation"] >= 0 and rows[-1]["words_median"] is None
    given = asked["audio"]["input"]
    assert (
        given["transcription"] == {"model": "m", "language": "en"}
        and given["turn_detection"]["silence_duration_ms"] == 300
    )


def test_standard_input_is_heard_as_it_arrives(monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    raw = (read_audio(READING, 8000)[0] * 32768).astype("<i2").tobytes()
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(raw)))
    with StandIn() as server:
        assert main(["stream", "-", "--rate", "8000", "--url", server.url]) == 0
    assert capsys.readouterr().out == f"{TEXT}\n"


def test_a_pace_is_kept(capsys: Capture) -> None:
    with StandIn() as server:
        began = time.monotonic()
        assert main(["stream", READING, "--url", server.url, "--realtime-factor", "8"]) == 0
    assert 0.9 < time.monotonic() - began < 5 and capsys.readouterr().out == f"{TEXT}\n"


def test_ctrl_c_brings_the_last_words_and_torch_is_never_imported() -> None:
    script = (
        "import atexit, sys; atexit.register(lambda: print('torch' in sys.modules)); "
        "from speechmtp.cli.main import main; main()"
    )
    with StandIn() as server:
        command = [sys.executable, "-c", script, "stream", READING, "--url", server.url]
        running = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        deadline = time.monotonic() + 20
        while not server.sessions or len(server.sessions[0].samples) < 16000 * 0.65:
            assert time.monotonic() < deadline and running.poll() is None
            time.sleep(0.01)
        os.kill(running.pid, signal.SIGINT)
        out, problems = running.communicate(timeout=20)
        count = len(server.sessions[0].samples) // (16 * PER_WORD)
    assert running.returncode == 130 and problems.endswith("speechmtp: interrupted\n"), problems
    assert out == " ".join(TEXT.split()[:count]) + "\nFalse\n" and 4 <= count < 16


@pytest.mark.parametrize(
    ("behaviour", "expected"),
    [
        (Behaviour(refuse=503), "full (all places are taken; try again soon)"),
        (Behaviour(token="a-secret"), "expected a token; give it with --token"),
        (Behaviour(drop=2.0, drop_code=1008, drop_reason="too fast; upload it"), "closed (1008, too fast; upload it)"),
        (Behaviour(drop=2.0), "closed (1006)"),
        (Behaviour(refuse=404), "refused (all places are taken"),
    ],
)
def test_a_server_that_does_not_help_is_one_line(behaviour: Behaviour, expected: str, capsys: Capture) -> None:
    with StandIn(behaviour) as server:
        assert stream(server) == 2
    error = capsys.readouterr().err.strip()
    assert error.startswith("speechmtp: error: ws://127.0.0.1:") and expected in error and "\n" not in error


def test_a_token_lets_in(capsys: Capture) -> None:
    with StandIn(Behaviour(token="a-secret")) as server:
        assert stream(server, "--token", "a-secret") == 0
        assert stream(server, "--token", "another") == 2
    assert "expected another token" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ([READING, "--url", "ws://127.0.0.1:1"], "no connection (Connection refused)"),
        ([READING, "--url", "ftp://x"], "not an address of a server"),
        ([], "expected one of FILE"),
        (["--mic", READING], "expected one of FILE"),
        (["-", "--realtime-factor", "1"], "only for a file"),
        ([READING, "--realtime-factor", "nan"], "expected a number from 0 on"),
        ([READING, "--silence", "0"], "expected more than 0"),
        (["nowhere.wav"], "no such file"),
    ],
)
def test_what_cannot_be_is_one_line(options: list[str], expected: str, capsys: Capture) -> None:
    assert main(["stream", *options]) == 2
    assert expected in capsys.readouterr().err


def test_a_damaged_file_gives_its_words_and_then_the_error(tmp_path: Path, capsys: Capture) -> None:
    path = tmp_path / "cut.flac"
    path.write_bytes(Path(READING).read_bytes()[:100_000])
    with StandIn() as server:
        assert main(["stream", str(path), "--url", server.url, "--realtime-factor", "inf"]) == 2
    assert "cut.flac" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("http://a:1", "ws://a:1/v1/realtime?intent=transcription"),
        ("https://a/", "wss://a/v1/realtime?intent=transcription"),
        ("a:8765", "ws://a:8765/v1/realtime?intent=transcription"),
        ("wss://a/b/c?model=x", "wss://a/b/c?model=x"),
    ],
)
def test_addresses_are_completed(given: str, expected: str) -> None:
    assert address(given) == expected


@pytest.mark.parametrize("url", ["", "ws://", "ws://a:b", "file:///x"])
def test_what_is_no_address_is_refused(url: str) -> None:
    with pytest.raises(ConfigError, match="not an address"):
        address(url)


def test_the_end_has_come_when_every_item_is_answered() -> None:
    item = "conversation.item.input_audio_transcription."
    client = Realtime(16000)
    assert json.loads(client.settings())["session"]["audio"]["input"]["format"]["rate"] == 16000

    def take(kind: str, **more: object) -> list[object]:
        return list(client.take(json.dumps({"type": kind, **more}), 1.0))

    assert [json.loads(one)["type"] for one in client.finish()] == ["input_audio_buffer.commit", "session.update"]
    take("session.updated", session={"include": ["speechmtp.heard"]})
    assert not client.done  # that was the first settings' answer
    take("input_audio_buffer.committed", item_id="a")
    assert client.extends and not client.done
    take(f"{item}completed", item_id="a", transcript="x")
    assert not client.done
    take("input_audio_buffer.committed", item_id="b")
    take("session.updated", session={})
    assert not client.done
    assert take(f"{item}failed", item_id="b", error={"message": "it broke"}) == [Answered("b", "", 1.0, "it broke")]
    assert client.done
    assert not take("error", error={"code": "input_audio_buffer_commit_empty", "message": ""})
    for broken in ("[]", "{", '{"type": "speechmtp.tail"}', '{"type": "error", "error": {"message": "no"}}'):
        with pytest.raises(ProtocolError, match="server: "):
            client.take(broken, 1.0)


def test_delays_are_those_behind_the_audio() -> None:
    figures = Figures()
    for piece in range(1, 31):
        figures.sent(0.1 * piece, 10 + 0.1 * piece)
    figures.take(Heard(1.0, 6, 2, 11.25))
    figures.take(Committed("one", "a", 11.5))
    figures.take(Committed(" two three", "a", 12.4))
    words = (Word("one", 0.5, 1.0), Word("two", 1.1, 1.5), Word("three", None, None))
    figures.take(Final("one two three", words, 0.2, 2.0, "a", 12.6))
    figures.take(Tail("x", 12.6))
    figures.asked(13.0)
    figures.take(Answered("a", "one two three", 13.2))
    assert figures.heard == pytest.approx([0.25]) and figures.words == pytest.approx([0.5, 0.9])
    assert figures.final == pytest.approx(0.2)
    assert figures.line(True, 3.1) == (
        "3.0 s of audio in 3.1 s; words 0.70 s behind their ends (95 %: 0.88); heard 0.25 s behind (95 %: 0.25); "
        "last words 0.20 s after the end; 3.00 tokens a call"
    )
