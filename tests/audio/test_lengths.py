"""Files that are cut, joined or were never finished: all that is there is heard, or an error names both lengths."""

import io
import re
import struct
import tracemalloc
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from container_files import RATE, put, sound, stream_of, written

from speechmtp.audio.containers.links import Spliced
from speechmtp.audio.containers.riff import riff_header, riff_links
from speechmtp.audio.io import audio_info, read_audio
from speechmtp.errors import DataError

KINDS = {
    "wav": ("WAV", "PCM_16", {}),
    "wavex": ("WAVEX", "PCM_24", {}),
    "float": ("WAV", "FLOAT", {}),
    "ulaw": ("WAV", "ULAW", {}),
    "ms-adpcm": ("WAV", "MS_ADPCM", {}),
    "ima-adpcm": ("WAV", "IMA_ADPCM", {}),
    "rifx": ("WAV", "PCM_16", {"endian": "BIG"}),
    "rf64": ("RF64", "PCM_16", {}),
    "w64": ("W64", "PCM_16", {}),
    "aiff": ("AIFF", "PCM_16", {}),
    "aifc": ("AIFF", "FLOAT", {}),
    "au": ("AU", "PCM_16", {}),
    "au-little": ("AU", "PCM_16", {"endian": "LITTLE"}),
    "caf": ("CAF", "PCM_16", {}),
    "sphere": ("NIST", "PCM_16", {}),
    "flac": ("FLAC", "PCM_16", {}),
}
LOSSY = {"vorbis": ("OGG", "VORBIS", {}), "opus": ("OGG", "OPUS", {}), "mp3": ("MP3", None, {})}


