"""MP3 without a length or with a wrong one, and Ogg that is chained, cut, joined late or mixed with other streams."""

import re
import struct
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from container_files import RATE, flac_in_ogg, mp3, page, pages, put, sealed, sound, stream_of, without_xing, written

from speechmtp.audio.containers.mpeg import mpeg_links
from speechmtp.audio.io import audio_info, read_audio
from speechmtp.errors import DataError

FRAME = 576 / RATE  # seconds of an MP3 frame


def heard(data: bytes) -> np.ndarray:
    """The samples of a file's bytes at its own rate."""
    return read_audio(stream_of(data), None)[0]


def seconds(data: bytes, path: Path) -> float:
    """The counted length of a file; what is heard is as long to within a frame."""
    path.write_bytes(data)
    counted = audio_info(path).duration
    assert len(read_audio(path)[0]) / RATE == pytest.approx(counted, abs=2 * FRAME)
    return counted


@pytest.mark.parametrize("loud_first", [False, True])
def test_mp3_without_a_xing_header_is_counted(loud_first: bool, tmp_path: Path) -> None:
    """libsndfile takes 8 s for 3 s or 12 s, since it knows the size of the first frames alone."""
    audio = np.concatenate([sound(3.0), 0.01 * sound(5.0)])
    audio = audio if loud_first else audio[::-1]
    whole = mp3(audio)
    data = without_xing(whole)
    assert seconds(whole, tmp_path / "a.mp3") == 8.0
    assert seconds(data, tmp_path / "a.mp3") == pytest.approx(8.0, abs=4 * FRAME)
    # What is heard is the same but for the delay of the encoder, which the lost frame told.
    found, expected = heard(data)[4000:100_000], heard(whole)
    shifts = [float(np.abs(expected[4000 - d :][: len(found)] - found).max()) for d in (0, 576, 1105 - 529, 1105)]
    assert min(shifts) < 1e-3


def test_mp3_of_constant_bit_rate_is_left_as_it_is(tmp_path: Path) -> None:
    data = written(sound(2.0), "MP3", bitrate_mode="CONSTANT", compression_level=0.9)  # without a Xing header
    assert [link.parts for link in mpeg_links(data)] == [()]
    assert seconds(data + tagged()["ape"][-40032:], tmp_path / "a.mp3") == pytest.approx(2.0, abs=4 * FRAME)
    assert seconds(data, tmp_path / "a.mp3") == pytest.approx(2.0, abs=4 * FRAME)


def tagged() -> dict[str, bytes]:
    """Kind -> an MP3 file of 4 s without a Xing header, with tags around and within it."""
    data = without_xing(mp3(sound(4.0)))
    picture = b"ID3\x04\0\0" + bytes((0, 12, 0, 0)) + bytes(12 << 14)
    ape = b"APETAGEX" + struct.pack("<IIII", 2000, 40000, 1, 0) + bytes(8) + b"\xff\xfb\x90" * 13333 + b"\0"
    name = b"TAG" + b"x" * 125
    middle = len(data) // 2
    return {
        "id3": picture + data, "id3v1": data + name, "ape": data + ape, "all": picture + data + ape + name,
        "junk within": data[:middle] + b"junk" * 300 + data[middle:], "tag within": data + name + picture + data,
    }  # fmt: skip


@pytest.mark.parametrize("kind", ["id3", "id3v1", "ape", "all", "junk within", "tag within"])
def test_tags_and_junk_of_mp3_are_no_audio(kind: str, tmp_path: Path) -> None:
    expected = 8.0 if kind == "tag within" else 4.0
    assert seconds(tagged()[kind], tmp_path / "a.mp3") == pytest.approx(expected, abs=0.2)


