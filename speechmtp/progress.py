"""Progress of a run in seconds of audio, reported to a function or shown as a bar in a terminal."""

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any, TypeVar

T = TypeVar("T")
Told = Callable[[float, float | None], object]  # called with seconds of audio done, and of all (None: unknown)


def track(items: Sequence[T], label: str) -> Iterable[T]:
    """The items, with a progress bar on stderr if that is a terminal."""
    if not sys.stderr.isatty() or len(items) < 2:
        return items
    from rich.console import Console
    from rich.progress import track as rich_track

    return rich_track(items, description=label, console=Console(stderr=True), transient=True)


@contextmanager
def counter(label: str) -> Iterator[Callable[[float, float | None], None]]:
    """Yield a function of (done, total) that moves a progress bar on stderr if that is a terminal."""
    if not sys.stderr.isatty():
        yield lambda done, total: None
        return
    from rich.console import Console
    from rich.progress import Progress

    # Redirection puts printed lines above the bar, but on stderr, so it must not be used where stdout is a file.
    shown = sys.stdout.isatty()
    with Progress(console=Console(stderr=True), transient=True, redirect_stdout=shown) as progress:
        task = progress.add_task(label, total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)


class AudioProgress:
    """Seconds of audio done, over `recordings` recordings (None: unknown). Encoding counts as half of the work.

    `progress` is a function that is called with the seconds done and the seconds of all recordings (None until all are
    read); or True for a bar on stderr, which assumes the mean duration for recordings that are not read yet; or None.
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
        """Count one more recording as read, of `seconds` as far as is known."""
        self._read += 1
        self._seconds += seconds

    def correct(self, seconds: float, done: bool) -> None:
        """Count `seconds` more (or less) for a recording that was read and turned out longer; with `done`, for one that
        was given up."""
        self._seconds += seconds
        self._done += seconds if done else 0.0

    def add(self, seconds: float) -> None:
        """Count `seconds` more of audio as encoded or as decoded; less than none for what was decoded of a recording
        that is given up next."""
        self._done += seconds / 2
        if seconds > 0:
            self._report()

    def give_up(self, seconds: float, heard: float) -> None:
        """Count a recording of `seconds` as done, after an error with `heard` seconds of it encoded."""
        self._done += seconds - heard / 2
        self._report()

    def all_read(self) -> None:
        """Note that there are no more recordings."""
        self._all = True
        self._report()

    def _report(self) -> None:
        if self._tell is None:
            return
        total: float | None = self._seconds if self._all or self._read == self._recordings else None
        if total is None and self._guesses and self._recordings is not None and self._read:
            total = self._seconds / self._read * self._recordings
        close = total is not None and abs(total - self._done) < 1e-6  # summed in different orders
        self._tell(total if close else self._done, total)
