"""Sound files inside Kaldi archives, named `path:offset` in wav.scp as wav-copy, kaldiio and ESPnet write them."""

import io
import os
import re
import struct
from pathlib import Path
from typing import BinaryIO

from speechmtp.audio.containers.riff import is_placeholder
from speechmtp.errors import DataError

_ENTRY = re.compile(r"(.+):(\d+)", re.DOTALL)
_RANGE = re.compile(r".+:\d+\[[^\[\]]*\]", re.DOTALL)
_SIZE_AT_4 = {b"RIFF": "<I", b"RIFX": ">I", b"FORM": ">I"}  # the size field counts what follows it
_BLOCK = 1 << 16  # samples decoded at a time
_HEAD = 1024  # bytes that hold every header read here


def entry_of(name: str) -> tuple[str, int] | None:
    """Path and offset in bytes of a name `path:offset`; None for other names. Files are not looked at."""
    match = _ENTRY.fullmatch(name)
    return None if match is None else (match[1], int(match[2]))


def is_range(name: str) -> bool:
    """Whether a name is a part of an archive entry, `path:offset[first:last]`."""
    return _RANGE.fullmatch(name) is not None


def source_at(location: str | Path) -> str | Path | io.BytesIO:
    """The entry's own bytes as a stream for an archive entry `path:offset`; the location itself for all others, such as
    a file whose whole name ends like that. DataError for an entry that is not a sound file."""
    entry = entry_of(os.fspath(location))
    if entry is None or os.path.lexists(location) or not os.path.isfile(entry[0]):
        return location
    stream = io.BytesIO(_entry_bytes(os.fspath(location), *entry))
    stream.name = os.fspath(location)
    return stream


def _entry_bytes(name: str, path: str, offset: int) -> bytes:
    """The sound file at an offset of an archive."""
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        if offset >= size:
            raise DataError(f"{name}: the archive has {size} bytes, expected an entry at {offset}; write its scp anew")
        file.seek(offset)
        head = file.read(_HEAD).ljust(32, b"\0")
        if head.startswith(b"fLaC"):
            return _decoded_flac(name, file, offset)
        begin, length = _extent(name, head)
        if begin + length > size - offset:
            raise DataError(
                f"{name}: {max(0, size - offset - begin)} bytes to the archive's end, expected {length} by the entry's "
                "header; it is cut short, copy the archive anew"
            )
        file.seek(offset + begin)
        return file.read(length)


def _extent(name: str, head: bytes) -> tuple[int, int]:
    """Where the sound file of an entry begins, and its length, both in bytes, by its first bytes."""
    if head.startswith(b"AUDIO"):  # of kaldiio: the length has its own length, in a byte, before it
        begin = 6 + head[5]
        return begin, int.from_bytes(head[6:begin], "little")
    for mark, kind in _SIZE_AT_4.items():
        if head.startswith(mark):
            (length,) = struct.unpack_from(kind, head, 4)
            if length == 0 or is_placeholder(length):
                raise DataError(f"{name}: a sound file of unknown length, expected its length; write the archive anew")
            return 0, 8 + length
    if head.startswith((b"RF64", b"BW64")) and head[12:16] == b"ds64":
        return 0, 8 + int(struct.unpack_from("<Q", head, 20)[0])
    if head.startswith(b"NIST_1A\n"):
        return 0, _nist_length(name, head)
    if head.startswith(b"\0B"):
        kind = head[2:].split(b" ")[0][:3].decode("ascii", "replace")
        raise DataError(
            f"{name}: a Kaldi matrix or vector ({kind}), expected a sound file; give the audio that it was made from"
        )
    raise DataError(
        f"{name}: an archive entry that begins with {head[:8]!r}, expected WAV, FLAC, AIFF, NIST or one of kaldiio; "
        "check the offset, or give the file itself"
    )


def _nist_length(name: str, head: bytes) -> int:
    """The bytes of a NIST file of uncompressed samples: its header and its samples."""
    fields = dict(re.findall(rb"^(\w+) -i (\d+)\s*$", head, re.MULTILINE))
    coding = re.search(rb"^sample_coding -s\d+ (\S+)", head, re.MULTILINE)
    names = (b"sample_count", b"sample_n_bytes", b"channel_count")
    size = head[8:16].strip()
    if not size.isdigit() or not fields.keys() >= set(names[:2]) or (coding and b"shorten" in coding[1]):
        raise DataError(f"{name}: a NIST file of unknown length, expected uncompressed samples; convert it to WAV")
    count, width, channels = (int(fields.get(field, b"1")) for field in names)
    return int(size) + count * width * channels


def _decoded_flac(name: str, file: BinaryIO, offset: int) -> bytes:
    """The samples of the FLAC file at an offset, as WAV of 32 bits: only a decoder knows where it ends."""
    import soundfile

    os.lseek(file.fileno(), offset, os.SEEK_SET)
    decoded = io.BytesIO()
    try:
        with (
            soundfile.SoundFile(file.fileno(), closefd=False) as flac,
            soundfile.SoundFile(decoded, "w", flac.samplerate, flac.channels, "PCM_32", format="WAV") as copy,
        ):
            if is_placeholder(flac.frames):
                raise DataError(f"{name}: a FLAC file of unknown length, expected its length; write the archive anew")
            while copy.tell() < flac.frames:
                block = flac.read(min(_BLOCK, flac.frames - copy.tell()), dtype="int32", always_2d=True)
                if not len(block):
                    raise DataError(
                        f"{name}: {copy.tell()} samples, expected {flac.frames} by the entry's header; it is cut short"
                    )
                copy.write(block)
    except soundfile.SoundFileError as error:
        raise DataError(f"{name}: unreadable ({error}), expected a FLAC file; copy the archive anew") from error
    return decoded.getvalue()
