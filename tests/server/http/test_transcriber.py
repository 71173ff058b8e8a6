"""The process that transcribes uploads, with the embedded model: the same text as in Python, short files before long
ones, and files that are none."""

import io
import json
import random
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile
from http_runs import BOUNDARY, Served, form, quick, serving
from media_files import written

import speechmtp
from speechmtp.api import Recogniser
from speechmtp.audio.io import read_audio
from speechmtp.server.config import Limits
from speechmtp.server.transcribing import Transcribing

EXAMPLES = ("reading", "digits", "date")


@pytest.fixture(scope="module")
def recogniser() -> Recogniser:
    return speechmtp.load("default", device="cpu")


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    ours = Transcribing([("default", "default")], "cpu", Limits(upload_seconds=200.0))._command
    assert ours[1:3] == ["-m", "speechmtp.server.transcriber"]
    with quick(), serving(command=[*ours, "--nice", "0"]) as one:  # beside other tests it would get no time
        one.site.transcribing.on_loss = lambda: pytest.fail("the process was lost")
        yield one


@pytest.fixture(scope="module")
def long_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty seconds of speech in two channels at 22,050 Hz: several parts."""
    samples, _ = read_audio(speechmtp.example("reading"), rate=22050)
    path = tmp_path_factory.mktemp("long") / "long.flac"
    joined = np.tile(np.concatenate([samples, np.zeros(4000, np.float32)]), 5)
    soundfile.write(path, np.stack([joined, 0.9 * joined], 1), 22050)
    return path


def wav(samples: np.ndarray, rate: int = 16000, **more: str) -> bytes:
    """The bytes of a WAV file."""
    file = io.BytesIO()
    soundfile.write(file, samples, rate, format="WAV", **more)
    return file.getvalue()


def test_the_text_is_that_of_python(served: Served, recogniser: Recogniser, long_file: Path) -> None:
    for path in (*map(speechmtp.example, EXAMPLES), long_file):
        expected = recogniser.transcribe(path, words=True, jobs=1)
        found = served.upload(path.read_bytes(), response_format="verbose_json",
                              timestamp_granularities=["word", "segment"]).json()  # fmt: skip
        assert found["text"] == expected.text
        assert [one["text"] for one in found["segments"]] == [one.text for one in expected.segments]
        for one, other in zip(found["segments"], expected.segments):
            assert (one["start"], one["end"]) == pytest.approx((other.start, other.end), abs=0.001)
            assert one["avg_logprob"] == pytest.approx(other.mean_logprob, abs=1e-4)
            assert 0 < one["no_speech_prob"] < 0.7 and other.tokens[: len(one["tokens"])] == tuple(one["tokens"])
        assert [one["word"] for one in found["words"]] == [one.text for one in expected.words]
        times = np.array([(one["start"], one["end"]) for one in found["words"]])
        assert np.abs(times - [(one.start, one.end) for one in expected.words]).max() < 0.001
        assert found["duration"] == pytest.approx(expected.audio_seconds, abs=0.001)
    assert len(expected.segments) > 6
    streamed = served.upload(long_file.read_bytes(), stream="true", include=["logprobs"])
    events = [json.loads(line[6:]) for line in streamed.body.split(b"\n\n") if line.startswith(b"data: {")]
    assert len(events) == 3 and "".join(one["delta"] for one in events[:-1]) == expected.text
    assert "".join(one["token"] for one in events[-1]["logprobs"]) == expected.text


def test_a_short_file_passes_a_long_one(served: Served, long_file: Path) -> None:
    done: list[str] = []

    def send(name: str, content: bytes) -> None:
        assert served.upload(content).status == 200
        done.append(name)

    long = threading.Thread(target=send, args=("long", long_file.read_bytes()))
    long.start()
    while not served.site.transcribing._waiting:
        time.sleep(0.005)
    send("short", speechmtp.example("digits").read_bytes())
    long.join()
    assert done == ["short", "long"]


def test_files_that_are_none(served: Served, long_file: Path, tmp_path: Path) -> None:
    """Each is refused in one line, and the process lives."""
    flac = speechmtp.example("reading").read_bytes()
    mp3 = io.BytesIO()
    soundfile.write(mp3, np.random.default_rng(0).normal(0, 0.1, 48000), 16000, format="MP3")
    noise = np.random.default_rng(0).normal(0, 0.1, 4000)
    wave = wav(noise)
    cases = {
        b"": "no bytes", b"root:x:0:0:root:/root:/bin/bash\n" * 99: "no audio that is read here",
        b"RIFF\xff\xff\xff\xffWAVE" + b"text" * 99: "file:", flac[:9000]: "file:", mp3.getvalue()[:4000]: "cut short",
        wave[:2000]: "cut short", wav(np.zeros((4000, 9))): "9 channels", wav(noise, 96000): "96000 Hz",
        wav(np.zeros(16)): "too short", wav(np.zeros(8000 * 250, np.int16), 8000): "expected at most 200 s",
        wav(np.full(999, np.nan), subtype="FLOAT"): "not finite", b"\0\0\0\x18ftypmp42" + b"x" * 999: "file:",
        b"\x1aE\xdf\xa3" + b"x" * 999: "file:", b"OggS" + b"\0" * 999: "file:",
        b"#!/bin/sh\nexit": "no audio that is read",
        b"#EXTM3U\n#EXTINF:1,\nhttp://127.0.0.1/x\n": "no audio that is read", b"fLaC" + b"\xff" * 999: "file:",
    }  # fmt: skip
    for content, about in cases.items():
        found = served.upload(content)
        assert (found.status, found.code) == (400, "invalid_audio"), content[:40]
        message = found.json()["error"]["message"]
        assert about in message and "\n" not in message and "/tmp" not in message, message
    pid = served.site.transcribing.pid
    assert served.upload(flac).status == 200 and served.site.transcribing.pid == pid


def test_a_bomb_is_refused_before_it_is_decoded(served: Served, tmp_path: Path) -> None:
    """An hour of silence in a few kilobytes."""
    path = tmp_path / "bomb.flac"
    with soundfile.SoundFile(path, "w", 48000, 2, "PCM_16") as file:
        for _ in range(36):
            file.write(np.zeros((480000, 2), np.int16))
    began = time.monotonic()
    found = served.upload(path.read_bytes())
    assert found.status == 400 and "360 s of audio" in found.json()["error"]["message"]
    assert time.monotonic() - began < 2.0


def test_silence_has_no_text(served: Served) -> None:
    found = served.upload(wav(np.zeros(16000 * 3)), response_format="verbose_json").json()
    assert found["text"] == "" and found["segments"][0]["no_speech_prob"] > 0.9
    assert served.upload(wav(np.zeros(16000 * 3)), response_format="srt").body == b""


def test_raw_samples(served: Served, recogniser: Recogniser) -> None:
    samples, rate = read_audio(speechmtp.example("reading"))
    raw = (samples * 32767).astype("<i2").tobytes()
    found = served.ask("POST", f"/v1/listen?encoding=linear16&sample_rate={rate}&punctuate=true", raw).json()
    assert (
        found["results"]["channels"][0]["alternatives"][0]["transcript"]
        == recogniser.transcribe(samples, rate, jobs=1).text
    )


def test_a_client_that_leaves_ends_the_work(served: Served, long_file: Path) -> None:
    body = form(long_file.read_bytes())
    with served.connected() as sock:
        head = f"POST /v1/audio/transcriptions HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n"
        sock.sendall(f"{head}Content-Type: multipart/form-data; boundary={BOUNDARY}\r\n\r\n".encode() + body)
        while not served.site.transcribing._waiting:
            time.sleep(0.005)
    assert served.idle()
    deadline = time.monotonic() + 5
    while served.site.transcribing._pulse.uploads and time.monotonic() < deadline:
        time.sleep(0.05)
    assert served.site.transcribing._pulse.uploads == 0


def damaged(chance: random.Random, whole: bytes) -> bytes:
    """A file with some bytes changed, left out or doubled, or with its end missing."""
    data = bytearray(whole)
    for _ in range(chance.randrange(1, 8)):
        place = chance.randrange(min(len(data), chance.choice([64, 512, len(data)])))
        span = slice(place, place + chance.choice([1, 2, 4, 64, 2000]))
        data[span] = chance.choice(
            [b"", bytes(data[span]) * 2, chance.randbytes(len(data[span])), b"\xff" * 4, b"\0" * 4]
        )
        if len(data) < 2:
            break
    return bytes(data[: chance.randrange(len(data))] if chance.random() < 0.2 and data else data)


def damaged_files(served: Served, folder: Path, count: int, seed: int) -> None:
    chance, wholes = random.Random(seed), list[bytes]()
    samples, _ = read_audio(speechmtp.example("digits"))
    for name in ("a.wav", "a.flac", "a.mp3", "a.ogg", "a.aiff", "a.opus"):
        kind = {"format": "OGG", "subtype": "OPUS"} if name == "a.opus" else {}
        soundfile.write(folder / name, samples, 16000, **kind)
        wholes.append((folder / name).read_bytes())
    wholes += [written("mp4", "aac"), written("webm", "libopus")]
    for _ in range(count):
        content = damaged(chance, chance.choice(wholes))
        found = served.upload(content)
        assert found.status in (200, 400), (found.body, content[:64])
        assert found.status == 200 or (found.code == "invalid_audio" and b"\\n" not in found.body), found.body


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
def test_damaged_files(served: Served, tmp_path: Path, seed: int) -> None:
    """Each has a transcript or a refusal, and the process lives."""
    damaged_files(served, tmp_path, 250, seed)
