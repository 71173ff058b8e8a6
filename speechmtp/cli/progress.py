"""A progress bar in a terminal, silence elsewhere."""

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

T = TypeVar("T")


def track(items: Sequence[T], label: str) -> Iterable[T]:
    """The items, with a bar on stderr where that is a terminal."""
    if not sys.stderr.isatty() or len(items) < 2:
        return items
    from rich.console import Console
    from rich.progress import track as rich_track

    return rich_track(items, description=label, console=Console(stderr=True), transient=True)


@contextmanager
def counter(label: str) -> Iterator[Callable[[int, int], None]]:
    """Gives a function of (done, total) that moves a bar on stderr where that is a terminal."""
    if not sys.stderr.isatty():
        yield lambda done, total: None
        return
    from rich.console import Console
    from rich.progress import Progress

    # Redirected, what is printed meanwhile stands above the bar, but on stderr: not where stdout is a file.
    shown = sys.stdout.isatty()
    with Progress(console=Console(stderr=True), transient=True, redirect_stdout=shown) as progress:
        task = progress.add_task(label)
        yield lambda done, total: progress.update(task, completed=done, total=total)


class AudioBar:
    """A bar of audio heard and decoded, each second counting once for either, over a number of recordings: those still
    to be read are taken to be as long as the others on average."""

    def __init__(self, label: str, recordings: int) -> None:
        self._counter, self._recordings = counter(label), recordings
        self._read, self._seconds, self._done = 0, 0.0, 0.0

    def __enter__(self) -> "AudioBar":
        self._note = self._counter.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._counter.__exit__(*error)

    def read(self, seconds: float) -> None:
        """One more recording was read."""
        self._read += 1
        self._seconds += seconds

    def add(self, seconds: float) -> None:
        """So much more audio was heard, or decoded."""
        self._done += seconds
        self._note(round(self._done), round(2 * self._seconds * self._recordings / max(self._read, 1)))
