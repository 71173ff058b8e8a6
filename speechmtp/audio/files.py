"""Open audio of any container so that all of it is heard, or say in one line what is missing."""

import os
import stat
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from speechmtp.audio.archives import source_at
from speechmtp.audio.containers.detect import links_of
from speechmtp.audio.containers.links import Data, Link, Spliced
from speechmtp.audio.containers.mapped import Mapped
from speechmtp.audio.convert import convert
from speechmtp.audio.names import shown
from speechmtp.audio.spool import spooled
from speechmtp.errors import DataError, UnreadableError

AudioSource = str | Path | BinaryIO | Data

# Lossy codecs carry state between packets, so seeking to a sample is inexact.
_INEXACT_SEEK = frozenset({"OGG", "MP3", "MPEG"})
_FLOATS = frozenset({"FLOAT", "DOUBLE"})
_TOLERANCE = 0.1  # seconds by which a header may be wrong: less than a word
_BLOCK = 1 << 10


class OpenAudio:
    """An open audio file of one link or several, all of one rate and number of channels."""

    def __init__(self, where: str, files: list[Any], links: list[Link]) -> None:
        """`files` are the links as `soundfile.SoundFile`. DataError if their rates or channels differ, or if a header
        tells of more or less than is there."""
        self.where = where
        self._files = files
        self._links = links
        self.samplerate = int(files[0].samplerate)
        self.channels = int(files[0].channels)
        for file, link in zip(files, links):
            if (file.samplerate, file.channels) != (self.samplerate, self.channels):
                raise DataError(
                    f"{where}: {self.samplerate} Hz with {self.channels} channels, then {file.samplerate} Hz with "
                    f"{file.channels}, expected one rate and number of channels; convert its parts and join them anew"
                )
            self._check(file, link)

    @cached_property
    def samples(self) -> int:
        """Samples per channel; they are decoded where nothing else tells their number."""
        if all(link.at_most is None for link in self._links):
            return self.most
        return sum(len(block) for block in self.blocks(_BLOCK << 8))

    @property
    def most(self) -> int:
        """At least the number of samples per channel; nothing is decoded."""
        return sum(self._most(file, link) for file, link in zip(self._files, self._links))

    @property
    def keeps_scale(self) -> bool:
        """Whether no sample can be beyond 1, or hardly: not so in files of floats."""
        return not any(file.subtype in _FLOATS for file in self._files)

    def read(self, start: float, end: float | None) -> np.ndarray:
        """The samples from `start` to `end` in seconds as float32 `[n, channels]`, n at least 1; see `read_audio`.
        DataError if there are none, or fewer than the file tells of."""
        if len(self._files) > 1 or self._files[0].format in _INEXACT_SEEK:
            blocks = list(self.blocks(None))
            data = blocks[0] if len(blocks) == 1 else np.concatenate([_nothing(self.channels), *blocks])
            first, last = _sample_range(self.where, start, end, self.samplerate, len(data))
            return data[first:last]
        first, last = _sample_range(self.where, start, end, self.samplerate, self.samples)
        if first:
            self._files[0].seek(first)
        data = self._read(self._files[0], self._links[0], last - first)
        if len(data) < last - first:
            raise self._mismatch(first + len(data), self.samples)
        return data

    def blocks(self, size: int | None) -> Iterator[np.ndarray]:
        """All samples from the beginning, in blocks `[n, channels]` of at most `size` (None: all of a link), n at least
        1. DataError where they are damaged, and at the end if they are fewer than the file tells of."""
        inexact = len(self._files) > 1 or self._files[0].format in _INEXACT_SEEK
        for link in self._links:
            with _open(link) as file:  # anew, since a lossy codec that has read once gives other bits
                file.seek(0)
                file.seekable = bool  # no: soundfile would seek behind every read, which lossy codecs do not take well
                most, count, whole = self._most(file, link), 0, True
                while whole and count < most:
                    asked = min(size or most, most - count)
                    data = self._read(file, link, asked)
                    count += len(data)
                    whole = len(data) == asked  # behind damage there may be more
                    if len(data):
                        yield data
                if link.at_most is None and count < file.frames - (_TOLERANCE * self.samplerate if inexact else 0):
                    raise self._mismatch(count, file.frames)

    def _read(self, file: Any, link: Link, count: int) -> np.ndarray:
        """The next samples of a link; fewer at its end. DataError where it is damaged."""
        import soundfile

        try:
            data: np.ndarray = file.read(count, dtype="float32", always_2d=True)
        except soundfile.SoundFileError as error:
            raise DataError(
                f"{self.where}: damaged after {_sound_until(link) / self.samplerate:.2f} of "
                f"{file.frames / self.samplerate:.2f} s ({one_line(error)}), expected whole audio; copy it anew"
            ) from error
        return data

    @staticmethod
    def _most(file: Any, link: Link) -> int:
        """At least the number of samples of a link."""
        return int(file.frames if link.at_most is None else min(file.frames, link.at_most * file.samplerate + 1))

    def _check(self, file: Any, link: Link) -> None:
        """DataError if the header of a link tells of more or less than is there."""
        if link.held == 0 < link.declared:
            raise DataError(
                f"{self.where}: no samples, {link.declared} expected by its header; the file is cut short, copy it anew"
            )
        counted = self._most(file, link)  # the smaller of both
        there = counted * max(1.0, link.held / max(1, link.declared))
        told = counted * max(1.0, link.declared / max(1, link.held))
        if abs(there - told) > _TOLERANCE * self.samplerate:
            raise self._mismatch(there, told)

    def _mismatch(self, there: float, told: float) -> DataError:
        """The error of a file that holds another number of samples than it tells of."""
        mend = "the file is cut short, copy it anew"
        if there > told:
            mend = "write its header anew, as `ffmpeg -ignore_length 1 -i OLD.wav NEW.wav` does"
        return DataError(
            f"{self.where}: {there / self.samplerate:.2f} s of audio, {told / self.samplerate:.2f} s expected by its "
            f"header; {mend}"
        )


