"""Reading and writing of audio files, cuts, channels, resampling, and the errors of each."""

import io
from pathlib import Path

import numpy as np
import pytest
import soundfile

from speechmtp.audio.io import AudioInfo, audio_info, read_audio, resample, write_audio
from speechmtp.errors import DataError, ShapeError


def sine(hz: float, rate: int, seconds: float = 1.0) -> np.ndarray:
    """A sine of amplitude 0.5, float32."""
    return (0.5 * np.sin(2 * np.pi * hz * np.arange(int(rate * seconds)) / rate)).astype(np.float32)


def peak_hz(audio: np.ndarray, rate: int) -> float:
    """Frequency of the strongest spectral line."""
    return float(np.argmax(np.abs(np.fft.rfft(audio))) * rate / len(audio))


@pytest.mark.parametrize(
    ("extension", "snr_db"),
    [("wav", 70), ("flac", 70), ("aiff", 70), ("ogg", 20), ("opus", 10), ("mp3", 20)],
)
def test_round_trip(tmp_path: Path, extension: str, snr_db: float) -> None:
    generator = np.random.default_rng(0)
    audio = np.convolve(generator.standard_normal(16000), np.hanning(33) / 33, "same").astype(np.float32)
    path = tmp_path / f"a.{extension}"
    write_audio(path, audio, 16000)
    assert audio_info(path) == AudioInfo(rate=16000, channels=1, samples=16000)
    assert audio_info(path).duration == 1.0
    back, rate = read_audio(path)
    assert rate == 16000
    assert back.dtype == np.float32
    assert back.shape == audio.shape
    error = np.square(back - audio)[1000:-1000].mean() / np.square(audio).mean()
    assert -10 * np.log10(error) > snr_db


@pytest.mark.parametrize("extension", ["wav", "flac", "ogg", "opus", "mp3"])
def test_a_cut_is_a_slice_of_the_whole(tmp_path: Path, extension: str) -> None:
    path = tmp_path / f"a.{extension}"
    write_audio(path, sine(440, 16000, 2.0) * np.linspace(0, 1, 32000, dtype=np.float32), 16000)
    whole, _ = read_audio(path)
    piece, _ = read_audio(path, start=0.50003, end=1.24997)
    assert np.array_equal(piece, whole[8000:20000])
    for end in (None, -1, 2.4):
        assert np.array_equal(read_audio(path, start=1.5, end=end)[0], whole[24000:])


def test_cut_times_round_half_up(tmp_path: Path) -> None:
    write_audio(tmp_path / "a.wav", np.arange(100, dtype=np.float32) / 128, 1000)
    piece, _ = read_audio(tmp_path / "a.wav", rate=None, start=0.0105, end=0.0124)
    assert np.array_equal(piece * 128, [11])


def test_channels(tmp_path: Path) -> None:
    left, right = sine(300, 8000), sine(500, 8000)
    soundfile.write(tmp_path / "s.wav", np.stack([left, right], 1), 8000, subtype="FLOAT")
    assert audio_info(tmp_path / "s.wav").channels == 2
    assert np.array_equal(read_audio(tmp_path / "s.wav", rate=None, channel=0)[0], left)
    assert np.array_equal(read_audio(tmp_path / "s.wav", rate=None, channel=1)[0], right)
    np.testing.assert_allclose(read_audio(tmp_path / "s.wav", rate=None)[0], (left + right) / 2, atol=1e-7)
    with pytest.raises(DataError, match="channel 2 asked, expected 0 to 1"):
        read_audio(tmp_path / "s.wav", channel=2)


def test_reads_sphere_and_streams(tmp_path: Path) -> None:
    audio = sine(300, 16000)
    soundfile.write(tmp_path / "a.sph", audio, 16000, format="NIST", subtype="PCM_16")
    from_file, _ = read_audio(str(tmp_path / "a.sph"))
    np.testing.assert_allclose(from_file, audio, atol=1e-4)
    from_stream, rate = read_audio(io.BytesIO((tmp_path / "a.sph").read_bytes()), rate=None)
    assert rate == 16000
    assert np.array_equal(from_stream, from_file)


def test_reads_at_the_rate_asked_for(tmp_path: Path) -> None:
    write_audio(tmp_path / "a.wav", sine(440, 44100), 44100)
    audio, rate = read_audio(tmp_path / "a.wav")
    assert (rate, len(audio)) == (16000, 16000)
    assert peak_hz(audio, 16000) == pytest.approx(440, abs=1)
    assert read_audio(tmp_path / "a.wav", rate=None)[1] == 44100


