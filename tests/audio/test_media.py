"""Audio of MP4 and Matroska files by PyAV."""

import io
import sys
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pytest
from media_files import RATE, written

from speechmtp.audio.media import media_blocks, media_format
from speechmtp.errors import DataError, UnreadableError

av = pytest.importorskip("av")


def read(data: bytes | BinaryIO, rate: int = 16000, check: Any = lambda *told: None) -> np.ndarray:
    """All samples."""
    file = io.BytesIO(data) if isinstance(data, bytes) else data
    return np.concatenate(list(media_blocks(file, rate, "x", check)))


FILES = [("mp4", "aac"), ("ipod", "aac"), ("mov", "aac"), ("webm", "libopus"), ("matroska", "libopus")]


@pytest.mark.parametrize(("kind", "codec"), FILES)
@pytest.mark.parametrize("channels", [1, 2])
def test_a_tone_is_heard(kind: str, codec: str, channels: int) -> None:
    told: list[Any] = []
    found = read(written(kind, codec, channels), check=lambda *one: told.append(one))
    assert found.dtype == np.float32 and abs(len(found) / 16000 - 2) < 0.1
    spectrum = np.abs(np.fft.rfft(found[8000:24000]))
    assert int(spectrum.argmax()) == 440
    assert found[8000:24000].std() == pytest.approx(0.5**1.5 / channels, abs=0.03), "channels are averaged"
    [(own, count, seconds)] = told
    assert (own, count) == (RATE, channels) and (seconds == 0 or abs(seconds - 2) < 0.1)


def test_a_check_may_refuse() -> None:
    def refuse(rate: int, channels: int, seconds: float) -> None:
        raise DataError("too much")

    with pytest.raises(DataError, match="too much"):
        read(written("mp4", "aac"), check=refuse)


def test_a_file_that_is_cut_short() -> None:
    whole, end = written("mp4", "aac"), written("webm", "libopus")
    for data in (whole[: len(whole) * 2 // 3], whole[:300], end[:100], end[:12]):
        with pytest.raises(DataError, match=r"unreadable|cut short"):
            read(data)


def test_a_file_whose_index_is_whole_but_not_its_audio(tmp_path: Path) -> None:
    written("mp4", "aac", file=tmp_path / "a.mp4")  # ffmpeg moves the index to the front of real files alone
    whole = (tmp_path / "a.mp4").read_bytes()
    assert 0 < whole.find(b"moov") < whole.find(b"mdat")
    with pytest.raises(DataError, match=r"1\.\d+ s of audio, 2\.0\d s expected|unreadable"):
        read(whole[: len(whole) * 2 // 3])


@pytest.mark.parametrize(
    "data", [b"", b"#EXTM3U\nhttp://127.0.0.1/\n" * 9, b"ffconcat version 1.0\nfile /etc/passwd\n", b"x" * 99]
)
def test_other_files_are_not_tried(data: bytes) -> None:
    assert media_format(data) == ""
    with pytest.raises(UnreadableError, match="no container that is known"):
        read(data)


@pytest.mark.parametrize("head", [b"\0\0\0\x18ftypmp42", b"\x1aE\xdf\xa3", b"\0\0\0\x08moov\0\0\0\x08"])
def test_what_only_begins_so_is_unreadable(head: bytes) -> None:
    assert media_format(head)
    for rest in (b"", bytes(2000), np.random.default_rng(0).bytes(2000)):
        with pytest.raises(UnreadableError, match="x: "):
            read(head + rest)


def test_a_film_without_sound(tmp_path: Path) -> None:
    file = io.BytesIO()
    with av.open(file, "w", format="matroska") as container:
        track = container.add_stream("mpeg4", rate=10)
        track.width = track.height = 16
        track.pix_fmt = "yuv420p"
        container.mux(track.encode(av.VideoFrame(16, 16, "yuv420p")))
        container.mux(track.encode(None))
    with pytest.raises(UnreadableError, match="no audio track"):
        read(file.getvalue())


def test_without_pyav_the_error_says_how_to_have_it(monkeypatch: pytest.MonkeyPatch) -> None:
    data = written("mp4", "aac")
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(UnreadableError, match=r"m4a, mp4.*speechmtp\[server\]"):
        read(data)
