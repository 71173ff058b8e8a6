"""Long files are read in blocks: samples, warnings and errors are those of reading them at once, and few are held."""

import io
import warnings
from pathlib import Path

import numpy as np
import pytest
import soundfile
from container_files import RATE, sound, written

from speechmtp.audio.files import OpenAudio
from speechmtp.audio.inputs import Recording, read_input
from speechmtp.errors import AudioWarning, ConfigError, DataError

KINDS = {
    "wav": ("WAV", "PCM_16", {}),
    "float": ("WAV", "FLOAT", {}),
    "rf64": ("RF64", "PCM_24", {}),
    "adpcm": ("WAV", "IMA_ADPCM", {}),
    "flac": ("FLAC", "PCM_16", {}),
    "vorbis": ("OGG", "VORBIS", {}),
    "opus": ("OGG", "OPUS", {}),
    "mp3": ("MP3", None, {}),
}


SECONDS = 1200


@pytest.fixture
def in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every file is read as if it were long."""
    monkeypatch.setattr("speechmtp.audio.io.WHOLE", 0)
    monkeypatch.setattr("speechmtp.audio.io.BLOCK", 0.1)


def blocks_of(data: bytes, rate: int = RATE) -> list[np.ndarray]:
    return list(Recording(data, rate))


def both(data: bytes, monkeypatch: pytest.MonkeyPatch, rate: int = RATE) -> tuple[np.ndarray, list[np.ndarray]]:
    """The samples of a file that is read at once, and in blocks."""
    whole = read_input(data, rate)
    with monkeypatch.context() as context:
        context.setattr("speechmtp.audio.io.WHOLE", 0)
        context.setattr("speechmtp.audio.io.BLOCK", 0.1)
        return whole, blocks_of(data, rate)


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("kind", KINDS)
def test_blocks_are_the_samples_of_the_whole(kind: str, channels: int, monkeypatch: pytest.MonkeyPatch) -> None:
    container, subtype, options = KINDS[kind]
    audio = np.stack([sound(1.3), 0.5 * sound(1.3)[::-1]][:channels], 1)
    data = written(audio, container, subtype, **options)
    for joined in (data, data + data):
        for rate in (RATE, 11025):
            whole, blocks = both(joined, monkeypatch, rate)
            assert len(blocks) > 10 and np.array_equal(np.concatenate(blocks), whole)


def test_the_duration_is_told_at_the_first_block_and_exact_at_the_end(in_blocks: None) -> None:
    recording = Recording(written(sound(1.3), "MP3"), 8000)
    assert recording.seconds is None
    blocks = iter(recording)
    next(blocks)
    assert recording.seconds == pytest.approx(1.3, abs=0.1)
    count = len(read_input(written(sound(1.3), "MP3"), 8000))
    list(blocks)
    assert recording.seconds == count / 8000


def test_a_short_file_is_one_block_and_a_rate_is_checked_before_it() -> None:
    data = written(sound(3.0), "WAV")
    assert [len(block) for block in blocks_of(data) if len(block)] == [3 * RATE]
    with pytest.raises(ConfigError, match=r"bytes: 16000 Hz in the file and rate=8000"):
        next(iter(Recording(data, RATE, 8000)))


def test_channels_that_cancel_are_found_by_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    left = sound(2.0)
    right = np.where(np.arange(len(left)) < 0.2 * RATE, left, -0.99 * left)  # at first they do not
    pairs = ((left, right, True), (left[::-1], right[::-1], True), (left, np.where(left > 0, left, right), False))
    for first, second, cancel in pairs:
        data = written(np.stack([first, second], 1), "WAV", "PCM_16")
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            whole, blocks = both(data, monkeypatch)
        assert np.array_equal(np.concatenate(blocks), whole)
        assert [one.category for one in caught] == [AudioWarning] * 2 * cancel
        assert len({str(one.message) for one in caught}) <= 1


@pytest.mark.parametrize(("place", "value"), [(0, 20000.0), (-1, 20000.0), (-1, np.nan), (700, np.inf)])
def test_floats_that_are_none_are_refused_as_in_the_whole(
    place: int, value: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    audio = sound(1.0)
    audio[place] = value
    data = written(audio, "WAV", "FLOAT")
    with pytest.raises(DataError) as whole:
        read_input(data, RATE)
    with pytest.raises(DataError) as caught:
        both(data, monkeypatch)
    assert str(caught.value) == str(whole.value)
    assert str(whole.value).startswith("bytes: samples ")


def test_whole_numbers_beyond_one_are_refused_in_blocks_too(in_blocks: None) -> None:
    audio = np.zeros(RATE, np.float32)
    audio[-3:] = 5.0
    with pytest.raises(DataError, match=r"bytes: samples up to 5, expected floats"):
        blocks_of(written(audio, "WAV", "FLOAT"))
    audio[0] = 0.5
    assert len(np.concatenate(blocks_of(written(audio, "WAV", "FLOAT")))) == RATE


def test_damage_in_the_middle_is_the_same_error_behind_the_blocks_before_it(monkeypatch: pytest.MonkeyPatch) -> None:
    data = bytearray(written(sound(4.0), "FLAC"))
    middle = len(data) // 2
    data[middle : middle + 4000] = bytes(4000)
    with pytest.raises(DataError) as whole:
        read_input(bytes(data), RATE)
    monkeypatch.setattr("speechmtp.audio.io.WHOLE", 0)
    monkeypatch.setattr("speechmtp.audio.io.BLOCK", 0.1)
    found: list[np.ndarray] = []
    with pytest.raises(DataError) as caught:
        found.extend(Recording(bytes(data), RATE))
    assert str(caught.value) == str(whole.value) and len(found) > 5


def resident() -> int:
    """Bytes of this process in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="tells its memory otherwise")
@pytest.mark.parametrize("as_stream", [False, True])
def test_a_long_file_takes_hardly_any_memory(tmp_path: Path, as_stream: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("speechmtp.audio.spool._IN_MEMORY", 1 << 20)
    path = tmp_path / "a.wav"
    soundfile.write(path, np.zeros(RATE, np.int16), RATE)
    size = SECONDS * RATE * 2
    with path.open("r+b") as file:
        file.write(b"RIFF" + (36 + size).to_bytes(4, "little"))
        file.seek(40)
        file.write(size.to_bytes(4, "little"))
        file.truncate(44 + size)
    most, count, before = 0, 0, resident()
    with path.open("rb") as file:
        for block in Recording(io.FileIO(file.fileno(), closefd=False) if as_stream else path, RATE):
            most, count = max(most, resident() - before), count + len(block)
    assert count == SECONDS * RATE
    assert most < size // 3


def test_a_check_sees_the_open_file_before_it_is_read() -> None:
    def refuse(file: OpenAudio) -> None:
        raise DataError(f"{file.samplerate} Hz, {file.channels} channels, {file.most} samples")

    file = io.BytesIO()
    soundfile.write(file, np.zeros((800, 2)), 8000, format="WAV")
    with pytest.raises(DataError, match=r"^8000 Hz, 2 channels, 800 samples$"):
        list(Recording(file.getvalue(), 16000, check=refuse))


def test_without_programs_none_is_started(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("speechmtp.audio.files.convert", lambda *given: pytest.fail("a program was started"))
    with pytest.raises(DataError, match="unreadable"):
        list(Recording(b"no audio at all", 16000, programs=False))