@contextmanager
def opened(source: AudioSource, name: str = "", programs: bool = True) -> Iterator[OpenAudio]:
    """Open a path, a binary stream or the bytes of a file; errors, also while it is open, become DataErrors, which call
    it `name`. A path that is no regular file (a pipe, /dev/stdin) is read to its end. What libsndfile does not know is
    read through ffmpeg only with `programs`, and else is an UnreadableError."""
    import soundfile

    where = name or name_of(source)
    try:
        data, path = _content(source, where)
        with ExitStack() as stack:
            links = [link if link.parts else replace(link, parts=(data,)) for link in links_of(data)]
            try:
                files = [stack.enter_context(_open(link)) for link in links]
            except soundfile.SoundFileError as error:
                if not programs:
                    raise
                links = convert(where, data, path, one_line(error))
                files = [stack.enter_context(_open(link)) for link in links]
            yield OpenAudio(where, files, links)
    except (soundfile.SoundFileError, TypeError, ValueError, OSError, MemoryError) as error:
        raise UnreadableError(
            f"{where}: unreadable ({one_line(error)}), expected audio that libsndfile knows; check or convert the file"
        ) from error


def name_of(source: AudioSource) -> str:
    """The name of a source in errors."""
    return shown(source if isinstance(source, str | Path) else str(getattr(source, "name", "<stream>")))


def one_line(error: BaseException) -> str:
    """The message of a library's error, on one line."""
    # libsndfile's own message does not repeat the file, which the caller names already.
    text = getattr(error, "error_string", None) or str(error)
    return " ".join(text.split()).rstrip(".") or type(error).__name__


def _content(source: AudioSource, where: str) -> tuple[Data, str | None]:
    """The bytes of a source, mapped if it is a regular file, which is then named."""
    source = source_at(source) if isinstance(source, str | Path) else source
    if isinstance(source, Data):
        return _some(source, where), None
    if not isinstance(source, str | Path):
        if source.seekable():
            source.seek(0)
        return _some(spooled(source, where), where), None
    path = os.fspath(source)
    if not os.path.exists(path):
        raise DataError(f"{where}: no such file, expected audio; check the path")
    if os.path.isdir(path):
        raise DataError(f"{where}: not a file, expected audio; check the path")
    with open(path, "rb") as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode) or status.st_size == 0:
            return _some(spooled(file, where), where), None
        return Mapped(file), path


def _some(data: Data, where: str) -> Data:
    """The bytes; DataError without any."""
    if not data:
        raise DataError(f"{where}: no bytes, expected audio; nothing was written to it")
    return data


def _nothing(channels: int) -> np.ndarray:
    """No samples: [0, channels]."""
    return np.zeros((0, channels), np.float32)


def _open(link: Link) -> Any:
    """A link as a `soundfile.SoundFile`."""
    import soundfile

    return soundfile.SoundFile(Spliced(link.parts))


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


def _sound_until(link: Link) -> int:
    """The number of samples that a damaged link gives before the damage."""
    import soundfile

    count = 0
    with suppress(soundfile.SoundFileError), _open(link) as file:
        while found := len(file.read(_BLOCK, dtype="float32", always_2d=True)):
            count += found
    return count
