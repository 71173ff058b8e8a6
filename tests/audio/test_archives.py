"""Sound files inside Kaldi archives: every kind of entry is read at its offset and ends where it ends."""

import io
from pathlib import Path

import numpy as np
import pytest
import soundfile

from speechmtp.audio.io import audio_info, read_audio
from speechmtp.errors import DataError

RATE = 8000


def sound(seed: int, samples: int, channels: int = 1) -> np.ndarray:
    """16-bit noise [samples, channels]."""
    return np.random.default_rng(seed).integers(-20000, 20000, (samples, channels)).astype(np.int16)


def packed(samples: np.ndarray, kind: str) -> bytes:
    """A sound file of a format, or an entry of kaldiio around one (`AUDIO`, the length of the length, the length)."""
    format_name = kind.removeprefix("kaldiio-")
    file = io.BytesIO()
    soundfile.write(file, samples, RATE, format=format_name, subtype="PCM_16", endian="BIG" if kind == "AIFF" else None)
    data = file.getvalue()
    size = (len(data).bit_length() + 7) // 8
    return b"AUDIO" + bytes([size]) + len(data).to_bytes(size, "little") + data if kind != format_name else data


def archive(path: Path, entries: list[bytes]) -> list[str]:
    """Write an archive; the names `path:offset` of its entries."""
    content, names = b"", []
    for number, entry in enumerate(entries):
        content += b"utterance-%d " % number
        names.append(f"{path}:{len(content)}")
        content += entry
    path.write_bytes(content)
    return names


@pytest.mark.parametrize("kind", ["WAV", "WAVEX", "RF64", "AIFF", "FLAC", "NIST", "kaldiio-WAV", "kaldiio-FLAC"])
def test_entries_are_read_whole_and_alone(kind: str, tmp_path: Path) -> None:
    sounds = [sound(0, 801), sound(1, 1602, channels=2), sound(2, 403)]
    names = archive(tmp_path / "data.ark", [packed(samples, kind) for samples in sounds])
    for name, samples in zip(names, sounds):
        info = audio_info(name)
        assert (info.rate, info.channels, info.samples) == (RATE, samples.shape[1], len(samples))
        heard, rate = read_audio(name, rate=None, channel=0)
        assert rate == RATE
        np.testing.assert_array_equal(heard, samples[:, 0] / np.float32(32768))
    part, _ = read_audio(names[1], rate=None, start=0.05, end=0.1, channel=1)
    np.testing.assert_array_equal(part, sounds[1][400:800, 1] / np.float32(32768))


def test_a_file_whose_name_ends_like_an_entry_is_that_file(tmp_path: Path) -> None:
    archive(tmp_path / "data.wav", [packed(sound(0, 100), "WAV")])
    soundfile.write(tmp_path / "data.wav:12", sound(1, 200), RATE, format="WAV")
    assert audio_info(f"{tmp_path}/data.wav:12").samples == 200
    assert audio_info(f"{tmp_path}/data.wav:012").samples == 100


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (b"\0BFM \4\1\0\0\0\4\1\0\0\0\0\0\0\0", "a Kaldi matrix or vector (FM), expected a sound file"),
        (b"\0B\4\1\0\0\0\4\1\0\0\0", "a Kaldi matrix or vector"),
        (b" [ 1 2 3 ]\n", "begins with b' [ 1 2 3'"),
        (b"AUDIO", "0 bytes to the archive's end"),
        (b"AUDIO\2\xff\xff12", "2 bytes to the archive's end, expected 65535"),
        (packed(sound(0, 100), "WAV")[:-7], "237 bytes to the archive's end, expected 244"),
        (packed(sound(0, 100), "FLAC")[:150], "data.ark:12: "),
        (b"fLaC" + bytes(100), "data.ark:12: "),
        (b"RIFF\0\0\0\0WAVEfmt ", "unknown length"),
        (b"RIFF\xff\xff\xff\xffWAVEfmt ", "unknown length"),
        (
            b"NIST_1A\n   1024\nsample_count -i 9\nsample_n_bytes -i 2\nsample_coding -s18 pcm,embedded-shorten",
            "unknown",
        ),
        (b"", "expected an entry at 12"),
    ],
)
def test_entries_that_are_no_sound_file_are_one_line(entry: bytes, message: str, tmp_path: Path) -> None:
    [name] = archive(tmp_path / "data.ark", [entry])
    with pytest.raises(DataError) as caught:
        read_audio(name)
    assert str(caught.value).startswith(f"{name}: ") and "\n" not in str(caught.value)
    assert message in str(caught.value)


def test_an_archive_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none.ark:5: no such file"):
        audio_info(tmp_path / "none.ark:5")