@pytest.fixture(autouse=True)
def no_ffmpeg(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without ffmpeg, which would read what the containers' own code does not."""
    monkeypatch.setattr("speechmtp.audio.convert.shutil.which", lambda program: None)


@cache
def file_of(kind: str, seconds: float) -> bytes:
    """A file of a kind."""
    container, subtype, options = (KINDS | LOSSY)[kind]
    return written(sound(seconds), container, subtype, **options)


def heard(data: bytes) -> np.ndarray:
    """The samples of a file's bytes at its own rate."""
    return read_audio(stream_of(data), None)[0]


@pytest.mark.parametrize("kind", KINDS)
def test_a_cut_file_is_refused_with_both_lengths(kind: str, tmp_path: Path) -> None:
    data = file_of(kind, 2.0)
    path = tmp_path / "a.audio"
    path.write_bytes(data[: len(data) * 2 // 5])
    for read in (audio_info, read_audio, lambda path: read_audio(io.BytesIO(path.read_bytes()))):
        with pytest.raises(DataError, match=r"cut short, copy it anew") as caught:
            read(path)
        found = re.search(r": ([\d.]+) s of audio, ([\d.]+) s expected by its header; ", str(caught.value))
        assert found is not None
        # Loud samples of FLAC take more bytes than soft ones.
        assert float(found[1]) == pytest.approx(0.8, abs=0.3 if kind == "flac" else 0.1)
        assert float(found[2]) == pytest.approx(2.0, abs=0.15)


@pytest.mark.parametrize("kind", [*KINDS, *LOSSY])
def test_joined_files_are_heard_one_after_the_other(kind: str, tmp_path: Path) -> None:
    first, second = file_of(kind, 0.5), file_of(kind, 0.7)
    path = tmp_path / "a.audio"
    path.write_bytes(first + second + first)
    expected = np.concatenate([heard(first), heard(second), heard(first)])
    assert np.array_equal(read_audio(path)[0], expected)
    assert audio_info(path).samples == len(expected) >= 1.7 * RATE
    part = read_audio(path, start=0.45, end=1.25)[0]
    assert np.array_equal(part, expected[int(0.45 * RATE) : int(1.25 * RATE)])


def test_parts_of_several_rates_are_refused() -> None:
    other = written(sound(0.5, 8000), "WAV", rate=8000)
    with pytest.raises(DataError, match=r"16000 Hz with 1 channels, then 8000 Hz with 1, expected one rate"):
        heard(file_of("wav", 0.5) + other)
    stereo = written(np.stack([sound(0.5)] * 2, 1), "FLAC")
    with pytest.raises(DataError, match=r"16000 Hz with 1 channels, then 16000 Hz with 2"):
        heard(file_of("flac", 0.5) + stereo)


@cache
def unfinished() -> dict[str, tuple[bytes, bytes]]:
    """Name -> (a file as a writer leaves it that cannot go back, or that was killed; the same file when finished)."""
    wav, rifx, rf64 = file_of("wav", 0.6), file_of("rifx", 0.6), file_of("rf64", 0.6)
    w64, aiff, au, caf, flac = (file_of(kind, 0.6) for kind in ("w64", "aiff", "au", "caf", "flac"))
    whole = wav.index(b"data") + 4
    wide = rf64.index(b"data") + 4
    never = struct.pack("<I", 0xFFFFFFFF)
    found = {
        f"wav of {total:#x} and {length:#x}": (
            put(put(wav, 4, struct.pack("<I", total)), whole, struct.pack("<I", length)), wav,
        )
        for total, length in (
            (0, 0), (36, 0), (0xFFFFFFFF, 0xFFFFFFFF), (0x7FFFF024, 0x7FFFF000), (0x80000024, 0x80000000),
            (0xFFFFFFFF, 0xFFFFFFDB),
        )
    }  # fmt: skip
    found["rifx"] = (put(put(rifx, 4, never), rifx.index(b"data") + 4, never), rifx)
    found["adpcm"] = (put(file_of("ms-adpcm", 0.6), 4, bytes(4)), file_of("ms-adpcm", 0.6))
    found["rf64 with zeros"] = (put(put(rf64, 20, bytes(24)), wide, never), rf64)
    found["rf64 without ds64"] = (put(put(rf64, 12, b"JUNK"), wide, never), rf64)
    found["bw64"] = (put(rf64, 0, b"BW64"), rf64)
    found["w64"] = (put(put(w64, 16, b"\xff" * 8), w64.index(b"data") + 16, b"\xff" * 7 + b"\x7f"), w64)
    found["w64 of zero"] = (put(put(w64, 16, bytes(8)), w64.index(b"data") + 16, bytes(8)), w64)
    place = aiff.index(b"COMM") + 10
    found["aiff"] = (put(put(put(aiff, 4, bytes(4)), place, bytes(4)), aiff.index(b"SSND") + 4, bytes(4)), aiff)
    sized = put(aiff, aiff.index(b"SSND") + 4, struct.pack(">I", 8))
    found["aiff of zero"] = (put(put(sized, 4, struct.pack(">I", 46)), place, bytes(4)), aiff)
    caf_of_none = put(caf, caf.index(b"data") + 4, struct.pack(">q", 4))
    found["caf of zero"] = (caf_of_none, caf)
    found["au"] = (put(au, 8, never), au)
    found["au of zero"] = (put(au, 8, bytes(4)), au)
    found["caf"] = (put(caf, caf.index(b"data") + 4, b"\xff" * 8), caf)
    found["flac"] = (put(flac, 21, bytes([flac[21] & 0xF0, 0, 0, 0, 0])), flac)
    return found


@pytest.mark.parametrize("name", unfinished())
def test_a_file_that_was_never_finished_is_read_to_its_end(name: str, tmp_path: Path) -> None:
    data, whole = unfinished()[name]
    assert len(heard(whole)) >= 0.6 * RATE
    assert np.array_equal(heard(data), heard(whole))
    (tmp_path / "a.wav").write_bytes(data)
    assert audio_info(tmp_path / "a.wav").samples == len(heard(whole))


def test_unfinished_files_that_were_joined() -> None:
    data, whole = unfinished()["wav of 0xffffffff and 0xffffffff"]
    assert np.array_equal(heard(data + data), np.concatenate([heard(whole)] * 2))


def test_an_empty_file_is_no_unfinished_one() -> None:
    wav = written(np.zeros(0, np.float32), "WAV")
    listed = put(wav, 4, struct.pack("<I", len(wav) + 4)) + b"LIST\x04\0\0\0INFO"
    for data in (wav, listed):
        with pytest.raises(DataError, match="no samples between 0 s and the end"):
            heard(data)


@pytest.mark.parametrize("kind", ["wav", "rf64", "aiff", "au", "sphere", "w64"])
def test_what_no_header_names_is_told(kind: str) -> None:
    data = file_of(kind, 0.5)
    more = sound(0.5).tobytes()
    with pytest.raises(DataError, match=r"1\.50 s of audio, 0\.50 s expected by its header; write its header anew"):
        heard(data + more)
    for harmless in (bytes(20000), b"TAG" + b"x" * 125):  # padding, a small tag
        assert np.array_equal(heard(data + harmless), heard(data))


@pytest.mark.parametrize("kind", ["wav", "aiff", "caf"])
def test_chunks_behind_the_samples_are_none_of_them(kind: str) -> None:
    data = file_of(kind, 0.5)
    order = {"wav": "<I", "aiff": ">I", "caf": ">q"}[kind]
    text = b"note" + struct.pack(order, 30000) + b"a" * 30000
    assert np.array_equal(heard(data + text), heard(data))
    assert np.array_equal(heard(data + text + data), np.concatenate([heard(data)] * 2))


def test_flac_that_is_damaged_tells_where() -> None:
    data = file_of("flac", 2.0)
    middle = len(data) // 2
    with pytest.raises(
        DataError, match=r"a: damaged after (0\.7|0\.8|0\.9|1)\S* of 2\.00 s \(.*\), expected whole audio"
    ):
        heard(put(data, middle, bytes(3000)))


def test_a_flac_stream_that_breaks_off_is_heard_to_its_last_whole_frame() -> None:
    data, whole = unfinished()["flac"]
    found = heard(data[: len(data) * 2 // 3])
    assert len(found) == 4096
    assert np.array_equal(found, heard(whole)[:4096])


def test_flac_of_other_shapes_is_counted() -> None:
    for audio in (np.zeros(5000, np.float32), np.stack([sound(0.3)] * 3, 1), sound(0.01)):
        for subtype in ("PCM_S8", "PCM_24"):
            data = written(audio, "FLAC", subtype, rate=37123)
            total = put(data, 21, bytes([data[21] & 0xF0, 0, 0, 0, 0]))
            tagged = b"ID3\x04\0\0\0\0\0\x0a" + bytes(10) + total + b"TAG" + b"x" * 125
            for one in (data, total, tagged):
                assert len(heard(one)) == len(audio)


def test_a_long_file_is_not_read_to_be_counted(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    head = file_of("wav", 0.1)[:44]
    size = 100 << 20
    path.write_bytes(put(put(head, 4, struct.pack("<I", size + 36)), 40, struct.pack("<I", size)))
    with path.open("r+b") as file:
        file.truncate(44 + size)
    tracemalloc.start()
    assert audio_info(path).samples == size // 2
    assert tracemalloc.get_traced_memory()[1] < 1 << 20
    tracemalloc.stop()


def test_an_unfinished_wav_beyond_4_gib_gets_64_bit_lengths() -> None:
    length = 5 << 30
    header = riff_header(file_of("wav", 0.1)[12:36], length, "<")
    assert header[:4] == b"RF64"
    assert struct.unpack_from("<QQ", header, 20) == (len(header) - 8 + length, length)
    assert riff_links(header + bytes(100))[0].declared == length


def test_parts_are_one_file() -> None:
    whole = bytes(range(200))
    file = Spliced((whole[:50], b"", memoryview(whole)[50:120], whole[120:]))
    for place in (0, 49, 50, 119, 199, 300):
        assert file.seek(place) == file.tell() == place
        assert file.read(100) == whole[place : place + 100]
    assert file.seek(-30, io.SEEK_END) == 170
    assert file.seek(-500, io.SEEK_CUR) == 170
    assert file.read() == whole[170:]
