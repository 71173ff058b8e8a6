"""How far a run is: seconds of audio done, told to a function or shown as a bar in a terminal."""

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any, TypeVar

T = TypeVar("T")
Told = Callable[[float, float | None], object]  # seconds of audio done, and of all, where that is known


def track(items: Sequence[T], label: str) -> Iterable[T]:
    """The items, with a bar on stderr where that is a terminal."""
    if not sys.stderr.isatty() or len(items) < 2:
        return items
    from rich.console import Console
    from rich.progress import track as rich_track

    return rich_track(items, description=label, console=Console(stderr=True), transient=True)


@contextmanager
def counter(label: str) -> Iterator[Callable[[float, float | None], None]]:
    """Gives a function of (done, total) that moves a bar on stderr where that is a terminal."""
    if not sys.stderr.isatty():
        yield lambda done, total: None
        return
    from rich.console import Console
    from rich.progress import Progress

    # Redirected, what is printed meanwhile stands above the bar, but on stderr: not where stdout is a file.
    shown = sys.stdout.isatty()
    with Progress(console=Console(stderr=True), transient=True, redirect_stdout=shown) as progress:
        task = progress.add_task(label, total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)


class AudioProgress:
    """Seconds of audio done, over a number of recordings (None: unknown). What is heard is half done.

    `progress` is a function that is told the seconds done and those of all recordings, None until all are read; or True
    for a bar on stderr, which takes recordings still to be read to be as long as the others on average; or None.
    """

    def __init__(self, progress: Told | bool | None, label: str, recordings: int | None) -> None:
        self._told: Any = counter(label) if progress is True else nullcontext(progress or None)
        self._guesses, self._recordings = progress is True, recordings
        self._read, self._seconds, self._done, self._all = 0, 0.0, 0.0, False

    def __enter__(self) -> "AudioProgress":
        self._tell = self._told.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._told.__exit__(*error)

    def read(self, seconds: float) -> None:
        """One more recording was read."""
        self._read += 1
        self._seconds += seconds

    def add(self, seconds: float) -> None:
        """So much more audio was heard, or decoded."""
        self._done += seconds / 2
        self._report()

    def give_up(self, seconds: float, heard: float) -> None:
        """A recording of so many seconds could not be heard to its end: nothing is left to do of it."""
        self._done += seconds - heard / 2
        self._report()

    def all_read(self) -> None:
        """There are no more recordings."""
        self._all = True
        self._report()

    def _report(self) -> None:
        if self._tell is None:
            return
        total: float | None = self._seconds if self._all or self._read == self._recordings else None
        if total is None and self._guesses and self._recordings is not None and self._read:
            total = self._seconds / self._read * self._recordings
        close = total is not None and abs(total - self._done) < 1e-6  # sums in other orders
        self._tell(total if close else self._done, total)
