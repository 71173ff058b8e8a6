"""Every kind of audio that users hand over is the same samples, and what is none of them is refused in one line."""

import io
import os
import sys
import threading
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from speechmtp.audio.inputs import input_name, read_input
from speechmtp.audio.io import resample
from speechmtp.errors import ConfigError, DataError

RATE = 16000


def stereo(rate: int = RATE) -> np.ndarray:
    """16-bit samples [N, 2] that a WAV file keeps as they are."""
    noise = np.random.default_rng(0).normal(0, 3000, (rate // 2, 2))
    return noise.astype(np.int16)


@pytest.fixture
def expected() -> np.ndarray:
    return (stereo() / 32768).astype(np.float32).mean(1)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    soundfile.write(tmp_path / "a.wav", stereo(), RATE)
    return tmp_path / "a.wav"


class Unseekable(io.RawIOBase):
    """A stream as of a socket."""

    def __init__(self, data: bytes) -> None:
        self.left = data

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        size = min(len(buffer), len(self.left), 1000)
        buffer[:size], self.left = self.left[:size], self.left[size:]
        return size


def test_files_by_path_stream_and_bytes(path: Path, expected: np.ndarray) -> None:
    data = path.read_bytes()
    with path.open("rb") as file:
        for audio in (
            path, str(path), file, io.BytesIO(data), Unseekable(data), data, bytearray(data), memoryview(data),
        ):  # fmt: skip
            found = read_input(audio, RATE)
            assert found.dtype == np.float32 and np.array_equal(found, expected), type(audio)
        assert not file.closed


@pytest.mark.parametrize("kind", ["flac", "ogg", "mp3", "aiff"])
def test_files_of_every_format_as_streams(tmp_path: Path, kind: str) -> None:
    soundfile.write(tmp_path / f"a.{kind}", stereo(), RATE)
    data = (tmp_path / f"a.{kind}").read_bytes()
    assert np.array_equal(read_input(io.BytesIO(data), 8000), read_input(tmp_path / f"a.{kind}", 8000))


def test_a_stream_is_read_from_where_it_stands(path: Path, expected: np.ndarray) -> None:
    file = io.BytesIO(b"header" + path.read_bytes())
    file.seek(6)
    assert np.array_equal(read_input(file, RATE), expected)
    with pytest.raises(DataError, match=r"stream: no bytes .*; seek\(0\)"):
        read_input(file, RATE)


def test_pipes_and_standard_input(
    path: Path, expected: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = path.read_bytes()
    unknown = b"\xff\xff\xff\xff"  # lengths as ffmpeg writes them into a pipe
    streamed = data[:4] + unknown + data[8:40] + unknown + data[44:]
    os.mkfifo(tmp_path / "pipe")
    writer = threading.Thread(target=(tmp_path / "pipe").write_bytes, args=(streamed,))
    writer.start()
    assert np.array_equal(read_input(tmp_path / "pipe", RATE), expected)
    writer.join()
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BufferedReader(Unseekable(streamed))))
    with pytest.raises(DataError, match="opened as text, expected a binary file; open it with 'rb'"):
        read_input(sys.stdin, RATE)  # type: ignore[arg-type]
    assert np.array_equal(read_input(sys.stdin.buffer, RATE), expected)
    with pytest.raises(DataError, match=r"pipe: no bytes .*; nothing was written to it"):
        read_input(Unseekable(b""), RATE, name="pipe")
    with pytest.raises(DataError, match=r"bytes: 0\.30 s of audio, 0\.50 s expected by its header; .* cut short"):
        read_input(data[: 44 + 19200], RATE)


def test_arrays_lists_and_tensors_of_every_type(expected: np.ndarray) -> None:
    integers = stereo()
    floats = integers / 32768
    tensor = torch.from_numpy(floats.T.copy())
    for audio in (
        integers, floats, floats.astype(np.float32), integers.astype(np.int32) << 16, floats.tolist(),
        tensor, tensor.float(), tensor.clone().requires_grad_(), torch.from_numpy(integers.T.copy()), tensor.mT.mT,
        Series(floats),
    ):  # fmt: skip
        found = read_input(audio, RATE, RATE)  # type: ignore[arg-type]
        assert found.dtype == np.float32 and np.array_equal(found, expected), type(audio)
    one = floats[:, 0].astype(np.float32)
    for audio in (one, one.tolist(), torch.from_numpy(one), torch.from_numpy(one)[None], one[:, None], one[::-1][::-1]):
        assert np.array_equal(read_input(audio, RATE, RATE), one)
    assert read_input(tensor.bfloat16(), RATE, RATE) == pytest.approx(expected, abs=1e-3)
    assert read_input(floats.astype(np.float16), RATE, RATE) == pytest.approx(expected, abs=1e-3)
    assert len(read_input([], RATE, RATE)) == 0


class Series:
    """What other libraries have: something that becomes an array."""

    def __init__(self, values: np.ndarray) -> None:
        self.values = values

    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
        return self.values


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_tensors_on_a_gpu(expected: np.ndarray) -> None:
    assert np.array_equal(read_input(torch.from_numpy(stereo().T.copy()).cuda(), RATE, RATE), expected)


def test_integers_are_samples_of_their_type_unsigned_ones_around_its_middle() -> None:
    def read(*values: int, kind: Any) -> list[float]:
        return list(read_input(np.array(values, kind), RATE, RATE))

    assert read(0, 128, 255, kind=np.uint8) == [-1, 0, 127 / 128]
    assert read(-(2**15), 0, 2**14, kind=np.int16) == [-1, 0, 0.5]
    assert read(0, 2**31, kind=np.uint32) == [-1, 0]
    assert read(0, 1, -1, kind=np.int64) == [0, 1, -1], "numbers without a range of their own"


def test_pairs_in_either_order(expected: np.ndarray, path: Path) -> None:
    data, rate = soundfile.read(path, dtype="float32")
    assert isinstance(rate, int)
    tensor = torch.from_numpy(data.T.copy())
    for pair in ((data, rate), (rate, stereo()), (tensor, rate), (data.tolist(), float(rate)), (data, np.int64(rate)),
                 (np.float64(rate), data), (data, torch.tensor(rate))):  # fmt: skip
        assert np.array_equal(read_input(pair, RATE), expected)
    assert np.array_equal(read_input((data, rate), RATE, RATE), expected)
    assert np.array_equal(read_input((data, 8000), RATE), resample(expected, 8000, RATE))
    with pytest.raises(ConfigError, match="16000 Hz beside its samples and rate=8000; give one"):
        read_input((data, rate), RATE, 8000)


def test_dicts_as_datasets_have_them(expected: np.ndarray, path: Path) -> None:
    data, rate = soundfile.read(path, dtype="float32")
    assert np.array_equal(read_input({"path": str(path), "array": data, "sampling_rate": rate}, RATE), expected)
    with pytest.raises(ConfigError, match="16000 Hz beside its samples and rate=8000; give one"):
        read_input({"array": data, "sampling_rate": rate}, RATE, 8000)


def test_a_rate_beside_a_file_is_its_own(expected: np.ndarray, path: Path) -> None:
    for audio in (path, str(path), path.read_bytes(), io.BytesIO(path.read_bytes())):
        with pytest.raises(ConfigError, match=r": 16000 Hz in the file and rate=8000; leave rate out") as caught:
            read_input(audio, RATE, 8000)
        assert "\n" not in str(caught.value)
    assert np.array_equal(read_input(path, RATE, 16000.0), expected)
    with pytest.raises(ConfigError, match="expected a number of Hz"):
        read_input(path, RATE, 0)


def test_rates_of_samples(expected: np.ndarray) -> None:
    assert np.array_equal(read_input(expected, RATE, 22050.0), resample(expected, 22050, RATE))
    with pytest.raises(ConfigError, match="audio: samples need their rate in Hz; give rate=16000 or what it is"):
        read_input(expected, RATE)
    absurd: list[Any] = [0, -1, 999, 1_000_001, 10**400, float("nan"), float("inf"), True, 1j, "16000", Fraction(1, 2)]
    for rate in absurd:
        given: list[tuple[Any, Any]] = [(expected, rate), ((expected, 16000), rate),
                                        ({"array": expected, "sampling_rate": rate}, None)]  # fmt: skip
        if not isinstance(rate, str):
            given.append(((expected, rate), None))
        for audio, beside in given:
            with pytest.raises(ConfigError, match=r"^audio: rate=.{,40}, expected a number of Hz") as caught:
                read_input(audio, RATE, beside)
            assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("audio", "message"),
    [
        (None, "a NoneType, expected a path, a binary file, bytes of a file, an array, tensor or list"),
        ({"array": [0.0]}, "a dict, expected"),
        (np.float32(1), r"array of shape \(\), expected"),
        (np.zeros((2, 100)), r"array of shape \(2, 100\), expected \[N\] or \[N, channels\]"),
        (np.zeros((4, 2, 2)), "array of shape"),
        (torch.zeros(100, 2), r"tensor of shape \[100, 2\], expected \[N\] or \[channels, N\]"),
        (torch.zeros(100, device="meta"), "a tensor without samples"),
        (torch.zeros(100).to_sparse(), "a tensor without samples"),
        (torch.zeros(100, dtype=torch.complex64), "samples of type complex64"),
        (np.zeros(100, bool), "samples of type bool"),
        (np.array(["a", "b"]), "samples of type <U1"),
        (["a.wav", "b.wav"], "a list of str, expected numbers; several recordings go to transcribe_many"),
        ([np.zeros(100), np.zeros(100)], "a list of ndarray, expected numbers; several"),
        ([[0.0, 0.1], [0.2]], "lists of several lengths"),
        ([0, 300, -300], "int64 samples, whose range is unknown; give int16, int32 or floats"),
        (np.array([0, 2**40]), "int64 samples, whose range is unknown"),
        (np.array([0.0, -20000.0]), r"samples up to 20000, expected floats in \[-1, 1\]; divide by 32768"),
        ((0.1, 0.2), r"a tuple of 2 \(float, float\), expected \(samples, rate\)"),
        ((0.1, 0.2, 0.3), "a tuple of 3"),
        (("a.wav", 16000), r"a tuple of 2 \(str, int\)"),
        ((None, 16000), "a NoneType, expected"),
        (b"", "bytes: no bytes"),
        (b"\0" * 3200, "bytes: unreadable .*; raw samples go in as an array with their rate"),
        (io.StringIO("RIFF"), "stream: opened as text"),
        (Path("missing.wav"), "missing.wav: no such file"),
        ("file://missing.wav", "file://missing.wav: no such file"),
        (".", r"\.: not a file"),
    ],
)
def test_what_is_refused(audio: Any, message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        read_input(audio, RATE, 16000 if not isinstance(audio, tuple) else None)
    assert "\n" not in str(caught.value)


def test_a_closed_file_and_one_that_gives_no_bytes(path: Path) -> None:
    with path.open("rb") as file:
        pass
    with pytest.raises(DataError, match=r"a\.wav: unreadable \(.*closed.*\), expected an open binary file"):
        read_input(file, RATE)

    class Wrong:
        def read(self) -> None:
            return None

    with pytest.raises(DataError, match=r"stream: read\(\) gives NoneType, expected bytes"):
        read_input(Wrong(), RATE)  # type: ignore[arg-type]


def test_names_in_errors(path: Path) -> None:
    with path.open("rb") as file:
        assert input_name(path) == input_name(file) == str(path)
    assert [input_name(one) for one in (b"", io.BytesIO(), np.zeros(1))] == ["bytes", "stream", "audio"]
    with pytest.raises(DataError, match="take 3: array of shape"):
        read_input(np.zeros((2, 9)), RATE, RATE, "take 3")
