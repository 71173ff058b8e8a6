"""Audio that is heard while it arrives: WAV files of any length, raw samples and, through ffmpeg, other formats."""

import io
import os
import shutil
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any, BinaryIO

import numpy as np

from speechmtp.audio.convert import COMPLAINT, OPTIONS, OUTPUT
from speechmtp.audio.inputs import Recording, input_name
from speechmtp.audio.levels import Levels
from speechmtp.audio.pipes import environment, kill_group
from speechmtp.audio.raw import RawAudio, is_wav, wav_header
from speechmtp.audio.resampling import StreamResampler
from speechmtp.errors import AudioWarning, ConfigError, DataError, UnreadableError

BLOCK = 0.1  # seconds of a block that is given at most
_PIECE = 0.02  # seconds that are mixed at a time, whatever arrives
_ENOUGH = 0.5  # seconds before channels can be found to cancel each other
_LONGEST_HEAD = 1 << 20  # bytes before the samples of a WAV file
_AT_A_TIME = 1 << 14  # bytes
_TOLERANCE = 0.1  # seconds by which a header may be wrong
_AT_ONCE = ("-probesize", "65536", "-analyzeduration", "500000")  # ffmpeg looks half a second for what comes

Read = Callable[[], bytes]  # what is there, at least one byte; none at the end


def open_live(
    source: str | os.PathLike[str] | BinaryIO, rate: int, raw: RawAudio | None = None, name: str = ""
) -> Iterator[np.ndarray]:
    """Float32 mono blocks [n] at `rate` Hz of what arrives, n at most a tenth of a second, as soon as it is there.

    `source` is a path, `-` for standard input, or an open binary file. A regular file is read as by `Recording`, a pipe
    as it comes: a WAV file (also one whose header does not tell its length), samples of `raw`, or anything that an
    installed ffmpeg reads from a pipe. The blocks joined are the same however the bytes arrive. Channels are averaged;
    if those so far cancel each other, the loudest is heard from there on, with an AudioWarning. `name` is what errors
    call the source.

    DataError for what cannot be read, at its place: after the blocks before it. ConfigError for `raw` of a file that
    has a header.
    """
    if isinstance(source, str | os.PathLike) and os.fspath(source) != "-":
        name = name or input_name(source)
        if raw is None and (os.path.isfile(source) or not os.path.exists(source)):
            for block in Recording(os.fspath(source), rate, name=name):
                yield from _short(block, rate)
            return
        try:
            with open(source, "rb", buffering=0) as file:
                yield from _arriving(file, rate, raw, name)
        except OSError as error:
            reason = error.strerror or error
            raise DataError(f"{name}: unreadable ({reason}), expected audio; check the path") from error
    else:
        stream: Any = sys.stdin.buffer if isinstance(source, str | os.PathLike) else source
        yield from _arriving(stream, rate, raw, name or input_name(source))


def _short(block: np.ndarray, rate: int) -> Iterator[np.ndarray]:
    """A block in blocks of at most a tenth of a second; none of an empty one."""
    size = int(BLOCK * rate)
    yield from (block[begin : begin + size] for begin in range(0, len(block), size))


def _arriving(file: Any, rate: int, raw: RawAudio | None, name: str) -> Iterator[np.ndarray]:
    """The blocks of an open file that is read as it arrives."""
    if isinstance(file, io.TextIOBase):
        raise DataError(f"{name}: opened as text, expected a binary file; open it with 'rb', stdin as sys.stdin.buffer")
    read = _reader(file, name)
    head = read()
    while 0 < len(head) < 12 and (more := read()):
        head += more
    if not head:
        raise DataError(f"{name}: no bytes, expected audio; nothing was written to it")
    if raw is not None:
        if is_wav(head):
            raise ConfigError(f"{name}: a WAV file, whose header tells rate and encoding; leave those of raw audio out")
        yield from _heard(_Bytes(head, read, None), raw, rate, name)
    elif not is_wav(head):
        yield from _through_ffmpeg(head, read, rate, name)
    else:
        yield from _of_wav(head, read, rate, name)


def _reader(file: Any, name: str) -> Read:
    """What reads the bytes that are there."""
    take = getattr(file, "read1", file.read)

    def read() -> bytes:
        try:
            data = take(_AT_A_TIME)
        except (OSError, ValueError) as error:
            raise DataError(f"{name}: unreadable ({error}), expected an open binary file") from error
        if not isinstance(data, bytes | bytearray | memoryview):
            raise DataError(f"{name}: read() gives {type(data).__name__}, expected bytes; open it as a binary file")
        return bytes(data)

    return read


class _Bytes:
    """The bytes of samples: those that are there already, and what is read until `length` of them were given."""

    def __init__(self, first: bytes, read: Read, length: int | None) -> None:
        self._first, self._read, self._length = first, read, length
        self.given = 0

    def next(self) -> bytes:
        """The next bytes; none at the end."""
        data = self._first or (b"" if self.given == self._length else self._read())
        self._first = b""
        data = data if self._length is None else data[: self._length - self.given]
        self.given += len(data)
        return data


