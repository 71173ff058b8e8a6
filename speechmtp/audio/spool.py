"""The bytes of streams: few are kept in memory, many in a temporary file."""

import io
import tempfile
from typing import Any

from speechmtp.audio.containers.links import Data
from speechmtp.audio.containers.mapped import Mapped
from speechmtp.errors import DataError

_IN_MEMORY = 8 << 20  # bytes
_AT_A_TIME = 1 << 20


def spooled(file: Any, name: str) -> Data:
    """The bytes of an open binary file from where it stands to its end; it is left open. DataError for a file that is
    no binary one or cannot be read, and where the temporary file finds no room."""
    if isinstance(file, io.TextIOBase):
        raise DataError(f"{name}: opened as text, expected a binary file; open it with 'rb', stdin as sys.stdin.buffer")
    if not hasattr(file, "readinto"):  # which may have a `read` without a size
        return _read(file, name, -1)
    first = bytearray()
    while len(first) < _IN_MEMORY:
        data = _read(file, name, _AT_A_TIME)
        if not data:
            return bytes(first)
        first += data
    try:
        with tempfile.TemporaryFile(prefix="speechmtp-") as kept:
            kept.write(first)
            del first
            while data := _read(file, name, _AT_A_TIME):
                kept.write(data)
            kept.flush()
            return Mapped(kept)
    except OSError as error:
        raise DataError(
            f"{name}: its bytes do not fit into {tempfile.gettempdir()} ({error.strerror or error}), expected room for "
            "all of them; set TMPDIR to a folder that has it"
        ) from error


def _read(file: Any, name: str, size: int) -> bytes:
    """The next bytes of a file, at most `size`, or all with -1; none at its end."""
    try:
        data = file.read() if size < 0 else file.read(size)
    except (OSError, ValueError) as error:
        raise DataError(f"{name}: unreadable ({error}), expected an open binary file") from error
    if not isinstance(data, bytes | bytearray | memoryview):
        raise DataError(f"{name}: read() gives {type(data).__name__}, expected bytes; open it as a binary file")
    return bytes(data)
