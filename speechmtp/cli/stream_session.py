"""One session of `speechmtp stream`: a thread sends, another receives, and the main one shows."""

import queue
import threading
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection

from speechmtp.cli.interrupts import PoliteInterrupts
from speechmtp.cli.live_view import View
from speechmtp.cli.stream_figures import Figures
from speechmtp.errors import DataError, SpeechMTPError
from speechmtp.server.client import Answered, Heard, Realtime

AHEAD = 120.0  # seconds of audio that may wait for the recogniser
PATIENCE = 30.0  # seconds without a message of the server, once the last words are asked for
_TURN = 0.1  # seconds


class StreamSession:
    """Sends audio over an open connection and shows what comes back. `told` says that the end was reached, `failed` are
    the reasons of segments that were not recognised."""

    def __init__(self, socket: ClientConnection, realtime: Realtime, url: str, factor: float) -> None:
        """`factor` is how many times faster than spoken audio is sent, 0 as fast as it is taken; `url` is what errors
        call the server."""
        self.figures = Figures()
        self.failed: list[str] = []
        self.told = False
        self._socket, self._realtime, self._url, self._factor = socket, realtime, url, factor
        self._received: queue.SimpleQueue[str | bytes | Exception] = queue.SimpleQueue()
        self._sending = threading.Lock()  # nothing is sent behind the last commit
        self._moved = threading.Condition()  # something was heard, or the end has come
        self._heard = 0.0
        self._ended = False
        self._began = self._last = time.monotonic()
        self._damage: SpeechMTPError | None = None  # of the audio

    def follow(self, blocks: Iterator[np.ndarray], view: View) -> None:
        """Send float32 blocks [n] and show all that is said. DataError and ProtocolError where the server goes away,
        and for audio that cannot be read, after the words before it; KeyboardInterrupt after the last words."""
        self._socket.send(self._realtime.settings())
        threading.Thread(target=self._receive, daemon=True).start()
        threading.Thread(target=self._send_all, args=(blocks,), daemon=True).start()
        interrupted: KeyboardInterrupt | None = None
        with PoliteInterrupts() as interrupts:
            try:
                while not self._realtime.done:
                    with interrupts.allowed():
                        message = self._next()
                    self._take(message, view)
            except KeyboardInterrupt as error:
                interrupted = error
                self._finish()
                while not self._realtime.done:
                    self._take(self._next(), view)
            finally:
                self._end()
                view.close()
        self.told = True
        if interrupted or self._damage:
            raise interrupted or self._damage  # type: ignore[misc]

    def _next(self) -> str | bytes:
        """The next message. DataError if the connection is lost, or if nothing comes although the end was asked for."""
        while True:
            try:
                found = self._received.get(timeout=_TURN)
            except queue.Empty:
                if self._ended and time.monotonic() - self._last > PATIENCE:
                    raise DataError(
                        f"{self._url}: silent for {PATIENCE:g} s, expected the last words; look at the server"
                    ) from None
                continue
            if isinstance(found, Exception):
                raise found
            self._last = time.monotonic()
            return found

    def _take(self, message: str | bytes, view: View) -> None:
        """Show what a message says."""
        events = self._realtime.take(message, time.monotonic() - self._began)
        shown: list[Any] = []
        for event in events:
            self.figures.take(event)
            if isinstance(event, Heard):
                with self._moved:
                    self._heard = event.until
                    self._moved.notify_all()
            elif isinstance(event, Answered):
                self.failed += [event.failed] if event.failed else []
            else:
                shown.append(event)
        view.show(shown)

    def _receive(self) -> None:
        """Hand over all messages, and then why there are no more."""
        try:
            while True:
                self._received.put(self._socket.recv())
        except ConnectionClosed as error:
            code, reason = (error.rcvd.code, error.rcvd.reason) if error.rcvd else (1006, "")
            told = f"{code}, {reason}" if reason else f"{code}"
            mend = "try again later" if code in (1012, 1013) else "look at the server"
            self._received.put(DataError(f"{self._url}: closed ({told}), expected the last words; {mend}"))
        self._end()

    def _send_all(self, blocks: Iterator[np.ndarray]) -> None:
        """Send the audio, then ask for the last words."""
        count, began = 0, time.monotonic()
        try:
            for block in blocks:
                samples = np.clip(np.rint(block * 32768), -32768, 32767).astype(np.int16)
                until = (count + len(samples)) / self._realtime.rate
                if len(samples) and not self._send(samples, until, began):
                    return
                count += len(samples)
            self._finish()
        except SpeechMTPError as error:
            self._damage = error
            self._finish()
        except ConnectionClosed:
            pass  # the receiver tells of it
        except Exception as error:
            self._received.put(error)

    def _send(self, samples: np.ndarray, until: float, began: float) -> bool:
        """Send samples whose last one is at `until` seconds, when its time has come; False if it is too late."""
        with self._moved:
            if self._factor:
                left = began + until / self._factor - time.monotonic()
                self._moved.wait_for(lambda: self._ended, max(0.0, left))
            realtime = self._realtime
            self._moved.wait_for(
                lambda: self._ended or until - self._heard <= AHEAD or (realtime.ready and not realtime.extends)
            )
        with self._sending:
            if not self._ended:
                self.figures.sent(until, time.monotonic() - self._began)
                self._socket.send(realtime.audio(samples))
            return not self._ended

    def _finish(self) -> None:
        """Ask for the last words, once."""
        with self._sending:
            if self._ended:
                return
            self._end()
            try:
                for message in self._realtime.finish():
                    self._socket.send(message)
            except ConnectionClosed:
                return  # the receiver tells of it
            self._last = time.monotonic()
            self.figures.asked(self._last - self._began)

    def _end(self) -> None:
        """No more audio is sent."""
        with self._moved:
            self._ended = True
            self._moved.notify_all()
