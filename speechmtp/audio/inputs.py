"""Audio inputs of the Python interface: files, streams, bytes, arrays, lists, tensors, and pairs of samples and
rate."""

import numbers
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, BinaryIO, TypeAlias

import numpy as np

from speechmtp.audio.containers.links import Data
from speechmtp.audio.files import OpenAudio, opened
from speechmtp.audio.io import mono_blocks
from speechmtp.audio.levels import check_floats, check_integers, mix
from speechmtp.audio.names import shown
from speechmtp.audio.raw import RATES
from speechmtp.audio.resampling import StreamResampler, resampled_length
from speechmtp.audio.spool import spooled
from speechmtp.errors import ConfigError, DataError, UnreadableError

if TYPE_CHECKING:  # who has no tensors need not wait for torch
    import torch

Samples: TypeAlias = "np.ndarray | torch.Tensor | Sequence[float]"
Audio: TypeAlias = (
    "str | os.PathLike[str] | BinaryIO | bytes | bytearray | memoryview | Samples | tuple[Any, Any] | Mapping[str, Any]"
)

EXPECTED = "a path, a binary file, bytes of a file, an array, tensor or list of samples, or (samples, rate)"


class Recording:
    """Any kind of audio as blocks of float32 mono samples [n] at `target_rate` Hz, which make up all of it; `name` is
    what errors call it.

    A path, an open binary file (read from its current position; it may be a pipe) and the bytes of a file contain their
    own rate. Samples are at `rate` Hz, or come with their rate: as a pair (samples, rate) or (rate, samples), or as a
    dict with `array` and `sampling_rate`, as in Hugging Face datasets. Samples are an array [N] or [N, channels], as in
    soundfile and scipy, a tensor [N] or [channels, N] on any device, as in torchaudio, or a list of floats. Floats are
    in [-1, 1], integers are scaled by the range of their type; channels are averaged.

    Iterating reads it, files a few seconds at a time. `seconds` is the duration: None before the first block, then what
    the file tells of, and exact once all blocks are there. ConfigError for a `rate` that contradicts another one, and
    for samples without a rate; DataError for all that cannot be read, in a long file maybe after some blocks.
    """

    def __init__(
        self, audio: Audio, target_rate: int, rate: float | None = None, name: str = "", programs: bool = True,
        check: Callable[[OpenAudio], object] = lambda file: None,
    ) -> None:  # fmt: skip
        """Nothing is read yet. `check` is called with a file that was opened, and may raise a DataError; `programs` is
        that of `opened`."""
        self._audio, self._target_rate, self._rate = audio, target_rate, rate
        self._programs, self._check = programs, check
        self._name = name or input_name(audio)
        self.seconds: float | None = None

    def __iter__(self) -> Iterator[np.ndarray]:
        name, audio, rate = self._name, self._audio, self._rate
        if is_record(audio):
            record: Any = audio
            audio = record["array"], checked_rate(record["sampling_rate"], name)
        if isinstance(audio, tuple):
            audio, rate = _pair(audio, rate, name)
        if _is_file(audio):
            yield from self._of_file(audio, rate)
        else:
            samples = _mono(_array(audio, name), name)
            yield from self._resampled(iter([samples]), checked_rate(rate, name), len(samples))

    def _of_file(self, audio: Any, rate: float | None) -> Iterator[np.ndarray]:
        """The blocks of a path, a stream or the bytes of a file. ConfigError for a `rate` that is not the file's."""
        name, by_path = self._name, isinstance(audio, str | os.PathLike)
        data: Any = os.fspath(audio) if by_path else _content(audio, name)
        try:
            with opened(data, "" if by_path else name, self._programs) as file:
                self._check(file)
                own = file.samplerate
                if rate is not None and checked_rate(rate, name) != own:
                    raise ConfigError(
                        f"{name}: {own} Hz in the file and rate={rate}; leave rate out, or pair it with its samples"
                    )
                yield from self._resampled(mono_blocks(file), own, file.most)
        except UnreadableError as error:
            if by_path:
                raise
            raise DataError(f"{error}; raw samples go in as an array with their rate") from error

    def _resampled(self, blocks: Iterator[np.ndarray], own: float, told: int) -> Iterator[np.ndarray]:
        """The blocks, at `own` Hz, at the target rate; `told` is the expected number of samples at their own."""
        self.seconds = resampled_length(told, own, self._target_rate) / self._target_rate
        resampler, count = StreamResampler(own, self._target_rate), 0
        for block in blocks:
            found = block if own == self._target_rate else resampler.push(block)
            count += len(found)
            yield found
        rest = resampler.finish()
        count += len(rest)
        self.seconds = count / self._target_rate
        yield rest


def read_input(audio: Audio, target_rate: int, rate: float | None = None, name: str = "") -> np.ndarray:
    """All samples [N] of a `Recording`, which tells what `audio` may be, and of errors."""
    blocks = [block for block in Recording(audio, target_rate, rate, name) if len(block)]
    return blocks[0] if len(blocks) == 1 else np.concatenate([np.zeros(0, np.float32), *blocks])


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


def _content(audio: Any, name: str) -> Data:
    """The bytes of a file, or the rest of those of an open one, which is left open."""
    data = bytes(audio) if isinstance(audio, bytes | bytearray | memoryview) else spooled(audio, name)
    if not data:
        again = "seek(0) before it is read" if getattr(audio, "seekable", bool)() else "nothing was written to it"
        raise DataError(f"{name}: no bytes from where it stands to its end, expected audio; {again}")
    return data


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
    torch = sys.modules.get("torch")  # whoever made a tensor has imported it
    if torch is not None and isinstance(audio, torch.Tensor):
        return _of_tensor(audio, name)
    if isinstance(audio, list):
        return _of_list(audio, name)
    if not hasattr(audio, "__array__"):
        raise DataError(f"{name}: a {type(audio).__name__}, expected {EXPECTED}")
    return np.asarray(audio)


def _of_tensor(audio: "torch.Tensor", name: str) -> np.ndarray:
    """Samples [N] or [N, channels] of a tensor [N] or [channels, N]."""
    if audio.ndim not in (1, 2) or (audio.ndim == 2 and audio.shape[0] > audio.shape[1]):
        raise DataError(f"{name}: tensor of shape {list(audio.shape)}, expected [N] or [channels, N] as in torchaudio")
    import torch

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