def test_a_xing_header_that_tells_of_more_is_a_cut_file(tmp_path: Path) -> None:
    data = mp3(sound(4.0))
    (tmp_path / "a.mp3").write_bytes(data[: len(data) // 2])
    for read in (audio_info, read_audio):
        with pytest.raises(DataError, match=r"[12]\.\d\d s of audio, 4\.\d\d s expected by its header; .* cut short"):
            read(tmp_path / "a.mp3")


def test_a_xing_header_that_tells_of_less_does_not_end_the_file(tmp_path: Path) -> None:
    data = mp3(sound(2.0))
    assert seconds(data + without_xing(mp3(sound(3.0))), tmp_path / "a.mp3") == pytest.approx(5.0, abs=0.2)
    place = re.search(rb"Xing|Info", data).start() + 4  # type: ignore[union-attr]
    assert struct.unpack_from(">I", data, place)[0] & 1
    untold = put(data, place + 3, bytes([data[place + 3] & 0xFE]))
    assert seconds(untold, tmp_path / "a.mp3") == pytest.approx(2.0, abs=0.2)


def test_mp3_of_several_rates_is_refused() -> None:
    with pytest.raises(DataError, match=r"16000 Hz with 1 channels, then 24000 Hz"):
        heard(mp3(sound(1.0)) + mp3(sound(1.0, 24000), 24000))


@pytest.mark.parametrize(("code", "sizes"), [(0xFF, {3: 96, 6: 192}), (0xFD, {2: 144, 5: 240})])
def test_layers_i_and_ii_are_parted_where_the_bit_rate_changes(code: int, sizes: dict[int, int]) -> None:
    """They have no Xing header that could tell libsndfile of another rate than the first one."""
    frames = [(bytes((0xFF, code, index << 4 | 4, 0xC0)) + bytes(size - 4)) * 200 for index, size in sizes.items()]
    links = mpeg_links(b"".join(frames))
    assert [link.held for link in links] == [link.declared for link in links] == [200, 200]
    assert [b"".join(link.parts) for link in links] == frames


def test_mp3_in_wav_is_counted_and_not_taken_for_cut(tmp_path: Path) -> None:
    frames = without_xing(mp3(sound(3.0)))
    fmt = struct.pack("<4sIHHIIHHHHIHHH", b"fmt ", 30, 0x55, 1, RATE, 4000, 1, 0, 12, 1, 2, 576, 1, 1105)
    body = b"WAVE" + fmt + b"fact" + struct.pack("<II", 4, 4 * RATE) + b"data" + struct.pack("<I", len(frames))
    data = b"RIFF" + struct.pack("<I", len(body) + len(frames)) + body + frames
    assert seconds(data, tmp_path / "a.wav") == pytest.approx(3.0, abs=0.2)
    with pytest.raises(DataError, match=r"s expected by its header; the file is cut short"):
        heard(data[: len(data) // 2])


@cache
def opus(length: float) -> bytes:
    """An Opus file."""
    return written(sound(length), "OGG", "OPUS")


@cache
def vorbis(length: float) -> bytes:
    """A Vorbis file."""
    return written(sound(length), "OGG", "VORBIS")


@pytest.mark.parametrize("kind", [vorbis, opus])
def test_ogg_that_is_cut_within_a_page_is_refused(kind: object, tmp_path: Path) -> None:
    data = kind(6.0)  # type: ignore[operator]
    found = pages(data)
    assert len(found) > 4
    whole = b"".join(found[:-1])
    path = tmp_path / "a.ogg"
    path.write_bytes(whole + found[-1][: len(found[-1]) // 2])
    for read in (audio_info, read_audio):
        with pytest.raises(DataError, match=r"\d\.\d\d s of audio, [56]\.\d\d s expected by its header; .* cut short"):
            read(path)
    # A stream that breaks off between pages, or within the head of one, declares nothing that is lost.
    for data in (whole, whole + found[-1][:20]):
        path.write_bytes(data)
        assert audio_info(path).samples == len(read_audio(path)[0])


@pytest.mark.parametrize("kind", [vorbis, opus])
def test_ogg_that_was_joined_late_is_as_long_as_what_is_there(kind: object, tmp_path: Path) -> None:
    """libsndfile goes by the positions, which count from the stream's beginning."""
    found = pages(kind(6.0))  # type: ignore[operator]
    heads = 2
    assert len(found) > heads + 4
    path = tmp_path / "a.ogg"
    for first in (heads, heads + 1, heads + 2):
        path.write_bytes(b"".join(found[:first] + found[-3:]))
        counted = audio_info(path)
        assert counted.samples == len(read_audio(path)[0])
        assert 0 < counted.duration < 5.5
    late = [put(one, 6, struct.pack("<q", struct.unpack_from("<q", one, 6)[0] + 10**8)) for one in found[heads + 1 :]]
    path.write_bytes(b"".join([*found[: heads + 1], *map(sealed, late)]))
    assert audio_info(path).samples == len(read_audio(path)[0]) > 5 * RATE


def test_the_audio_of_several_streams_at_a_time() -> None:
    data = vorbis(3.0)
    found = pages(data)
    strange = [page(b"fishead\0" + bytes(60), 2, 0, 99, 0), page(b"x" * 900, 0, 7, 99, 1), page(b"y" * 90, 4, 9, 99, 2)]
    mixed = [strange[0], *found[:2], strange[1], *found[2:-1], strange[2], found[-1]]
    assert np.array_equal(heard(b"".join(mixed)), heard(data))


def test_flac_in_ogg() -> None:
    flac = written(sound(2.0), "FLAC")
    data = flac_in_ogg(flac, 2 * RATE)
    assert np.array_equal(heard(data), heard(flac))
    endless = put(flac, 21, bytes([flac[21] & 0xF0, 0, 0, 0, 0]))
    assert np.array_equal(heard(flac_in_ogg(endless, 2 * RATE) * 2), np.concatenate([heard(flac)] * 2))
    for one in (data, flac_in_ogg(endless, 2 * RATE)):
        with pytest.raises(DataError, match=r"\d s of audio, [12]\.\d\d s expected by its header; .* cut short"):
            heard(one[: len(one) * 6 // 10])


def test_ogg_with_a_damaged_page_tells_both_lengths() -> None:
    found = pages(opus(6.0))
    number = len(found) // 2
    found[number] = put(found[number], 200, b"damaged here")
    with pytest.raises(DataError, match=r"[1-5]\.\d\d s of audio, 6\.00 s expected by its header"):
        heard(b"".join(found))
