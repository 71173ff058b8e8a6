"""Reads and encodes many recordings in order, each only when it is needed."""

import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, TypeVar

import numpy as np

from speechmtp.audio.inputs import Audio, input_name, is_number, is_record, read_input
from speechmtp.crew import Crew
from speechmtp.errors import ConfigError, DataError
from speechmtp.progress import AudioProgress

AudioSource = Audio | Callable[[], Audio]  # a function is called when its turn comes

OnError = Literal["raise", "return"]
Span = tuple[int, int]  # of samples, [start, end)

AHEAD = 32  # parts read before their turn, besides one for each worker: some take ten times as long as others


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


@dataclass(frozen=True)
class _Piece:
    """A part of a recording before it is encoded, or why there is none: the number of its recording, samples [N], the
    name for errors, the noise key, the seconds of the whole recording, and whether it is the last part."""

    number: int
    name: str
    samples: np.ndarray | None = None
    noise_key: int = 0
    seconds: float = 0.0
    last: bool = True
    error: DataError | None = None


def listen_each(
    sources: Iterable[AudioSource], rate: float | None, target_rate: int, spans: Callable[[np.ndarray], list[Span]],
    listen: Callable[[np.ndarray, str, int], P], progress: AudioProgress, crew: Crew,
    names: Sequence[str] | None = None, noise_keys: Sequence[int] | None = None, raises: bool = True,
) -> Iterator[list[P] | DataError]:  # fmt: skip
    """Read every source when its turn comes and yield its parts, encoded by `listen` in the workers of `crew`.

    `spans` gives the parts of samples [N] at `target_rate` Hz; `listen` gets the samples of a part, the name for errors
    and the part's noise key. A DataError is yielded in place of a source that cannot be read or encoded (including an
    OSError or ValueError of a source that is a function); with `raises` it is the last item. `names` are what errors
    call the sources (default: paths, or a kind with a number). `noise_keys` are one per source, that of its first part
    (default: parts are numbered). ConfigError if either list is too short.
    """
    broken = set[int]()  # numbers of recordings of which a part could not be encoded

    def heard(piece: _Piece) -> tuple[_Piece, P | DataError | None]:
        if piece.samples is None or piece.number in broken:
            return piece, piece.error
        try:
            return piece, listen(piece.samples, piece.name, piece.noise_key)
        except DataError as error:
            broken.add(piece.number)
            return piece, error

    pieces = _read_each(sources, rate, target_rate, spans, progress, names, noise_keys, raises)
    parts, given_up = list[P](), -1
    for piece, found in crew.map(heard, pieces, crew.size + AHEAD):
        if isinstance(found, DataError):
            progress.give_up(piece.seconds, sum(part.audio_seconds for part in parts))
            parts, given_up = [], piece.number
            yield found
            if raises:
                return
        elif found is not None and piece.number != given_up:
            parts.append(found)
            progress.add(found.audio_seconds)
            if piece.last:
                yield parts
                parts = []


def _read_each(
    sources: Iterable[AudioSource], rate: float | None, target_rate: int, spans: Callable[[np.ndarray], list[Span]],
    progress: AudioProgress, names: Sequence[str] | None, noise_keys: Sequence[int] | None, raises: bool,
) -> Iterator[_Piece]:  # fmt: skip
    """Read the sources and yield their parts in order; with `raises` up to the first error."""
    count = 0
    for number, source in enumerate(sources):
        for what, given in (("names", names), ("noise_keys", noise_keys)):
            if given is not None and number >= len(given):
                raise ConfigError(f"transcribe_many: {len(given)} {what} for more recordings; give one for each")
        name = names[number] if names is not None else _name(source, number)
        key = noise_keys[number] if noise_keys is not None else count
        seconds = 0.0
        try:
            samples = read_input(_called(source, name) if callable(source) else source, target_rate, rate, name)
            seconds = len(samples) / target_rate
            progress.read(seconds)
            found = spans(samples)
        except DataError as error:
            yield _Piece(number, name, seconds=seconds, error=error)
            if raises:
                return
            continue
        count += len(found)
        for place, (start, end) in enumerate(found):
            yield _Piece(number, name, samples[start:end], key + place, seconds, place + 1 == len(found))
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
