"""The engine's end of the socket: it reads while it cannot write, and says when the main loop hangs."""

import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import replace

import pytest

from speechmtp.server.engine_wire import EngineWire
from speechmtp.server.link import BEAT, Frame, FrameReader, Kind, Load, frame

ROUNDS = 400


@pytest.fixture
def ends() -> Iterator[tuple[EngineWire, socket.socket, threading.Event]]:
    ours, theirs = socket.socketpair()
    gone = threading.Event()
    wire = EngineWire(theirs, gone.set)
    yield wire, ours, gone
    ours.close()
    assert gone.wait(5), "the end of the other side is seen"
    theirs.close()


def frames_of(wire: socket.socket, until: float) -> list[Frame]:
    """What comes until then."""
    reader, found = FrameReader(), list[Frame]()
    while (left := until - time.monotonic()) > 0:
        wire.settimeout(left)
        try:
            found += reader.push(wire.recv(1 << 16))
        except TimeoutError:
            break
    return found


def test_frames_come_with_their_time(ends: tuple[EngineWire, socket.socket, threading.Event]) -> None:
    wire, ours, _ = ends
    before = time.monotonic()
    assert wire.take(0.0) == []
    ours.sendall(frame(Kind.FLUSH, 3, {"number": 1}) + frame(Kind.END, 3))
    time.sleep(0.1)
    found = wire.take(5.0)
    assert [one.kind for _, one in found] == [Kind.FLUSH, Kind.END]
    assert all(before <= came <= time.monotonic() - 0.05 for came, _ in found), (
        "when they came, not when they are taken"
    )


def test_it_reads_while_the_front_does_not(ends: tuple[EngineWire, socket.socket, threading.Event]) -> None:
    wire, ours, _ = ends
    payload = b"x" * 50_000  # 20 MB in all, more than any socket holds

    def say() -> None:
        for number in range(ROUNDS):
            wire.send(Kind.EVENTS, number, payload)

    saying = threading.Thread(target=say, daemon=True)
    saying.start()
    for number in range(ROUNDS):
        ours.sendall(frame(Kind.AUDIO, number, payload))
    assert saying.is_alive(), "it waits"
    taken, reader, said = list[int](), FrameReader(), list[Frame]()
    while len(taken) < ROUNDS:
        taken += [one.session for _, one in wire.take(1.0)]
    while len(said) < ROUNDS:
        said += [one for one in reader.push(ours.recv(1 << 18)) if one.kind is Kind.EVENTS]
    saying.join(5)
    assert taken == [one.session for one in said] == list(range(ROUNDS))
    assert all(one.payload == payload for one in said)


def test_signs_of_life_say_for_how_long_the_loop_hangs(
    ends: tuple[EngineWire, socket.socket, threading.Event],
) -> None:
    wire, ours, _ = ends
    wire.load = replace(Load(), sessions=7)
    wire.take(0.0)
    beats = [one for one in frames_of(ours, time.monotonic() + 4.4 * BEAT) if one.kind is Kind.BEAT]
    stuck = [Load(**one.json()).stuck for one in beats]
    assert 3 <= len(beats) <= 6 and stuck == sorted(stuck) and 2 * BEAT < stuck[-1] < 6 * BEAT
    assert Load(**beats[-1].json()).sessions == 7
    wire.take(0.0)
    again = [one for one in frames_of(ours, time.monotonic() + 1.4 * BEAT) if one.kind is Kind.BEAT]
    assert Load(**again[0].json()).stuck < 1.5 * BEAT


def test_stop_is_the_end() -> None:
    ours, theirs = socket.socketpair()
    gone = threading.Event()
    with ours, theirs:
        EngineWire(theirs, gone.set)
        ours.sendall(frame(Kind.STOP))
        assert gone.wait(5)
