"""Audio inputs of the Python interface: files, streams, bytes, arrays, lists, tensors, and pairs of samples and
rate."""

import io
import numbers
import os
from collections.abc import Mapping, Sequence
from typing import Any, BinaryIO

import numpy as np
import torch

from speechmtp.audio.io import read_audio, resample
from speechmtp.audio.levels import check_floats, check_integers, mix
from speechmtp.audio.names import shown
from speechmtp.errors import ConfigError, DataError, UnreadableError

Samples = np.ndarray | torch.Tensor | Sequence[float]
Audio = (
    str | os.PathLike[str] | BinaryIO | bytes | bytearray | memoryview | Samples | tuple[Any, Any] | Mapping[str, Any]
)

RATES = 1000, 1_000_000  # Hz that recordings may have
EXPECTED = "a path, a binary file, bytes of a file, an array, tensor or list of samples, or (samples, rate)"


def read_input(audio: Audio, target_rate: int, rate: float | None = None, name: str = "") -> np.ndarray:
    """Read any kind of audio as float32 mono samples [N] at `target_rate` Hz; `name` is what errors call it.

    A path, an open binary file (read from its current position; it may be a pipe) and the bytes of a file contain their
    own rate. Samples are at `rate` Hz, or come with their rate: as a pair (samples, rate) or (rate, samples), or as a
    dict with `array` and `sampling_rate`, as in Hugging Face datasets. Samples are an array [N] or [N, channels], as in
    soundfile and scipy, a tensor [N] or [channels, N] on any device, as in torchaudio, or a list of floats. Floats are
    in [-1, 1], integers are scaled by the range of their type; channels are averaged.

    ConfigError for a `rate` that contradicts another one, and for samples without a rate; DataError for all that cannot
    be read.
    """
    name = name or input_name(audio)
    if is_record(audio):
        record: Any = audio
        audio = record["array"], checked_rate(record["sampling_rate"], name)
    if isinstance(audio, tuple):
        audio, rate = _pair(audio, rate, name)
    if _is_file(audio):
        samples = _of_file(audio, target_rate, rate, name)
    else:
        samples = _mono(_array(audio, name), name)
        own = checked_rate(rate, name)
        samples = samples if own == target_rate else resample(samples, own, target_rate)
    return samples


def input_name(audio: object) -> str:
    """The default name of an input in errors: the path, the stream's name, or its kind."""
    if isinstance(audio, str | os.PathLike):
        return shown(audio)
    if isinstance(audio, bytes | bytearray | memoryview):
        return "bytes"
    if hasattr(audio, "read"):
        own = getattr(audio, "name", None)
        return own if isinstance(own, str) else "stream"
    return "audio"


def _is_file(audio: object) -> bool:
    return isinstance(audio, str | os.PathLike | bytes | bytearray | memoryview) or hasattr(audio, "read")


def _of_file(audio: Any, target_rate: int, rate: float | None, name: str) -> np.ndarray:
    """Samples of a path, a stream or the bytes of a file."""
    if isinstance(audio, str | os.PathLike):
        return _at(*read_audio(os.fspath(audio), None), target_rate, rate, name)
    if isinstance(audio, bytes | bytearray | memoryview):
        data = bytes(audio)
    else:
        data = _content(audio, name)
    if not data:
        again = "seek(0) before it is read" if getattr(audio, "seekable", bool)() else "nothing was written to it"
        raise DataError(f"{name}: no bytes from where it stands to its end, expected audio; {again}")
    stream = io.BytesIO(data)
    stream.name = name
    try:
        samples, own = read_audio(stream, None)
    except UnreadableError as error:
        raise DataError(f"{error}; raw samples go in as an array with their rate") from error
    return _at(samples, own, target_rate, rate, name)


def _at(samples: np.ndarray, own: int, target_rate: int, rate: float | None, name: str) -> np.ndarray:
    """A file's samples [N] resampled to the target rate; ConfigError for a `rate` that is not the file's own."""
    if rate is not None and checked_rate(rate, name) != own:
        raise ConfigError(f"{name}: {own} Hz in the file and rate={rate}; leave rate out, or pair it with its samples")
    return samples if own == target_rate else resample(samples, own, target_rate)


def _content(file: Any, name: str) -> bytes:
    """The rest of an open file, which is left open."""
    if isinstance(file, io.TextIOBase):
        raise DataError(f"{name}: opened as text, expected a binary file; open it with 'rb', stdin as sys.stdin.buffer")
    try:
        data = file.read()
    except (OSError, ValueError) as error:
        raise DataError(f"{name}: unreadable ({error}), expected an open binary file") from error
    if not isinstance(data, bytes | bytearray | memoryview):
        raise DataError(f"{name}: read() gives {type(data).__name__}, expected bytes; open it as a binary file")
    return bytes(data)


