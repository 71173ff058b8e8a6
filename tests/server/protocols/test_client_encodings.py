"""Bytes of clients: the same samples however they are cut, headers of WAV files skipped, and nothing guessed."""

import io
import struct
from itertools import pairwise

import numpy as np
import pytest
import soundfile as sf
from hypothesis import given, settings
from hypothesis import strategies as st

from speechmtp.errors import DataError
from speechmtp.server.protocols.encodings import ENCODINGS, LONGEST_HEADER, SampleReader, read_base64, to_int16


def read(encoding: str, data: bytes, cuts: list[int], rate: float = 16000.0) -> tuple[np.ndarray, float]:
    """All samples of a stream that is cut there, and their rate."""
    reader, edges = SampleReader(encoding, rate), [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    found = [reader.push(data[a:b]) for a, b in pairwise(edges)]
    return np.concatenate([*found, reader.settle()]), reader.rate


def wav(samples: np.ndarray, rate: int, subtype: str) -> bytes:
    """A WAV file."""
    file = io.BytesIO()
    sf.write(file, samples, rate, format="WAV", subtype=subtype)
    return file.getvalue()


@pytest.mark.parametrize(("encoding", "subtype"), [("mulaw", "ULAW"), ("alaw", "ALAW")])
def test_companded_bytes_are_what_libsndfile_makes_of_them(encoding: str, subtype: str) -> None:
    data = bytes(range(256))
    expected, _ = sf.read(io.BytesIO(data), format="RAW", subtype=subtype, samplerate=8000, channels=1, dtype="int16")
    assert np.array_equal(read(encoding, data, [100])[0], expected)


@given(st.sampled_from(sorted(ENCODINGS)), st.binary(max_size=200), st.lists(st.integers(0, 200), max_size=8))
@settings(deadline=None, max_examples=100)
def test_cuts_make_no_difference(encoding: str, data: bytes, cuts: list[int]) -> None:
    samples, rate = read(encoding, data, cuts)
    assert samples.dtype == np.int16 and rate == 16000.0
    assert len(samples) == len(data) // ENCODINGS[encoding][0]
    assert np.array_equal(samples, read(encoding, data, [])[0])


@pytest.mark.parametrize("subtype", ["PCM_16", "PCM_U8", "PCM_24", "PCM_32", "FLOAT"])
@pytest.mark.parametrize("encoding", ["linear16", ""])
def test_a_wav_file_is_read_as_its_header_says(encoding: str, subtype: str) -> None:
    levels = np.arange(-100, 100) / 128
    data = wav(levels, 8000, subtype)
    for cuts in ([], [1], [3, 11, 12, 40], list(range(60))):
        samples, rate = read(encoding, data, cuts)
        assert rate == 8000
        assert np.abs(samples[:200] - levels * 32768).max() <= 1


def test_channels_of_a_wav_file_are_mixed() -> None:
    samples, _ = read("", wav(np.tile([0.25, 0.5], (50, 1)), 8000, "PCM_16"), [7])
    assert set(samples.tolist()) == {12288}


def test_only_a_whole_header_is_one() -> None:
    almost = b"RIFF\x00\x00\x00\x00WAV!" + bytes(range(20))
    for cuts in ([], [2], [4, 8, 11]):
        assert np.array_equal(read("linear16", almost, cuts)[0], np.frombuffer(almost, "<i2"))
    assert np.array_equal(read("linear16", b"RIFF", [1])[0], np.frombuffer(b"RIFF", "<i2"))


def test_another_file_may_follow_a_mark_in_the_stream() -> None:
    reader = SampleReader("linear16", 24000)
    first, second = wav(np.full(10, 0.5), 16000, "PCM_16"), wav(np.full(10, 0.25), 8000, "PCM_16")
    assert len(reader.push(first)) == 10 and reader.rate == 16000
    reader.settle()
    assert set(reader.push(bytes(4)).tolist()) == {0} and reader.rate == 16000  # the stream goes on
    reader.settle()
    assert set(reader.push(second).tolist()) == {8192} and reader.rate == 8000
    reader.begin()
    assert len(reader.push(bytes(4))) == 2 and reader.rate == 24000


def test_a_carried_byte_stays_over_a_mark_and_goes_with_a_new_stream() -> None:
    reader = SampleReader("linear16", 16000)
    assert len(reader.push(b"\x01")) == 0 and len(reader.settle()) == 0
    assert reader.push(b"\x02").tolist() == [0x0201]
    reader.push(b"\x01")
    reader.begin()
    assert reader.push(b"\x03\x04").tolist() == [0x0403]


@pytest.mark.parametrize("data", [b"fLaC....", b"OggS....", b"\x1aE\xdf\xa3....", b"ID3.....", bytes(8)])
def test_what_needs_a_decoder_or_an_encoding_is_refused(data: bytes) -> None:
    with pytest.raises(DataError, match="audio: "):
        SampleReader("", 16000).push(data)
    assert len(SampleReader("linear16", 16000).push(data)) == 4


def test_a_header_without_end_or_with_a_codec_is_refused() -> None:
    endless = b"RIFF\x00\x00\x00\x00WAVELIST" + struct.pack("<I", 1 << 30)
    reader = SampleReader("linear16", 16000)
    assert len(reader.push(endless)) == 0
    with pytest.raises(DataError, match=f"first {LONGEST_HEADER} bytes"):
        reader.push(bytes(LONGEST_HEADER))
    with pytest.raises(DataError, match="compressed"):
        SampleReader("", 16000).push(wav(np.zeros(400), 8000, "GSM610"))


def test_floats_beyond_one_and_no_numbers() -> None:
    wild = np.array([2.0, -2.0, np.nan, np.inf, -np.inf, 1 / 32768], np.float32)
    expected = [32767, -32768, 0, 32767, -32768, 1]
    assert to_int16(wild).tolist() == expected
    assert read("linear32", wild.astype("<f4").tobytes(), [])[0].tolist() == expected


@pytest.mark.parametrize("text", ["AA A", "AAAA\n", "A-_A", "AAA", "AAA==", "=", "AA==AA==", "ééé=", "AA\x00A"])
def test_only_base64_is_base64(text: str) -> None:
    with pytest.raises(DataError, match="no base64"):
        read_base64(text)
    assert read_base64("AQI=") == b"\x01\x02" and read_base64("") == b""
