"""Reads and encodes many recordings one after the other, each only when it is needed."""

import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Literal, Protocol, TypeVar

import numpy as np

from speechmtp.audio.inputs import Audio, input_name, is_number, is_record, read_input
from speechmtp.errors import ConfigError, DataError
from speechmtp.progress import AudioProgress

AudioSource = Audio | Callable[[], Audio]  # a function is called when its turn comes

OnError = Literal["raise", "return"]


class Part(Protocol):
    """A part of a recording that was encoded."""

    @property
    def audio_seconds(self) -> float:
        """Duration in seconds."""


P = TypeVar("P", bound=Part)


def sources_of(sources: Iterable[AudioSource]) -> Iterable[AudioSource]:
    """The sources unchanged; ConfigError for a single recording."""
    pair = isinstance(sources, tuple) and len(sources) == 2 and any(is_number(part) for part in sources)
    alone = isinstance(sources, str | bytes | bytearray | memoryview) or hasattr(sources, "read")
    if pair or alone or is_record(sources) or not hasattr(sources, "__iter__") or hasattr(sources, "__array__"):
        kind = sources if isinstance(sources, str) else getattr(sources, "name", type(sources).__name__)
        raise ConfigError(f"transcribe_many: {kind}, expected a list of recordings; a single one goes to transcribe")
    return sources


def noise_key_of(name: str) -> int:
    """The noise key of an utterance id: its sampling noise is the same in every data set, batch and job."""
    return zlib.crc32(name.encode(errors="surrogateescape"))


def listen_each(
    sources: Iterable[AudioSource], rate: float | None, target_rate: int,
    listen: Callable[[np.ndarray, str, int], Iterable[P]], progress: AudioProgress,
    names: Sequence[str] | None = None, noise_keys: Sequence[int] | None = None, raises: bool = True,
) -> Iterator[list[P] | DataError]:  # fmt: skip
    """Read every source when its turn comes and yield its parts, encoded by `listen`.

    `listen` gets the samples [N] at `target_rate` Hz, the name for errors, and the noise key of the first part. A
    DataError is yielded in place of a source that cannot be read or encoded (including an OSError or ValueError of a
    source that is a function); with `raises` it is the last item. `names` are what errors call the sources (default:
    paths, or a kind with a number). `noise_keys` are one per source (default: parts are numbered). ConfigError if
    either list is too short.
    """
    count = 0
    for number, source in enumerate(sources):
        for what, given in (("names", names), ("noise_keys", noise_keys)):
            if given is not None and number >= len(given):
                raise ConfigError(f"transcribe_many: {len(given)} {what} for more recordings; give one for each")
        seconds, parts = 0.0, list[P]()
        name = names[number] if names is not None else _name(source, number)
        key = noise_keys[number] if noise_keys is not None else count
        try:
            samples = read_input(_called(source, name) if callable(source) else source, target_rate, rate, name)
            seconds = len(samples) / target_rate
            progress.read(seconds)
            for part in listen(samples, name, key):
                parts.append(part)
                count += 1
                progress.add(part.audio_seconds)
        except DataError as error:
            progress.give_up(seconds, sum(part.audio_seconds for part in parts))
            yield error
            if raises:
                return
        else:
            yield parts
    progress.all_read()


def _called(source: Callable[[], Audio], name: str) -> Audio:
    """The audio that a function returns; its OSError or ValueError becomes a DataError."""
    try:
        return source()
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise DataError(f"{name}: not to be had ({reason}); look at the function that reads it") from error


def _name(source: AudioSource, number: int) -> str:
    name = "source" if callable(source) else input_name(source)
    return f"{name}[{number}]" if name in ("audio", "bytes", "source", "stream") else name