def _pair(pair: tuple[Any, ...], rate: float | None, name: str) -> tuple[Any, float]:
    """Samples and rate of a pair in either order; DataError for other tuples, ConfigError for a second, different
    rate."""
    plain = [is_number(part) for part in pair] if len(pair) == 2 else []
    if sorted(plain) != [False, True] or _is_file(pair[plain.index(False)]):
        kinds = ", ".join(type(part).__name__ for part in pair[:3])
        raise DataError(
            f"{name}: a tuple of {len(pair)} ({kinds}), expected (samples, rate) as soundfile.read gives it"
        )
    samples, own = pair[plain.index(False)], checked_rate(pair[plain.index(True)], name)
    if rate is not None and checked_rate(rate, name) != own:
        raise ConfigError(f"{name}: {own:g} Hz beside its samples and rate={rate:g}; give one of them")
    return samples, own


def is_number(part: object) -> bool:
    """Whether `part` is a single number of Python, NumPy or PyTorch."""
    return isinstance(part, numbers.Number) or getattr(part, "ndim", 1) == 0


def is_record(audio: object) -> bool:
    """Whether `audio` is a dict of samples and rate."""
    return isinstance(audio, Mapping) and {"array", "sampling_rate"} <= set(audio)


def checked_rate(rate: Any, name: str) -> float:
    """A rate in Hz; ConfigError if it is missing or not a number that recordings may have."""
    if rate is None:
        raise ConfigError(f"{name}: samples need their rate in Hz; give rate=16000 or what it is")
    rate = rate.item() if is_number(rate) and hasattr(rate, "item") else rate
    if isinstance(rate, bool) or not isinstance(rate, int | float) or not RATES[0] <= rate <= RATES[1]:
        raise ConfigError(f"{name}: rate={rate!r:.40}, expected a number of Hz such as 16000")
    return float(rate)


def _array(audio: Any, name: str) -> np.ndarray:
    """Samples [N] or [N, channels] of an array, a tensor or a list."""
    if isinstance(audio, torch.Tensor):
        return _of_tensor(audio, name)
    if isinstance(audio, list):
        return _of_list(audio, name)
    if not hasattr(audio, "__array__"):
        raise DataError(f"{name}: a {type(audio).__name__}, expected {EXPECTED}")
    return np.asarray(audio)


def _of_tensor(audio: torch.Tensor, name: str) -> np.ndarray:
    """Samples [N] or [N, channels] of a tensor [N] or [channels, N]."""
    if audio.ndim not in (1, 2) or (audio.ndim == 2 and audio.shape[0] > audio.shape[1]):
        raise DataError(f"{name}: tensor of shape {list(audio.shape)}, expected [N] or [channels, N] as in torchaudio")
    try:
        audio = audio.detach().cpu()
        array: np.ndarray = (audio.float() if audio.dtype == torch.bfloat16 else audio).numpy()
    except (RuntimeError, TypeError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise DataError(f"{name}: a tensor without samples ({reason}), expected a dense one with values") from error
    return array.T


def _of_list(audio: list[Any], name: str) -> np.ndarray:
    """Samples [N] or [N, channels] of a list of numbers, or of lists of them."""
    kinds = {type(part) for part in audio[:1]}
    if not all(issubclass(kind, numbers.Real | list) or np.issubdtype(kind, np.number) for kind in kinds):
        kind = next(iter(kinds)).__name__
        raise DataError(f"{name}: a list of {kind}, expected numbers; several recordings go to transcribe_many")
    try:
        return np.asarray(audio) if audio else np.zeros(0, np.float32)
    except ValueError as error:
        raise DataError(f"{name}: a list of lists of several lengths, expected numbers, or a list of channels a sample"
                        ) from error  # fmt: skip


def _mono(audio: np.ndarray, name: str) -> np.ndarray:
    """Float32 samples [N] of an array [N] or [N, channels]; integers are scaled by their type's range. DataError for
    samples that look like those of another type."""
    if audio.ndim not in (1, 2) or (audio.ndim == 2 and audio.shape[1] > audio.shape[0]):
        raise DataError(f"{name}: array of shape {audio.shape}, expected [N] or [N, channels]")
    if not (np.issubdtype(audio.dtype, np.integer) or np.issubdtype(audio.dtype, np.floating)):
        raise DataError(f"{name}: samples of type {audio.dtype}, expected floats in [-1, 1] or integers")
    if np.issubdtype(audio.dtype, np.integer):
        info = np.iinfo(audio.dtype)
        if info.bits > 32:  # lists of integers become int64: their range is unknown
            if ((audio > 1) | (audio < -1)).any():
                raise DataError(f"{name}: {audio.dtype} samples, whose range is unknown; give int16, int32 or floats")
            audio = audio.astype(np.float64)
        else:
            if audio.dtype == np.int32:
                check_integers(name, audio)
            middle = 0 if info.min else (info.max + 1) // 2  # unsigned samples, as in 8-bit WAV files
            audio = (audio.astype(np.float64) - middle) / ((info.max + 1.0) / (2 if middle else 1))
    audio = audio.astype(np.float32)
    check_floats(name, audio)
    return mix(name, audio) if audio.ndim == 2 else audio
