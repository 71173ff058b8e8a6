"""What libsndfile does not know is heard through an installed ffmpeg; without one, errors say so. Odd names, pipes."""

import os
import shutil
import subprocess
import threading
import warnings
from pathlib import Path

import numpy as np
import pytest
from container_files import RATE, sound, stream_of, written

from speechmtp.audio import convert
from speechmtp.audio.inputs import read_input
from speechmtp.audio.io import audio_info, read_audio
from speechmtp.audio.names import shown
from speechmtp.errors import AudioWarning, DataError, UnreadableError

needs_ffmpeg = pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="ffmpeg is not installed")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """2 s of noise as a WAV file, and made from it by ffmpeg: AAC in several containers."""
    folder = tmp_path_factory.mktemp("audio")
    (folder / "a.wav").write_bytes(written(sound(2.0), "WAV"))
    for name in ("a.m4a", "a.aac", "a.mkv", "-i.mp4"):
        made = ["ffmpeg", "-v", "error", "-i", folder / "a.wav", "-c:a", "aac", "-b:a", "48k", f"file:{folder / name}"]
        subprocess.run(made, check=True)
    return folder


def similar(found: np.ndarray) -> bool:
    """Whether samples are the noise of the folder."""
    expected = sound(2.0)
    return abs(len(found) - len(expected)) < 0.15 * RATE and np.corrcoef(found[:30000], expected[:30000])[0, 1] > 0.6


@needs_ffmpeg
def test_other_containers_are_heard(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    expected, rate = read_audio("a.m4a", None)
    assert rate == RATE and similar(expected)
    assert audio_info("a.m4a").samples == len(expected)
    assert similar(read_audio("-i.mp4")[0])
    assert similar(read_audio("a.mkv")[0][1024:])  # which does not tell of AAC's delay
    data = Path("a.m4a").read_bytes()
    assert np.array_equal(read_input(data + data, RATE), np.concatenate([expected, expected]))


@needs_ffmpeg
def test_what_ffmpeg_complains_of_is_told(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "a.mkv"
    data = (folder / "a.mkv").read_bytes()
    path.write_bytes(data[: len(data) // 2])
    for read in (audio_info, read_audio):
        with pytest.raises(DataError, match=r"[01]\.\d\d s of audio, 2\.\d\d s expected by its header; .* cut short"):
            read(path)
    data = (folder / "a.m4a").read_bytes()
    with pytest.raises(DataError, match=r"a: 5000 bytes, \d{5} bytes expected by its header; the file is cut short"):
        read_audio(stream_of(data[:5000]))
    data = (folder / "a.aac").read_bytes()
    with pytest.warns(AudioWarning, match=r"^a: ffmpeg complains \(.*\); what it reads is heard$"):
        found, _ = read_audio(stream_of(data[: len(data) // 2 + 7]))
    assert 0.5 * RATE < len(found) < 1.5 * RATE


@needs_ffmpeg
def test_lists_of_other_files_are_not_followed(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text(f"ffconcat version 1.0\nfile {folder / 'a.aac'}\n")
    (tmp_path / "a.m3u8").write_text(f"#EXTM3U\n#EXTINF:2,\n{folder / 'a.aac'}\n#EXT-X-ENDLIST\n")
    for name, reason in (("a.txt", "not a container that is read"), ("a.m3u8", "Invalid data")):
        with pytest.raises(UnreadableError, match=rf"{name}: unreadable \(Format not recognised; ffmpeg: {reason}"):
            read_audio(tmp_path / name)


@needs_ffmpeg
def test_more_than_a_wav_file_holds_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(convert, "_LARGEST", 1 << 16)
    with pytest.raises(UnreadableError, match="ffmpeg: more than 0 MiB of samples"):
        read_audio(folder / "a.aac")


def test_without_ffmpeg_the_error_says_that_it_may_help(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    (tmp_path / "a.m4a").write_bytes(b"\0\0\0\x18ftypM4A \0\0\0\0" + bytes(100))
    for read in (audio_info, read_audio):
        with pytest.raises(UnreadableError, match=r"a\.m4a: unreadable \(.*\), .*; install ffmpeg, which may read it"):
            read(tmp_path / "a.m4a")


def test_a_named_pipe_is_read_to_its_end_and_not_counted(tmp_path: Path) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    for data, read in ((written(sound(1.0), "FLAC"), read_audio), (b"", read_audio)):
        writer = threading.Thread(target=path.write_bytes, args=(data,))
        writer.start()
        if data:
            assert len(read(path)[0]) == RATE
        else:
            with pytest.raises(DataError, match="pipe: no bytes, expected audio"):
                read(path)
        writer.join()
    with pytest.raises(DataError, match="pipe: not a file"):
        audio_info(path)


def test_names_that_are_not_utf8(tmp_path: Path) -> None:
    name = os.fsdecode(os.fsencode(tmp_path) + b"/M\xfcller\n.wav")
    Path(name).write_bytes(written(sound(0.5), "WAV"))
    assert len(read_audio(name)[0]) == audio_info(name).samples == len(read_input(name, RATE)) == RATE // 2
    Path(name).write_bytes(b"no audio")
    for read in (audio_info, read_audio, lambda path: read_input(path, RATE)):
        with pytest.raises(DataError) as caught:
            read(name)
        assert str(caught.value).startswith(rf"{tmp_path}/M\xfcller\n.wav: unreadable")
        assert str(caught.value).encode().isascii()
    assert shown("Müller 漢.wav") == "Müller 漢.wav"


def test_nothing_is_warned_of_a_whole_file(tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_bytes(written(sound(0.5), "WAV"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        read_audio(tmp_path / "a.wav")
