"""Files that are mapped into memory and yet take hardly any."""

import mmap
from typing import Any, BinaryIO

STEP = 4 << 20  # bytes that are looked at before their pages leave memory


class Mapped(mmap.mmap):
    """A regular file's bytes. What was looked at leaves memory again, for which it would count until the file is
    closed; the system keeps what it has cached, so that another look costs little."""

    _place: int  # near which bytes were looked at

    def __new__(cls, file: BinaryIO) -> "Mapped":
        """All bytes of an open file, at least one, which may be closed then."""
        self = super().__new__(cls, file.fileno(), 0, access=mmap.ACCESS_READ)
        self._place = 0
        return self

    def __getitem__(self, index: Any) -> Any:
        """Bytes of a slice, or one byte."""
        self._look(index if isinstance(index, int) else index.start or 0)
        return super().__getitem__(index)

    def find(self, wanted: Any, start: int = 0, end: int | None = None) -> int:
        """Where `wanted` begins first, from `start` on; -1 if it is not there."""
        end = len(self) if end is None else end
        while start < end:
            place = super().find(wanted, start, min(end, start + STEP + len(wanted) - 1))
            if place >= 0:
                self._look(place)
                return place
            self.release()
            start += STEP
        return -1

    def _look(self, place: int) -> None:
        """Release what is far from the place that is looked at."""
        if abs(place - self._place) >= STEP:
            self.release()
            self._place = place

    def release(self) -> None:
        """Let all pages leave memory; they come back where they are looked at again."""
        if hasattr(mmap, "MADV_DONTNEED"):
            self.madvise(mmap.MADV_DONTNEED)
