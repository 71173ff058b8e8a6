"""What a container holds: its links, each a stream that libsndfile decodes on its own."""

import io
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

from speechmtp.audio.containers.mapped import STEP, Mapped

Data = bytes | Mapped  # the bytes of a whole file
Part = bytes | Mapped | memoryview


@dataclass(frozen=True)
class Link:
    """One stream of a file.

    `parts` joined are the file that libsndfile is to see; none means the whole file as it is. `held` of `declared` is
    there, in any unit, the same for both. `at_most` is a bound in seconds where only decoding tells the length.
    """

    parts: tuple[Part, ...] = ()
    held: int = 1
    declared: int = 1
    at_most: float | None = None


AS_IT_IS = Link()


def part(data: Data | memoryview, begin: int, end: int) -> memoryview:
    """Bytes `begin` to `end` of a file, not copied."""
    return memoryview(data)[begin:end]


def beyond(data: Data, position: int) -> int:
    """The bytes from `position` on that no container accounts for; 0 for padding with zeros."""
    begins = range(position, len(data), STEP)
    return len(data) - position if any(data[begin : begin + STEP].strip(b"\0") for begin in begins) else 0


class Spliced(io.RawIOBase):
    """A seekable binary file of parts that are read as if they were joined."""

    def __init__(self, parts: Sequence[Part]) -> None:
        """Keeps the parts; nothing is copied."""
        self._parts = [memoryview(one) for one in parts if len(one)]
        self._starts = [0, *accumulate(len(one) for one in self._parts)]
        self._mapped = {one.obj for one in self._parts if isinstance(one.obj, Mapped)}
        self._position = self._since = 0

    def readable(self) -> bool:
        """Always."""
        return True

    def seekable(self) -> bool:
        """Always."""
        return True

    def tell(self) -> int:
        """The position in bytes."""
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move to a position and return it; stay where one before the beginning is asked, since libsndfile takes no
        exception."""
        place = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._starts[-1]}[whence]
        self._position = place if place >= 0 else self._position
        return self._position

    def readinto(self, buffer: object) -> int:
        """Fill the buffer as far as there are bytes; return their number."""
        target = memoryview(buffer)  # type: ignore[arg-type]
        filled = 0
        while filled < len(target) and self._position < self._starts[-1]:
            index = bisect_right(self._starts, self._position) - 1
            begin = self._position - self._starts[index]
            piece = self._parts[index][begin : begin + len(target) - filled]
            target[filled : filled + len(piece)] = piece
            filled += len(piece)
            self._position += len(piece)
        self._since += filled
        if self._since >= STEP:
            self._since = 0
            for one in self._mapped:
                one.release()
        return filled
