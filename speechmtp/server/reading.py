"""Uploaded files as samples: what is read, and how much of it."""

from collections.abc import Iterator
from contextlib import suppress

import numpy as np

from speechmtp.audio.files import OpenAudio
from speechmtp.audio.inputs import Recording
from speechmtp.audio.media import KNOWN, media_blocks, media_format
from speechmtp.errors import DataError, UnreadableError

HIGHEST, MOST_CHANNELS = 48000, 8  # Hz and channels
NAME = "file"  # what errors call an upload: its own name is nobody's business
_HEAD = 1 << 12  # bytes
READ = "WAV, FLAC, Ogg (Opus, Vorbis), MP3, AIFF and what else libsndfile reads"


def upload_blocks(path: str, rate: int, most: float) -> Iterator[np.ndarray]:
    """The audio of a file as float32 mono blocks [n] at `rate` Hz. No program is started for it. DataError for what
    cannot be read, for a file that is damaged or cut short, and for one with more than `most` seconds, `HIGHEST` Hz or
    `MOST_CHANNELS`."""
    count = 0
    for block in _blocks(path, rate, most):
        count += len(block)
        if count > (most + 1) * rate:
            raise _too_long(count / rate, most)
        yield block


def _blocks(path: str, rate: int, most: float) -> Iterator[np.ndarray]:
    def check(own: int, channels: int, seconds: float) -> None:
        if own > HIGHEST or channels > MOST_CHANNELS:
            raise DataError(
                f"{NAME}: {own} Hz and {channels} channels, expected at most {HIGHEST} Hz and {MOST_CHANNELS} "
                "channels; convert it"
            )
        if seconds > most + 1:
            raise _too_long(seconds, most)

    def check_file(file: OpenAudio) -> None:
        check(file.samplerate, file.channels, file.most / file.samplerate)

    with open(path, "rb") as file:
        head = file.read(_HEAD)
        if not head:
            raise DataError(f"{NAME}: no bytes, expected audio; send the file's content")
        if media_format(head):
            yield from media_blocks(file, rate, NAME, check)
            return
    try:
        yield from Recording(path, rate, name=NAME, programs=False, check=check_file)
    except UnreadableError as error:
        raise DataError(f"{NAME}: no audio that is read here, expected {READ}{_others()}; convert it") from error
    except DataError as error:
        raise DataError(str(error).replace(path, NAME)) from error


def _others() -> str:
    """What else is read, where PyAV is there."""
    with suppress(ImportError):
        import av  # noqa: F401

        return f", or {KNOWN}"
    return ""


def _too_long(seconds: float, most: float) -> DataError:
    return DataError(f"{NAME}: {seconds:.0f} s of audio, expected at most {most:.0f} s; send it in pieces")