@pytest.mark.parametrize(("source", "target"), [(8000, 16000), (44100, 16000), (24000, 16000), (16000, 24000)])
def test_resampling_keeps_frequency_energy_and_length(source: int, target: int) -> None:
    audio = resample(sine(1000, source), source, target)
    assert audio.dtype == np.float32
    assert len(audio) == target
    assert peak_hz(audio, target) == pytest.approx(1000, abs=1)
    inner = audio[target // 10 : -target // 10]
    assert np.sqrt(np.square(inner).mean()) == pytest.approx(0.5 / np.sqrt(2), rel=1e-3)


def test_resampling_removes_what_would_alias() -> None:
    audio = resample(sine(9000, 24000), 24000, 16000)
    assert np.abs(audio[800:-800]).max() < 1e-3


def test_resampling_edges() -> None:
    assert len(resample(np.zeros(0, np.float32), 8000, 16000)) == 0
    assert len(resample(np.zeros(1, np.float32), 44100, 16000)) == 1
    assert len(resample(np.zeros(101, np.float32), 16000, 8000)) == 51
    with pytest.raises(ShapeError, match="expected"):
        resample(np.zeros((2, 10), np.float32), 8000, 16000)
    with pytest.raises(DataError, match="positive"):
        resample(np.zeros(10, np.float32), 0, 16000)


def test_missing_folder_and_unreadable(tmp_path: Path) -> None:
    for read in (read_audio, audio_info):
        with pytest.raises(DataError, match=r"gone\.wav: no such file"):
            read(tmp_path / "gone.wav")
        with pytest.raises(DataError, match="not a file"):
            read(tmp_path)
        for name in ("text.wav", "text.raw", "text.mp3"):
            (tmp_path / name).write_text("this is no audio\n")
            with pytest.raises(DataError, match=f"{name}: unreadable") as caught:
                read(tmp_path / name)
            assert "\n" not in str(caught.value)
    with pytest.raises(DataError, match="<stream>: unreadable"):
        read_audio(io.BytesIO(b"nothing"))


def test_no_samples(tmp_path: Path) -> None:
    write_audio(tmp_path / "empty.wav", np.zeros(0, np.float32), 16000)
    write_audio(tmp_path / "a.wav", sine(440, 16000), 16000)
    with pytest.raises(DataError, match=r"empty\.wav: no samples"):
        read_audio(tmp_path / "empty.wav")
    for start, end in ((1.0, None), (2.0, -1), (0.5, 0.5), (0.5, 0.2)):
        with pytest.raises(DataError, match="no samples"):
            read_audio(tmp_path / "a.wav", start=start, end=end)
    for start, end in ((-0.1, None), (0.0, -2.0)):
        with pytest.raises(DataError, match="expected times from 0"):
            read_audio(tmp_path / "a.wav", start=start, end=end)


def test_samples_that_are_not_finite(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "nan.wav", np.array([0.0, np.nan]), 16000, subtype="FLOAT")
    with pytest.raises(DataError, match="not finite"):
        read_audio(tmp_path / "nan.wav")
    with pytest.raises(DataError, match="not finite"):
        write_audio(tmp_path / "b.wav", np.array([np.inf], np.float32), 16000)


def test_a_flac_cut_short(tmp_path: Path) -> None:
    path = tmp_path / "a.flac"
    write_audio(path, np.random.default_rng(0).uniform(-1, 1, 40000).astype(np.float32), 16000)
    path.write_bytes(path.read_bytes()[:30000])
    with pytest.raises(DataError, match=r"a\.flac: "):
        read_audio(path)


def test_what_cannot_be_written(tmp_path: Path) -> None:
    audio = sine(440, 11025)
    for name, rate in (("a.opus", 11025), ("a.xyz", 16000), ("no/folder/a.wav", 16000)):
        with pytest.raises(DataError, match=name):
            write_audio(tmp_path / name, audio, rate)
    with pytest.raises(ShapeError, match=r"\[N\]"):
        write_audio(tmp_path / "a.wav", audio[None], 11025)


def test_writing_clips_and_takes_long_audio(tmp_path: Path) -> None:
    write_audio(tmp_path / "a.wav", np.array([2.0, -2.0], np.float32), 16000)
    np.testing.assert_allclose(read_audio(tmp_path / "a.wav")[0], [1.0, -1.0], atol=1e-4)
    write_audio(tmp_path / "long.ogg", np.zeros(3_000_000, np.float32), 48000)
    assert audio_info(tmp_path / "long.ogg").samples == 3_000_000
