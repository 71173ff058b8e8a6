"""Audio that arrives in a pipe: the samples are those of the file read whole, they come at once, errors in a line."""

import io
import os
import shutil
import struct
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from container_files import RATE, put, sound, written

from speechmtp.audio.inputs import read_input
from speechmtp.audio.live import open_live
from speechmtp.audio.raw import ENCODINGS, RawAudio
from speechmtp.errors import AudioWarning, ConfigError, DataError

needs_ffmpeg = pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="ffmpeg is not installed")
SUBTYPES = {"PCM_U8": "u8", "PCM_16": "s16", "PCM_24": "s24", "PCM_32": "s32", "FLOAT": "f32", "DOUBLE": "f64"}


class Arriving(io.RawIOBase):
    """A pipe in which the bytes come in pieces of certain sizes."""

    def __init__(self, data: bytes, sizes: list[int] | None = None) -> None:
        self.left, self.sizes, self.count = data, sizes or [1000], 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        size = min(len(buffer), len(self.left), self.sizes[self.count % len(self.sizes)])
        self.count += 1
        buffer[:size], self.left = self.left[:size], self.left[size:]
        return size


def heard(data: bytes, sizes: list[int] | None = None, rate: int = RATE, raw: RawAudio | None = None) -> np.ndarray:
    """The blocks joined of what arrives."""
    blocks = list(open_live(Arriving(data, sizes), rate, raw, name="pipe"))
    assert all(block.dtype == np.float32 and 0 < len(block) <= rate / 10 for block in blocks)
    return np.concatenate([np.zeros(0, np.float32), *blocks])


@pytest.mark.parametrize("endian", ["LITTLE", "BIG"])
@pytest.mark.parametrize("subtype", SUBTYPES)
def test_wav_files_are_heard_as_read_whole(subtype: str, endian: str) -> None:
    audio = np.stack([sound(0.7), 0.3 * sound(0.7)[::-1]], 1)
    data = written(audio, "WAVEX" if subtype == "PCM_24" and endian == "LITTLE" else "WAV", subtype, endian=endian)
    for rate in (RATE, 11025):
        expected = read_input(data, rate)
        for sizes in ([1 << 16], [700, 1, 13]):
            assert np.array_equal(heard(data, sizes, rate), expected)


def test_every_encoding_can_be_raw() -> None:
    audio = sound(0.3)
    for subtype, encoding in SUBTYPES.items():
        for order, endian in (("le", "LITTLE"), ("be", "BIG")):
            data = written(audio, "WAV", subtype, endian=endian)
            name = encoding if encoding == "u8" else encoding + order
            samples = data[data.index(b"data") + 8 :]
            assert np.array_equal(heard(samples, [977], raw=RawAudio(RATE, name)), read_input(data, RATE)), name
            assert name in ENCODINGS
    assert len(heard(b"\1\2\3\4\5" * 2, raw=RawAudio(RATE, "s16le", 2))) == 2, "what is no whole frame is left out"


@pytest.mark.parametrize("length", [0, 0xFFFFFFFF, 0x7FFFF000, 0x80000000, 0xFFFFFFDB])
def test_headers_that_do_not_tell_the_length(length: int) -> None:
    data = written(sound(0.5), "WAV")
    assert np.array_equal(heard(put(data, 40, struct.pack("<I", length)), [1, 50]), read_input(data, RATE))


def test_long_headers_and_what_is_behind_the_samples() -> None:
    data = written(sound(0.5), "WAV")
    more = data[:36] + b"LIST" + struct.pack("<I", 5000) + bytes(5000) + data[36:] + b"LIST\4\0\0\0abcd"
    assert np.array_equal(heard(more, [333]), read_input(data, RATE))
    rf64 = written(sound(0.5), "RF64")
    assert np.array_equal(heard(rf64), read_input(rf64, RATE))


def test_a_cut_file_is_an_error_behind_its_blocks() -> None:
    data = written(sound(2.0), "WAV")
    blocks: list[np.ndarray] = []
    with pytest.raises(DataError, match=r"^pipe: 1\.00 s of audio, 2\.00 s expected by its header; the file is cut"):
        blocks.extend(open_live(Arriving(data[: 44 + 2 * RATE]), RATE, name="pipe"))
    assert sum(map(len, blocks)) == RATE
    with pytest.raises(DataError, match=r"^pipe: 30 bytes of a WAV file without samples, expected audio; copy"):
        heard(data[:30])


def test_samples_are_given_as_soon_as_they_are_there() -> None:
    data = written(sound(3.0, 8000), "WAV", rate=8000)
    end, begin = os.pipe()
    with os.fdopen(end, "rb") as file:
        blocks = open_live(file, RATE)
        os.write(begin, data[: 44 + 2 * 2400])
        count = 0
        while count < 0.5 * 2 * 2400:  # would wait for ever if more bytes were asked
            count += len(next(blocks))
        os.write(begin, data[44 + 2 * 2400 : 44 + 2 * 4800])
        count += len(next(blocks))
        assert count > 0.5 * 2 * 2400
        os.write(begin, data[44 + 2 * 4800 :])
        os.close(begin)
        rest = np.concatenate(list(blocks))
    assert count + len(rest) == 3 * RATE


