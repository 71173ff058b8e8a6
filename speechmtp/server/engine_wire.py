"""An engine's end of the socket to the front: threads that read and give signs of life, so that the main loop only
computes.

Sending waits while the front does not read. That cannot lock up: the front never waits to write, and what it writes is
read by a thread that does nothing else. The length of that queue is bounded by the audio that the front lets an engine
hold.
"""

import os
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from typing import Any

from speechmtp.server.link import BEAT, Frame, FrameReader, Kind, Load, frame

PIECE = 1 << 18  # bytes that are read at once
BUFFER = 1 << 20  # bytes that the system is asked to hold


class EngineWire:
    """Frames from and to the front. `gone` is called by the reading thread when the front closes its end or says STOP:
    by default the process leaves at once, whatever it is about."""

    def __init__(self, wire: socket.socket, gone: Callable[[], object] = lambda: os._exit(0)) -> None:
        self._wire, self._gone = wire, gone
        self._frames: deque[tuple[float, Frame]] = deque()
        self._came, self._sending = threading.Event(), threading.Lock()
        self._round = time.monotonic()  # when the main loop last came round
        self.load = Load()  # what signs of life tell
        wire.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, BUFFER)
        wire.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER)
        threading.Thread(target=self._read, name="frames", daemon=True).start()
        threading.Thread(target=self._beat, name="signs of life", daemon=True).start()

    def take(self, seconds: float) -> list[tuple[float, Frame]]:
        """The frames that have come, with when they did on the monotonic clock; waits so long for the first. Each call
        says that the main loop came round."""
        self.came_round()
        if seconds > 0 and not self._frames:
            self._came.wait(seconds)
            self.came_round()
        self._came.clear()
        found = list[tuple[float, Frame]]()
        while self._frames:
            found.append(self._frames.popleft())
        return found

    def came_round(self) -> None:
        """The main loop is not stuck."""
        self._round = time.monotonic()

    def send(self, kind: Kind, session: int = 0, payload: Mapping[str, Any] | bytes = b"") -> None:
        """Send a frame."""
        data = frame(kind, session, payload)
        with self._sending:
            self._wire.sendall(data)
            self.came_round()  # a front that does not read is not the loop's fault

    def _read(self) -> None:
        reader = FrameReader()
        try:
            while data := self._wire.recv(PIECE):
                now = time.monotonic()
                for one in reader.push(data):
                    if one.kind is Kind.STOP:
                        return
                    self._frames.append((now, one))
                self._came.set()
        except OSError:  # the front was killed
            pass
        finally:
            self._gone()

    def _beat(self) -> None:
        while True:
            with self._sending:  # the time is taken behind what waits to be sent
                told = replace(self.load, stuck=round(time.monotonic() - self._round, 3))
                try:
                    self._wire.sendall(frame(Kind.BEAT, 0, asdict(told)))
                except OSError:
                    return
            time.sleep(BEAT)