def _of_wav(head: bytes, read: Read, rate: int, name: str, convert: bool = True) -> Iterator[np.ndarray]:
    """The blocks of a WAV file that begins with `head`; those of a codec come from ffmpeg if `convert`."""
    header = wav_header(head)
    while header is None and len(head) < _LONGEST_HEAD and (more := read()):
        head += more
        header = wav_header(head)
    if header is None or (header.raw is None and not convert):
        raise UnreadableError(f"{name}: {len(head)} bytes of a WAV file without samples, expected audio; copy it anew")
    if header.raw is None:
        yield from _through_ffmpeg(head, read, rate, name)
        return
    samples = _Bytes(head[header.start :], read, header.length)
    yield from _heard(samples, header.raw, rate, name)
    while read():  # what is behind the samples; a writer would not like its pipe to be closed
        pass
    second = header.raw.frame * header.raw.rate
    if header.length is not None and header.length - samples.given > _TOLERANCE * second:
        raise DataError(
            f"{name}: {samples.given / second:.2f} s of audio, {header.length / second:.2f} s expected by its header; "
            "the file is cut short, copy it anew"
        )


def _heard(samples: _Bytes, raw: RawAudio, rate: int, name: str) -> Iterator[np.ndarray]:
    """The blocks of interleaved samples. They are mixed in pieces of one size, so that all of it is the same however
    the bytes arrive."""
    resampler, mixer = StreamResampler(raw.rate, rate), _Mixer(raw, name)
    piece = max(1, int(_PIECE * raw.rate)) * raw.frame
    waiting = b""
    while data := samples.next():
        waiting += data
        pieces = [waiting[begin : begin + piece] for begin in range(0, len(waiting) - piece + 1, piece)]
        waiting = waiting[len(pieces) * piece :]
        if pieces:
            yield from _short(resampler.push(np.concatenate([mixer.mix(one) for one in pieces])), rate)
    if len(waiting) >= raw.frame:
        yield from _short(resampler.push(mixer.mix(waiting[: len(waiting) // raw.frame * raw.frame])), rate)
    if raw.rate != rate:
        yield from _short(resampler.finish(), rate)


class _Mixer:
    """Averages the channels of raw audio as far as it has come, and refuses what is none."""

    def __init__(self, raw: RawAudio, name: str) -> None:
        self._raw, self._name, self._levels = raw, name, Levels()
        self._size = 0
        self._channel: int | None = 0 if raw.channels == 1 else None

    def mix(self, data: bytes) -> np.ndarray:
        """Samples [n] of the bytes of n frames. DataError for samples that are not finite, or not scaled."""
        audio = self._raw.samples(data)
        self._size += len(audio)
        if self._raw.encoding.startswith("f"):
            self._levels.add(audio)
            self._levels.check(self._name)
            if not np.isfinite(audio).all():
                raise DataError(f"{self._name}: samples that are not finite, expected numbers; check what writes them")
        if self._channel is None:
            mean = self._levels.add_channels(audio)
            if self._size >= _ENOUGH * self._raw.rate:
                self._channel = self._levels.loudest(self._name)
            if self._channel is None:
                return mean
        return audio[:, self._channel]


def _through_ffmpeg(head: bytes, read: Read, rate: int, name: str) -> Iterator[np.ndarray]:
    """The blocks that ffmpeg makes of the bytes. UnreadableError if it is missing or makes none, DataError if it fails
    later."""
    program = shutil.which("ffmpeg")
    if program is None:
        raise UnreadableError(
            f"{name}: no WAV file, expected one; install ffmpeg, which reads other formats from a pipe, or give the "
            "rate and encoding of raw samples"
        )
    process = subprocess.Popen(
        [program, *OPTIONS, *_AT_ONCE, "-i", "pipe:0", *OUTPUT, "-flush_packets", "1", "pipe:1"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment(),
        start_new_session=True, bufsize=0,
    )  # fmt: skip
    assert process.stdin is not None and process.stdout is not None and process.stderr is not None
    failure: list[DataError] = []
    said: list[bytes] = []
    feeder = threading.Thread(target=_feed, args=(process.stdin, head, read, failure), daemon=True)
    listener = threading.Thread(target=_listen, args=(process.stderr, said), daemon=True)
    given = False
    try:
        feeder.start()
        listener.start()
        converted = _reader(process.stdout, name)
        if begin := converted():
            for block in _of_wav(begin, converted, rate, name, convert=False):
                given = True
                yield block
        process.wait()
        listener.join()
    finally:
        kill_group(process)
        process.stdout.close()
    if failure:
        raise failure[0]
    complaints = COMPLAINT.findall(b"".join(said).decode("utf-8", errors="replace"))
    about = f"exit code {process.returncode}" if process.returncode else "no samples"
    about = " ".join((complaints[0] if complaints else about).split())
    if not given:
        raise UnreadableError(
            f"{name}: unreadable (ffmpeg: {about}), expected audio that can be read from a pipe; give it as a file, or "
            "the rate and encoding of raw samples"
        )
    if process.returncode:
        raise DataError(f"{name}: broken off (ffmpeg: {about}), expected whole audio; check what writes it")
    if complaints:
        warnings.warn(f"{name}: ffmpeg complains ({about}); what it reads is heard", AudioWarning, stacklevel=2)


def _feed(target: Any, head: bytes, read: Read, failure: list[DataError]) -> None:
    """Write all bytes to a program; it may end before them."""
    with suppress(OSError, ValueError):
        try:
            data = head
            while data:
                left = memoryview(data)
                while left:
                    left = left[target.write(left) :]
                data = read()
        except DataError as error:
            failure.append(error)
        finally:
            target.close()


def _listen(source: Any, said: list[bytes]) -> None:
    """Keep the end of what a program says."""
    with suppress(OSError, ValueError), source:
        while data := source.read(1 << 12):
            said.append(data)
            del said[:-16]
