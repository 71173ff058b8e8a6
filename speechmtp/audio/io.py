"""Read, cut, resample and write audio of files, streams and command pipes."""

import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from speechmtp.audio.files import AudioSource, OpenAudio, opened
from speechmtp.audio.levels import Levels, check_floats, mix
from speechmtp.audio.names import shown
from speechmtp.audio.pipes import run_pipe
from speechmtp.audio.resampling import resampled_length
from speechmtp.audio.writer import AudioWriter, check_samples
from speechmtp.errors import DataError, ShapeError

WHOLE = 60  # seconds: a file that is no longer is read at once
BLOCK = 10  # seconds of a longer one that are read at a time


@dataclass(frozen=True)
class AudioInfo:
    """An audio file: rate in Hz, number of channels, samples per channel."""

    rate: int
    channels: int
    samples: int

    @property
    def duration(self) -> float:
        """Duration in seconds."""
        return self.samples / self.rate


def audio_info(path: str | Path) -> AudioInfo:
    """Rate, channels and samples of a file, or of an entry `path:offset` of a Kaldi archive: those that are there,
    counted without decoding where the container allows it. DataError if it cannot be read, or if its header tells of
    more or less than is there."""
    if Path(path).exists() and not Path(path).is_file():
        raise DataError(f"{shown(path)}: not a file, expected audio; check the path")
    with opened(path) as file:
        return AudioInfo(rate=file.samplerate, channels=file.channels, samples=file.samples)


def read_audio(
    source: AudioSource,
    rate: int | None = 16000,
    start: float = 0.0,
    end: float | None = None,
    channel: int | None = None,
) -> tuple[np.ndarray, int]:
    """Read a file, an entry `path:offset` of a Kaldi archive or a binary stream as float32 mono `[N]`, nominally in
    [-1, 1]; return the samples and their rate.

    All of it is heard, whatever its header says, and a pipe or /dev/stdin is read to its end. What libsndfile does not
    know is read through ffmpeg if that is installed.

    `start` and `end` are in seconds and cut at sample `floor(t * fs + 0.5)` of the file's own rate; `end` None or -1
    means the end, and an end past the last sample is the last sample. Channels are averaged (see `levels.mix`)
    unless `channel` (from 0) selects one. `rate` None keeps the file's rate. DataError for a missing or unreadable
    source, no samples in the range, samples that are not finite or far beyond 1, or a channel out of range.
    """
    with opened(source) as file:
        if channel is not None and not 0 <= channel < file.channels:
            raise DataError(
                f"{file.where}: channel {channel} asked, expected 0 to {file.channels - 1}; channels are counted from 0"
            )
        data = file.read(start, end)
    mono = _mono(file.where, data, channel)
    if rate is None or rate == file.samplerate:
        return mono, file.samplerate
    return resample(mono, file.samplerate, rate), rate


def mono_blocks(file: OpenAudio) -> Iterator[np.ndarray]:
    """All of a file as float32 mono blocks [n] at its own rate, each a few seconds, with the errors of `read_audio`.

    A file of at most a minute is one block. The channels of a longer one, and floats, are looked at in a first pass, so
    that what `levels` says of them holds for the whole file.
    """
    where, rate, levels = file.where, file.samplerate, Levels()
    channel = 0 if file.channels == 1 else None
    if file.most <= WHOLE * rate:
        yield _mono(where, file.read(0.0, None))
        return
    surveyed = file.channels > 1 or not file.keeps_scale
    if surveyed:
        for block in file.blocks(int(BLOCK * rate)):
            levels.add(block)
            levels.add_channels(block)
        levels.check(where)
        channel = channel if file.channels == 1 else levels.loudest(where)
    for block in file.blocks(int(BLOCK * rate)):
        if not surveyed:
            levels.add(block)
            levels.check(where)
        yield _finite(where, block.mean(1, dtype=np.float32) if channel is None else block[:, channel])


def _mono(where: str, data: np.ndarray, channel: int | None = None) -> np.ndarray:
    """Samples [N] of all samples [N, channels] that are heard."""
    check_floats(where, data)
    return _finite(where, mix(where, data) if channel is None else data[:, channel])


def _finite(where: str, mono: np.ndarray) -> np.ndarray:
    """Samples [n], contiguous; DataError if some are not finite."""
    if not np.isfinite(mono).all():
        raise DataError(f"{where}: samples that are not finite, expected numbers; write the file anew")
    return np.ascontiguousarray(mono, dtype=np.float32)


def resample(audio: np.ndarray, source_rate: float, target_rate: float) -> np.ndarray:
    """Resample float32 `[N]` band-limited to `[ceil(N * target_rate / source_rate)]`. DataError for rates that are not
    positive, ShapeError for several channels."""
    # soxr is what librosa's default resampler calls; importing librosa for it would cost a second.
    import soxr

    if source_rate <= 0 or target_rate <= 0:
        raise DataError(f"resample: rates {source_rate} to {target_rate}, expected positive rates in Hz")
    if audio.ndim != 1:
        raise ShapeError(f"resample: audio of shape {audio.shape}, expected [N]")
    audio = np.ascontiguousarray(audio, dtype=np.float32)
    if source_rate == target_rate or len(audio) == 0:
        return audio.copy()
    length = resampled_length(len(audio), source_rate, target_rate)
    output = np.asarray(soxr.resample(audio, source_rate, target_rate, quality="HQ"), dtype=np.float32)
    if len(output) < length:
        output = np.pad(output, (0, length - len(output)))
    return np.ascontiguousarray(output[:length])


def read_pipe(
    command: str, timeout: float = 60.0, rate: int | None = 16000, channel: int | None = None, name: str = ""
) -> tuple[np.ndarray, int]:
    """Audio that a shell command writes to its standard output, as `read_audio` returns it.

    Runs `bash -o pipefail -c command` without input and with only PATH and LC_ALL in its environment; it is killed with
    its children after `timeout` seconds or at 1 GiB of output. DataError with the command, its exit code and the last
    line of its error output if it fails, is killed or writes no audio. Errors of the audio itself call it `name`
    (default: the command).
    """
    stream = io.BytesIO(run_pipe(command, timeout))
    stream.name = name or f"{command} |"
    return read_audio(stream, rate=rate, channel=channel)


def write_audio(path: str | Path, audio: np.ndarray, rate: int) -> None:
    """Write float32 mono `[N]`; the extension selects the format (wav is 16-bit), values beyond 1 are clipped.

    DataError for samples that are not finite, an unknown extension, a rate that the codec lacks, or a path that cannot
    be written; ShapeError for several channels.
    """
    check_samples(path, audio)
    with AudioWriter(path, rate) as file:
        file.write(audio)
