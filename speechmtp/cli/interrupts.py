"""Ctrl-C in a program: one line and exit code 130, whenever it comes. Imports nothing heavy."""

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

from speechmtp.cli.streams import report

INTERRUPTED = 130
_LINE = "speechmtp: interrupted"


class Interrupts:
    """The Ctrl-C of this program. `came` says that there was one, even if what ran has swallowed its KeyboardInterrupt,
    or made another error of it."""

    def __init__(self) -> None:
        self.came = False
        self._at_once = False

    def install(self) -> None:
        """Handle Ctrl-C from now on, unless it is ignored, as in background jobs, or already handled by others."""
        main = threading.current_thread() is threading.main_thread()
        if main and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            signal.signal(signal.SIGINT, self._handle)

    def finish(self) -> None:
        """Leave at once from now on: what is left is the interpreter's own end."""
        self._at_once = True

    def _handle(self, number: int, frame: FrameType | None) -> None:
        """Raise KeyboardInterrupt; leave at once where that would be lost or misread: in an import, in what soundfile
        calls while it reads, and the second time."""
        if self._at_once or self.came or _swallows(frame):
            with suppress(Exception):
                sys.stdout.flush()
            os.write(2, f"{_LINE}\n".encode())
            os._exit(INTERRUPTED)
        self.came = True
        raise KeyboardInterrupt


class PoliteInterrupts:
    """A context in which Ctrl-C waits until work that must be finished is done: the first one comes through only
    inside `allowed`, a second one at once."""

    def __init__(self) -> None:
        self._before: Any = None
        self._allowed = self._waits = False

    def __enter__(self) -> "PoliteInterrupts":
        before = signal.getsignal(signal.SIGINT)
        if callable(before) and threading.current_thread() is threading.main_thread():
            self._before = before
            signal.signal(signal.SIGINT, self._handle)
        return self

    def __exit__(self, *error: object) -> None:
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)

    @contextmanager
    def allowed(self) -> Iterator[None]:
        """Let Ctrl-C come through here, also one that waits."""
        self._allowed = True
        try:
            if self._waits:
                self._handle(signal.SIGINT, None)
            yield
        finally:
            self._allowed = False

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self._allowed or self._waits:
            signal.signal(signal.SIGINT, self._before)
            self._before(number, frame)
        self._waits = True


def report_interrupt() -> int:
    """Print the line; the exit code."""
    report("interrupted")
    return INTERRUPTED


def _swallows(frame: FrameType | None) -> bool:
    """Whether a module is being imported in this frame or in one that called it, or C code called one of them back,
    which prints an exception and goes on."""
    while frame is not None:
        code = frame.f_code
        if code.co_filename.startswith("<frozen importlib") or (
            code.co_name.startswith("vio_") and os.path.basename(code.co_filename) == "soundfile.py"
        ):
            return True
        frame = frame.f_back
    return False