def test_files_and_named_pipes(tmp_path: Path) -> None:
    data = written(np.stack([sound(1.0), sound(1.0)], 1), "FLAC")
    (tmp_path / "a.flac").write_bytes(data)
    blocks = list(open_live(tmp_path / "a.flac", 8000))
    assert np.array_equal(np.concatenate(blocks), read_input(data, 8000)) and max(map(len, blocks)) <= 800
    with pytest.raises(DataError, match=r"none\.wav: no such file, expected audio; check the path"):
        next(open_live(tmp_path / "none.wav", RATE))
    with pytest.raises(DataError, match=r": unreadable \(Is a directory\), expected audio; check the path"):
        next(open_live(tmp_path, RATE))
    os.mkfifo(tmp_path / "pipe")
    wav = written(sound(0.5), "WAV")
    writer = threading.Thread(target=(tmp_path / "pipe").write_bytes, args=(wav,))
    writer.start()
    assert np.array_equal(np.concatenate(list(open_live(str(tmp_path / "pipe"), RATE))), read_input(wav, RATE))
    writer.join()
    (tmp_path / "a.raw").write_bytes(wav[44:])
    found = np.concatenate(list(open_live(tmp_path / "a.raw", RATE, RawAudio(RATE))))
    assert np.array_equal(found, read_input(wav, RATE))


def test_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    data = written(sound(0.5), "WAV")
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BufferedReader(Arriving(data))))
    assert np.array_equal(np.concatenate(list(open_live("-", RATE))), read_input(data, RATE))
    with pytest.raises(DataError, match="opened as text, expected a binary file; open it with 'rb'"):
        next(open_live(sys.stdin, RATE))  # type: ignore[arg-type]


def test_channels_that_cancel_are_told_once_there_is_enough_of_them() -> None:
    left = sound(2.0)
    data = written(np.stack([left, -0.9 * left], 1), "WAV", "FLOAT")
    with pytest.warns(AudioWarning, match=r"^pipe: its 2 channels cancel each other in .* channel 0") as caught:
        found = heard(data)
    assert len(caught) == 1 and np.array_equal(found[RATE:], left[RATE:])
    with pytest.warns(AudioWarning):
        assert np.array_equal(heard(data, [1, 9999]), found)


@pytest.mark.parametrize(("value", "message"), [
    (np.nan, "samples that are not finite, expected numbers; check what writes them"),
    (900.0, r"samples up to 900, expected floats in \[-1, 1\]; divide by 32768"),
])  # fmt: skip
def test_floats_that_are_no_samples(value: float, message: str) -> None:
    audio = sound(0.5)
    audio[7000] = value
    with pytest.raises(DataError, match=f"^pipe: {message}"):
        heard(written(audio, "WAV", "FLOAT"))


def test_raw_audio_that_is_none() -> None:
    for given, message in (((0,), "rate: 0 Hz, expected 1000 to"), ((8000, "mp3"), "encoding: 'mp3', expected one of"),
                           ((8000, "u8", 0), "channels: 0, expected 1 to")):  # fmt: skip
        with pytest.raises(ConfigError, match=f"^{message}"):
            RawAudio(*given)
    with pytest.raises(ConfigError, match=r"^pipe: a WAV file, whose header tells rate and encoding; leave"):
        heard(written(sound(0.1), "WAV"), raw=RawAudio(RATE))
    with pytest.raises(DataError, match=r"^pipe: no bytes, expected audio; nothing was written to it"):
        heard(b"", raw=RawAudio(RATE))


def test_other_formats_need_ffmpeg(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("speechmtp.audio.live.shutil.which", lambda program: None)
    for kind, subtype in (("FLAC", None), ("WAV", "ULAW")):
        with pytest.raises(DataError, match=r"^pipe: no WAV file, expected one; install ffmpeg, .*raw samples$"):
            heard(written(sound(0.2), kind, subtype))


@needs_ffmpeg
def test_other_formats_are_heard_through_ffmpeg() -> None:
    for kind, subtype in (("FLAC", None), ("WAV", "ULAW")):
        data = written(sound(3.0), kind, subtype)
        assert np.array_equal(heard(data), read_input(data, RATE))
    with pytest.raises(DataError, match=r"^pipe: unreadable \(ffmpeg: .*\), expected audio that can be read from a"):
        heard(b"no audio at all " * 1000)


@needs_ffmpeg
def test_a_run_that_is_given_up_ends_ffmpeg(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[Any] = []
    popen: Callable[..., Any] = __import__("subprocess").Popen

    def start(*args: Any, **kwargs: Any) -> Any:
        started.append(popen(*args, **kwargs))
        return started[-1]

    done, pieces = threading.Event(), [written(sound(10.0), "FLAC")]

    class Endless(io.RawIOBase):
        def read(self, size: int = -1) -> bytes:
            if not pieces:
                done.wait(60)
            return pieces.pop() if pieces else b""

    monkeypatch.setattr("speechmtp.audio.live.subprocess.Popen", start)
    blocks = open_live(Endless(), RATE)  # type: ignore[arg-type]
    assert len(next(blocks)) > 0, "before the stream ends"
    blocks.close()  # type: ignore[attr-defined]
    assert started[0].poll() is not None
    done.set()
