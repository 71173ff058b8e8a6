"""Uploads over a real socket, with a stand-in for the process that transcribes them."""

import ast
import asyncio
import json
import os
import signal
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Iterator
from itertools import pairwise
from pathlib import Path

import pytest
from http_runs import BOUNDARY, Served, form, part, quick, rest, serving
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from speechmtp.server.config import Limits
from speechmtp.server.http.form import read_form, spooled
from speechmtp.server.http.messages import Request
from speechmtp.server.http.transcriptions import read_asked
from speechmtp.server.protocols.contract import Refused
from speechmtp.server.uploads import Upload

UPLOAD = "/v1/audio/transcriptions"
KIND = {"content-type": f"multipart/form-data; boundary={BOUNDARY}"}
END = f"--{BOUNDARY}--\r\n".encode()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where temporary files are made."""
    place = tmp_path_factory.mktemp("uploads")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tempfile, "tempdir", str(place))
        yield place


@pytest.fixture(scope="module")
def served(folder: Path) -> Iterator[Served]:
    with quick(), serving(languages={"base": ("de", "en"), "small": ("en",)}, upload=100_000, uploads=3) as one:
        yield one


@pytest.fixture(autouse=True)
def _nothing_is_left(served: Served, folder: Path) -> Iterator[None]:
    yield
    assert served.idle()
    assert not list(folder.iterdir())


def events(body: bytes) -> list[dict[str, object]]:
    """The events of a stream; the last is `[DONE]`, or an error."""
    lines = [line.removeprefix(b"data: ") for line in body.split(b"\n\n") if line.startswith(b"data: ")]
    assert lines[-1] == b"[DONE]" or b'"error"' in lines[-1]
    return [json.loads(line) for line in lines if line != b"[DONE]"]


def asked(served: Served, **fields: str) -> dict[str, object]:
    """What the process is told."""
    return dict(ast.literal_eval(served.upload(b"!upload", **fields).json()["text"]))


# Answers


def test_json_and_text(served: Served) -> None:
    found = served.upload(b" one two\n\nthree", model="whisper-1").json()
    assert found == {"text": "one two three", "usage": {"type": "duration", "seconds": 3.0}}
    text = served.upload(b"one", response_format="text")
    assert text.body == b"one\n" and text.headers["content-type"].startswith("text/plain")


def test_verbose_json_has_every_field(served: Served) -> None:
    found = served.upload(b"one two\nthree", response_format="verbose_json", language="de").json()
    assert (found["task"], found["language"], found["duration"], found["text"]) == (
        "transcribe", "de", 2.0, "one two three",
    )  # fmt: skip
    assert "words" not in found
    first, second = found["segments"]
    assert second == {
        "id": 1, "seek": 100, "start": 1.0, "end": 2.0, "text": "three", "tokens": [7, 8], "temperature": 0.0,
        "avg_logprob": -0.5, "compression_ratio": pytest.approx(5 / 13), "no_speech_prob": 0.25,
    }  # fmt: skip
    assert first["compression_ratio"] == pytest.approx(7 / 15)
    both = served.upload(b"one two", response_format="verbose_json", timestamp_granularities=["word", "segment"]).json()
    assert both["words"][1] == {"word": "two", "start": 0.25, "end": 0.375} and len(both["segments"]) == 1
    words = served.upload(b"one", response_format="verbose_json", timestamp_granularities=["word"]).json()
    assert "segments" not in words and len(words["words"]) == 1


def test_subtitles(served: Served) -> None:
    srt = served.upload(b"one two", response_format="srt").body.decode()
    assert srt == "1\n00:00:00,000 --> 00:00:01,000\none two\n"
    assert served.upload(b"one", response_format="vtt").body.startswith(b"WEBVTT\n\n00:00:00.000 --> ")


def test_logprobs(served: Served) -> None:
    found = served.upload(b"one two\nthr\xe9e", include=["logprobs"]).json()
    assert "".join(one["token"] for one in found["logprobs"]) == "onetwo thrée"
    assert found["logprobs"][2] == {"token": " thrée", "logprob": -0.25, "bytes": list(" thrée".encode())}
    assert "logprobs" not in served.upload(b"one").json()


def test_a_stream_of_events(served: Served) -> None:
    got = served.upload(b"one\n\ntwo", stream="true", include=["logprobs"])
    assert got.headers["content-type"].startswith("text/event-stream")
    found = events(got.body)
    assert [one["type"] for one in found] == [*2 * ["transcript.text.delta"], "transcript.text.done"]
    assert "".join(str(one["delta"]) for one in found[:-1]) == found[-1]["text"] == "one two"
    assert [len(one["logprobs"]) for one in found] == [1, 1, 2]  # type: ignore[arg-type]
    assert events(served.upload(b"", stream="True").body)[0]["text"] == ""


def test_a_stream_says_that_it_is_alive(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("speechmtp.server.http.transcriptions.ALIVE", 0.05)
    got = served.upload(b"!wait 0.2\none", stream="true")
    assert got.body.startswith(b": still there\n\n") and events(got.body)[0]["delta"] == "one"


def test_events_come_as_they_arise(served: Served) -> None:
    body = form(b"one\n!wait 0.3\ntwo", stream="true")
    with served.connected() as sock:
        head = f"POST {UPLOAD} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\nContent-Type: "
        sock.sendall(f"{head}{KIND['content-type']}\r\nConnection: close\r\n\r\n".encode() + body)
        found = b""
        while b"one" not in found:
            found += sock.recv(4096)
        assert b"two" not in found
        assert b"[DONE]" in rest(sock)


# What is asked


def test_what_the_process_is_told(served: Served) -> None:
    plain = asked(served)
    assert {name: plain[name] for name in plain if name != "path"} == {
        "activity": False, "language": "", "logprobs": False, "model": "base", "words": False,
    }  # fmt: skip
    for format_, words, activity in (("text", False, False), ("srt", True, False), ("verbose_json", True, True)):
        told = read_asked(served.site, {"response_format": [format_]}).upload("x")
        assert (told.words, told.activity) == (words, activity)
    assert (asked(served, model="small", language="en-US")["model"], asked(served, model="small")["language"]) == (
        "small", "",
    )  # fmt: skip
    assert asked(served, language="de-AT")["language"] == "de"
    assert asked(served, model="gpt-4o-transcribe", prompt="x", temperature="0.3", languages="en", keywords="a",
                 chunking_strategy="auto", unknown="x")["model"] == "base"  # fmt: skip


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"response_format": "diarized_json"}, "response_format"), ({"response_format": "xml"}, "response_format"),
        ({"language": "fr"}, "language"), ({"stream": "perhaps"}, "stream"), ({"temperature": "hot"}, "temperature"),
        ({"temperature": "nan"}, "temperature"), ({"temperature": "7"}, "temperature"),
        ({"stream": "true", "response_format": "srt"}, "stream"), ({"include": ["all"]}, "include"),
        ({"timestamp_granularities": ["letter"]}, "timestamp_granularities"),
    ],
)  # fmt: skip
def test_values_that_are_none(served: Served, fields: dict[str, str], param: str) -> None:
    found = served.upload(b"one", **fields)
    assert found.status == 400 and found.json()["error"]["param"] == param


def test_a_strict_server_knows_its_models_only() -> None:
    with serving(strict=True) as served:
        found = served.upload(b"one", model="whisper-1")
        assert (found.status, found.code) == (404, "model_not_found")
        assert served.upload(b"one", model="default").status == 200


# Forms


@pytest.mark.parametrize(
    ("body", "kind", "status", "code"),
    [
        (form(b"one"), "multipart/form-data", 400, "bad_form"), (b"{}", "application/json", 415, "bad_form"),
        (b"", KIND["content-type"], 400, "bad_form"), (form(b"one")[:-20], KIND["content-type"], 400, "bad_form"),
        (part("model", b"x") + END, KIND["content-type"], 400, "missing_file"),
        (2 * part("file", b"one") + END, KIND["content-type"], 400, "bad_form"),
        (part("file", b"one") + part("other", b"x", '; filename="b"') + END, KIND["content-type"], 400, "bad_form"),
        (10_000 * part("a", b"") + END, KIND["content-type"], 400, "too_many_parts"),
        (part("a", 70_000 * b"x") + part("file", b"one") + END, KIND["content-type"], 413, "too_large"),
        (part("a", b"\xff") + part("file", b"one") + END, KIND["content-type"], 400, "bad_form"),
        (part("", b"one") + END, KIND["content-type"], 400, "bad_form"),
        (f"--{BOUNDARY}\r\n{'X: y' + chr(13) + chr(10)}".encode() * 20 + END, KIND["content-type"], 400, "bad_form"),
        (f"--{BOUNDARY}\r\nX: {'y' * 9000}\r\n\r\n".encode() + END, KIND["content-type"], 400, "bad_form"),
        (form(b"one"), "multipart/form-data; boundary=" + 300 * "b", 400, "bad_form"),
        (form(100_001 * b"x"), KIND["content-type"], 413, "too_large"),
        (form(9_000_000 * b"x"), KIND["content-type"], 413, "too_large"),
    ],
)  # fmt: skip
def test_forms_that_are_none(served: Served, body: bytes, kind: str, status: int, code: str) -> None:
    found = served.ask("POST", UPLOAD, body, {"content-type": kind})
    assert (found.status, found.code) == (status, code)


@pytest.mark.parametrize("name", ["../../x", "/etc/passwd", "a\0b", "\\\\host\\x", "x" * 3000, 'q"uote'])
def test_the_name_of_a_file_is_nobodys_business(served: Served, folder: Path, name: str) -> None:
    body = part("file", b"!upload", f'; filename="{name}"') + END
    found = served.ask("POST", UPLOAD, body, KIND)
    told = dict(ast.literal_eval(found.json()["text"]))
    assert Path(str(told["path"])).parent == folder and Path(str(told["path"])).name.startswith("speechmtp-upload-")


class _Pieces:
    """A body in pieces."""

    def __init__(self, data: bytes, cuts: list[int]) -> None:
        edges = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
        self._pieces = [data[start:end] for start, end in pairwise(edges)]

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for one in self._pieces:
            yield one


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=40), st.text(max_size=10), st.lists(st.integers(0, 1000), max_size=12))
def test_forms_do_not_depend_on_their_pieces(served: Served, content: bytes, value: str, cuts: list[int]) -> None:
    content = content.replace(b"--", b"-") + b"\r\n--b0undar\r\n-"
    body = form(content, model=value, prompt="x")
    request = Request("POST", UPLOAD, {}, [("content-type", KIND["content-type"])], "", _Pieces(body, cuts))

    async def read() -> tuple[dict[str, object], bytes]:
        async with spooled(1000) as spool:
            fields = await read_form(request, spool, Limits())
            return dict(fields), Path(spool.path).read_bytes()

    assert served.call(read()) == ({"model": [value], "prompt": ["x"]}, content)


def test_a_disk_without_room(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("speechmtp.server.http.form.os.write", full)
        found = served.upload(b"one")
    assert (found.status, found.code) == (507, "no_room")


# The process


def test_a_file_that_cannot_be_read_is_refused(served: Served) -> None:
    for fields in ({}, {"stream": "true"}):
        found = served.upload(b"!refuse unreadable", **fields)
        assert (found.status, found.code) == (400, "invalid_audio")
        assert found.json()["error"]["message"] == "file: unreadable"
    late = events(served.upload(b"one\n!refuse damaged", stream="true").body)
    assert late[-1]["error"]["message"] == "file: damaged"  # type: ignore[index]


def test_a_crash_takes_what_runs_and_nothing_else(served: Served) -> None:
    served.upload(b"one")
    before = served.site.transcribing.pid
    streamed: list[bytes] = []
    other = threading.Thread(target=lambda: streamed.append(served.upload(b"one\n!wait 9", stream="true").body))
    other.start()
    time.sleep(0.2)
    crashed = served.upload(b"!crash")
    other.join()
    assert (crashed.status, crashed.code) == (500, "transcription_failed")
    assert events(streamed[0])[-1]["error"]["type"] == "server_error"  # type: ignore[index]
    assert served.upload(b"one").json()["text"] == "one"
    assert served.site.transcribing.pid not in (before, None)
    assert b"speechmtp_transcriber_restarts_total 1.0" in served.ask("GET", "/metrics").body


def test_a_process_that_gives_no_sign_is_killed(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("speechmtp.server.transcribing.SILENCE", 0.6)
    served.upload(b"one")
    pid = served.site.transcribing.pid
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    assert served.upload(b"one").status == 500
    assert served.upload(b"one").status == 200


def test_a_client_that_goes_away_ends_its_upload(served: Served) -> None:
    served.upload(b"one")
    before = int(served.site.transcribing._numbers)
    body = form(b"!wait 30")
    with served.connected() as sock:
        head = f"POST {UPLOAD} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\nContent-Type: "
        sock.sendall(f"{head}{KIND['content-type']}\r\n\r\n".encode() + body)
        while served.site.transcribing._numbers == before:
            time.sleep(0.01)
    assert served.idle()
    assert str(before + 1) in served.upload(b"!closed").json()["text"]


def test_no_more_uploads_at_once_than_there_is_room_for(served: Served) -> None:
    running = [threading.Thread(target=served.upload, args=(b"!wait 0.5",)) for _ in range(3)]
    for one in running:
        one.start()
    while served.site.transcribing.active < 3:
        time.sleep(0.01)
    found = served.upload(b"one")
    assert (found.status, found.code) == (503, "too_many_uploads") and int(found.headers["retry-after"]) > 0
    for one in running:
        one.join()
    assert served.upload(b"one").status == 200


def test_a_server_that_stops_finishes_its_uploads() -> None:
    with serving() as served:
        answers: list[int] = []
        sender = threading.Thread(target=lambda: answers.append(served.upload(b"!wait 0.3\none").status))
        sender.start()
        while not served.site.transcribing._waiting:
            time.sleep(0.01)
        draining = asyncio.run_coroutine_threadsafe(served.site.drain(9.0), served.loop)
        while served.site.transcribing.active and not served.site.transcribing._stopping:
            time.sleep(0.01)
        found = served.upload(b"one")
        assert (found.status, found.code) == (503, "stopping") and served.healthy()
        draining.result(5.0)
        sender.join()
        assert answers == [200]
    with serving() as served:
        sender = threading.Thread(target=lambda: served.upload(b"!wait 9"))
        sender.start()
        while not served.site.transcribing._waiting:
            time.sleep(0.01)
        served.call(served.site.drain(0.1))
        served.call(served.site.transcribing.stop())
        assert served.idle()
        sender.join()


def test_a_client_that_leaves_while_the_process_starts() -> None:
    with serving() as served:

        async def leave() -> None:
            task = asyncio.ensure_future(anext(served.site.transcribing.transcribe(Upload("x", "default"))))
            await asyncio.sleep(0)
            task.cancel()
            await asyncio.wait([task])

        served.call(leave())
        assert served.upload(b"one").json()["text"] == "one"
        assert served.site.transcribing._numbers == 1
        served.call(served.site.transcribing.stop())
        assert served.upload(b"one").code == "stopping"


def test_a_process_that_cannot_be_started() -> None:
    with serving(command=["/nowhere/python"]) as served:
        assert served.upload(b"one").status == 500
        assert served.idle() and served.healthy()


def test_a_slot_is_only_taken_once() -> None:
    with serving(uploads=1) as served:
        with served.site.transcribing.slot(), pytest.raises(Refused), served.site.transcribing.slot():
            pass
        assert served.site.transcribing.active == 0
