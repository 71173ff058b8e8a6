"""Read, cut, resample and write audio of files, streams and command pipes."""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from speechmtp.audio.pipes import mend_wav_lengths, run_pipe
from speechmtp.errors import DataError, ShapeError

AudioSource = str | Path | BinaryIO

# Lossy codecs carry state between packets, so seeking to a sample is inexact.
_INEXACT_SEEK = frozenset({"OGG", "MP3", "MPEG"})
_WRITE_BLOCK = 1 << 16


@dataclass(frozen=True)
class AudioInfo:
    """The header of an audio file: rate in Hz, number of channels, samples per channel."""

    rate: int
    channels: int
    samples: int

    @property
    def duration(self) -> float:
        """Duration in seconds."""
        return self.samples / self.rate


def audio_info(path: str | Path) -> AudioInfo:
    """Rate, channels and samples from the header of a file; DataError if it cannot be read."""
    with _opened(path) as file:
        return AudioInfo(rate=file.samplerate, channels=file.channels, samples=file.frames)


def read_audio(
    source: AudioSource,
    rate: int | None = 16000,
    start: float = 0.0,
    end: float | None = None,
    channel: int | None = None,
) -> tuple[np.ndarray, int]:
    """Read a file or binary stream as float32 mono `[N]`, nominally in [-1, 1]; return the samples and their rate.

    `start` and `end` are in seconds and cut at sample `floor(t * fs + 0.5)` of the file's own rate; `end` None or -1
    means the end, and an end past the last sample is the last sample. Channels are averaged unless `channel` (from 0)
    selects one. `rate` None keeps the file's rate. DataError for a missing or unreadable source, no samples in the
    range, samples that are not finite, or a channel out of range.
    """
    where = _name(source)
    with _opened(source) as file:
        if channel is not None and not 0 <= channel < file.channels:
            raise DataError(
                f"{where}: channel {channel} asked, expected 0 to {file.channels - 1}; channels are counted from 0"
            )
        data = _decode(where, file, start, end)
        source_rate = file.samplerate
    if channel is not None:
        mono = data[:, channel]
    else:
        mono = data[:, 0] if data.shape[1] == 1 else data.mean(axis=1, dtype=np.float32)
    if not np.isfinite(mono).all():
        raise DataError(f"{where}: samples that are not finite, expected numbers; write the file anew")
    mono = np.ascontiguousarray(mono, dtype=np.float32)
    if rate is None or rate == source_rate:
        return mono, source_rate
    return resample(mono, source_rate, rate), rate


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
    # The small offset prevents rounding up a quotient that is whole except for rounding errors.
    length = int(np.ceil(len(audio) * target_rate / source_rate - 1e-6))
    output = np.asarray(soxr.resample(audio, source_rate, target_rate, quality="HQ"), dtype=np.float32)
    if len(output) < length:
        output = np.pad(output, (0, length - len(output)))
    return np.ascontiguousarray(output[:length])


def read_pipe(
    command: str, timeout: float = 60.0, rate: int | None = 16000, channel: int | None = None, name: str = ""
) -> tuple[np.ndarray, int]:
    """Audio that a shell command writes to its standard output, as `read_audio` returns it.

    Runs `bash -o pipefail -c command` without input and with only PATH and LC_ALL in its environment; it is killed with
    its children after `timeout` seconds or at 1 GiB of output. A WAV header whose length was unknown when it was
    written is corrected. DataError with the command, its exit code and the last line of its error output if it fails,
    is killed or writes no audio. Errors of the audio itself call it `name` (default: the command).
    """
    stream = io.BytesIO(mend_wav_lengths(f"{command} |", run_pipe(command, timeout)))
    stream.name = name or f"{command} |"
    return read_audio(stream, rate=rate, channel=channel)


