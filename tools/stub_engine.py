"""An engine without a model, to look at the front alone: it says a word for each second of audio, and at each flush how
many samples came and their checksum, so that a lost or changed sample is seen.

    speechmtp serve … starts its engines itself; tests and tools/load put this one in their place:
    ServerConfig(engine=[sys.executable, "tools/stub_engine.py"])

Words: `w1`, `w2`, … at whole seconds of a segment, and `n<samples>x<crc32>` of the audio since the last flush.
"""

import argparse
import contextlib
import os
import signal
import socket
import sys
import threading
import time
import zlib
from dataclasses import asdict, dataclass, field

from speechmtp.server.link import (
    BEAT,
    Frame,
    FrameReader,
    Kind,
    Load,
    Opening,
    Readiness,
    Said,
    frame,
    read_opening,
    write_said,
)
from speechmtp.server.messages import Cleared, Committed, CoreEvent, Ended, Final, Heard
from speechmtp.words.word import Word


@dataclass
class StubSession:
    """What is kept of a session."""

    opening: Opening
    rate: float
    time: float
    start: float
    samples: int = 0
    crc: int = 0
    words: list[Word] = field(default_factory=list)
    spoken: bool = False

    def take(self, kind: Kind, payload: bytes) -> list[CoreEvent]:
        """Take a frame; return what arises."""
        if kind is Kind.AUDIO:
            return self._listen(payload)
        if kind is Kind.CLEAR:
            self._begin()
            return [Cleared(self.time)]
        if kind is Kind.END:
            return [*(self._close("finish", None) if self.samples else []), Ended(self.time)]
        return []

    def flush(self, number: int) -> list[CoreEvent]:
        """Answer a flush."""
        return self._close("flush", number)

    def _listen(self, payload: bytes) -> list[CoreEvent]:
        self.samples += len(payload) // 2
        self.crc = zlib.crc32(payload, self.crc)
        before, self.time = self.time, self.start + self.samples / self.rate
        said = [
            self._say(f"w{second}") for second in range(int(before - self.start) + 1, int(self.time - self.start) + 1)
        ]
        return [*said, Heard(self.time, len(self.words), 1 + len(self.words) // 3)]

    def _say(self, text: str) -> Committed:
        word = Word(text, max(self.start, self.time - 0.5), self.time, 0.9)
        self.words.append(word)
        spoken, self.spoken = self.spoken, True
        return Committed(f" {text}" if spoken else text, (word,), self.time)

    def _close(self, reason: str, number: int | None) -> list[CoreEvent]:
        events: list[CoreEvent] = [self._say(f"n{self.samples}x{self.crc:08x}")] if self.samples else []
        text = " ".join(word.text for word in self.words)
        final = Final(text, tuple(self.words), self.start, self.time, reason, self.time, number)  # type: ignore[arg-type]
        self._begin()
        return [*events, final]

    def _begin(self) -> None:
        self.start, self.samples, self.crc, self.words = self.time, 0, 0, []


class StubEngine:
    """The sessions of one stub, and its socket."""

    def __init__(self, wire: socket.socket, models: list[str], cost: float, poison: int | None, deaf: bool) -> None:
        self._wire, self._models, self._cost, self._poison, self._deaf = wire, models, cost, poison, deaf
        self._sessions: dict[int, StubSession] = {}
        self._lock = threading.Lock()

    def run(self) -> None:
        """Serve until the front is gone."""
        costs = {"0.5": self._cost, "1.0": self._cost, "2.0": self._cost}
        ready = Readiness(dict.fromkeys(self._models, ()), "stub", costs, 0.0)
        self._send(frame(Kind.READY, 0, asdict(ready)))
        threading.Thread(target=self._beat, daemon=True).start()
        reader = FrameReader()
        while data := self._wire.recv(1 << 18):
            said: dict[int, list[CoreEvent]] = {}
            for one in reader.push(data):
                if one.kind is Kind.STOP:
                    return
                said.setdefault(one.session, []).extend(self._take(one))
            for number, events in said.items():
                session = self._sessions.get(number)
                if session is not None and events:
                    self._send(frame(Kind.EVENTS, number, write_said(Said(tuple(events), session.start))))

    def _take(self, one: Frame) -> list[CoreEvent]:
        if one.kind is Kind.OPEN:
            opening = read_opening(one.json())
            self._sessions[one.session] = StubSession(opening, opening.rate, opening.offset, opening.offset)
        session = self._sessions.get(one.session)
        if session is None or self._deaf:
            return []
        if one.kind is Kind.CLOSE:
            del self._sessions[one.session]
            return []
        if one.kind is Kind.AUDIO and self._poison is not None and self._poison in memoryview(one.payload).cast("h"):
            self._send(frame(Kind.RUNNING, 0, {"sessions": [one.session]}))
            time.sleep(0.05)  # what is sent just before the end of a process may be lost
            os.kill(os.getpid(), signal.SIGKILL)
        if one.kind is Kind.CONFIGURE:
            session.rate = one.json()["rate"]
        return session.flush(one.json()["number"]) if one.kind is Kind.FLUSH else session.take(one.kind, one.payload)

    def _beat(self) -> None:
        while True:
            self._send(frame(Kind.BEAT, 0, asdict(Load(sessions=len(self._sessions)))))
            time.sleep(BEAT)

    def _send(self, data: bytes) -> None:
        with self._lock:
            self._wire.sendall(data)


def main() -> int:
    """Run the stub."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fd", type=int, required=True)
    parser.add_argument("--model", action="append", default=[])
    parser.add_argument("--device", default="auto")
    parser.add_argument("--known", default="", help="not looked at")
    parser.add_argument("--cost", type=float, default=0.001, help="seconds of work a second of speech that it claims")
    parser.add_argument("--deaf", action="store_true", help="listen to nothing")
    parser.add_argument("--poison", type=int, metavar="SAMPLE", help="die of audio that has this sample")
    args = parser.parse_args()
    wire = socket.socket(fileno=args.fd)
    models = [one.partition("=")[0] for one in args.model] or ["default"]
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        StubEngine(wire, models, args.cost, args.poison, args.deaf).run()
    return 0


if __name__ == "__main__":
    sys.exit(main())
