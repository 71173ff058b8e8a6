"""Stands in for the process of uploads, without PyTorch: the file says what happens. Its lines become parts of a second
each; `!` as the first letter of a line is an order."""

import os
import socket
import sys
import threading
import time
from dataclasses import asdict

from speechmtp.server.link import FrameReader, Kind, frame
from speechmtp.server.uploads import Failure, Part, Pulse, Segment, TokenLogprob, Upload, write_part
from speechmtp.words.word import Word

wire = socket.socket(fileno=int(sys.argv[sys.argv.index("--fd") + 1]))
closed: list[int] = []
writing = threading.Lock()


def tell(kind: Kind, number: int, payload: dict[str, object]) -> None:
    """Send a frame."""
    with writing:
        wire.sendall(frame(kind, number, payload))


def part_of(text: str, number: int, upload: Upload) -> Part:
    """The part of a line."""
    start = float(number)
    words = tuple(
        Word(word, start + 0.25 * place, start + 0.25 * place + 0.125, 0.5) for place, word in enumerate(text.split())
    )
    segment = Segment(start, start + 1, text, words, (7, 8), -0.5, 0.75, start)
    logprobs = tuple(TokenLogprob(word, -0.25) for word in text.split()) if upload.logprobs else ()
    return Part(text, start + 1, (segment,), logprobs)


def transcribe(number: int, upload: Upload) -> None:
    """Say what the file says."""
    with open(upload.path, encoding="latin-1") as file:
        lines = file.read().splitlines()
    place = 0
    for line in lines:
        if number in closed:
            return
        order, _, rest = line.partition(" ")
        if order == "!crash":
            os._exit(3)
        elif order == "!refuse":
            tell(Kind.EVENTS, number, {"failed": asdict(Failure(f"file: {rest}", True))})
            return
        elif order == "!wait":
            time.sleep(float(rest))
        else:
            text = str({"!closed": sorted(closed), "!upload": sorted(asdict(upload).items())}.get(order, line))
            tell(Kind.EVENTS, number, {"part": write_part(part_of(text, place, upload))})
            place += 1
    tell(Kind.EVENTS, number, {"done": True})


def beat() -> None:
    """Give signs of life."""
    while True:
        tell(Kind.BEAT, 0, asdict(Pulse()))
        time.sleep(0.25)


threading.Thread(target=beat, daemon=True).start()
reader = FrameReader()
while data := wire.recv(1 << 16):
    for one in reader.push(data):
        if one.kind is Kind.OPEN:
            threading.Thread(target=transcribe, args=(one.session, Upload(**one.json())), daemon=True).start()
        elif one.kind is Kind.CLOSE:
            closed.append(one.session)
        elif one.kind is Kind.STOP:
            os._exit(0)
os._exit(0)