def write_audio(path: str | Path, audio: np.ndarray, rate: int) -> None:
    """Write float32 mono `[N]`; the extension selects the format (wav is 16-bit), values beyond 1 are clipped.

    DataError for samples that are not finite, an unknown extension, a rate that the codec lacks, or a path that cannot
    be written; ShapeError for several channels.
    """
    import soundfile

    if audio.ndim != 1:
        raise ShapeError(f"{path}: audio of shape {audio.shape}, expected [N]")
    if not np.isfinite(audio).all():
        raise DataError(f"{path}: samples that are not finite, expected numbers in [-1, 1]")
    suffix = Path(path).suffix.lower()
    kind = {"format": "OGG", "subtype": "OPUS"} if suffix == ".opus" else {}
    try:
        with soundfile.SoundFile(str(path), "w", samplerate=rate, channels=1, **kind) as file:
            # One large write to Ogg overflows the stack of libsndfile.
            for begin in range(0, len(audio), _WRITE_BLOCK):
                file.write(np.asarray(audio[begin : begin + _WRITE_BLOCK], dtype=np.float32))
    except (soundfile.SoundFileError, TypeError, ValueError) as error:
        raise DataError(
            f"{path}: not writable at {rate} Hz ({_one_line(error)}), "
            "expected a known extension and a rate the codec has; try .wav"
        ) from error


def _name(source: AudioSource) -> str:
    """The name of a source in errors."""
    if isinstance(source, str | Path):
        return str(source)
    return str(getattr(source, "name", "<stream>"))


def _one_line(error: BaseException) -> str:
    """The message of a library's error, on one line."""
    # libsndfile's own message does not repeat the file, which the caller names already.
    text = getattr(error, "error_string", None) or str(error)
    return " ".join(text.split()).rstrip(".") or type(error).__name__


@contextmanager
def _opened(source: AudioSource) -> Iterator[Any]:
    """Yield an open `soundfile.SoundFile`; its errors, also while it is open, become DataErrors."""
    import soundfile

    where = _name(source)
    target: Any = source
    if isinstance(source, str | Path):
        if not Path(source).exists():
            raise DataError(f"{where}: no such file, expected audio; check the path")
        if not Path(source).is_file():
            raise DataError(f"{where}: not a file, expected audio; check the path")
        target = str(source)
    elif not source.seekable():
        target = io.BytesIO(source.read())
    try:
        with soundfile.SoundFile(target) as file:
            yield file
    except (soundfile.SoundFileError, TypeError, ValueError, OSError) as error:
        raise DataError(
            f"{where}: unreadable ({_one_line(error)}), expected audio that libsndfile knows; check or convert the file"
        ) from error


def _sample_range(where: str, start: float, end: float | None, rate: int, samples: int) -> tuple[int, int]:
    """The first sample, and one past the last, of a cut given in seconds."""
    if start < 0 or (end is not None and end < 0 and end != -1):
        raise DataError(f"{where}: cut from {start:g} to {end} s, expected times from 0 on; end -1 is the end")
    first = int(np.floor(start * rate + 0.5))
    last = samples if end is None or end == -1 else min(samples, int(np.floor(end * rate + 0.5)))
    if last <= first:
        stop = "the end" if end in (None, -1) else f"{end:g} s"
        raise DataError(
            f"{where}: no samples between {start:g} s and {stop}, expected audio; the file has {samples / rate:g} s"
        )
    return first, last


def _decode(where: str, file: Any, start: float, end: float | None) -> np.ndarray:
    """The cut of an open file as float32 `[n, channels]`, n at least 1."""
    data: np.ndarray
    if file.format in _INEXACT_SEEK:
        data = file.read(dtype="float32", always_2d=True)
        first, last = _sample_range(where, start, end, file.samplerate, len(data))
        return data[first:last]
    first, last = _sample_range(where, start, end, file.samplerate, file.frames)
    if first:
        file.seek(first)
    data = file.read(last - first, dtype="float32", always_2d=True)
    if len(data) < last - first:
        raise DataError(
            f"{where}: {first + len(data)} samples, expected {file.frames} by its header; "
            "the file is cut short, copy it anew"
        )
    return data
