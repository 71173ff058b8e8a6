"""Random broken exchanges: nothing leaks, nothing is logged with a traceback, and a healthy session does not notice."""

import contextlib
import json
import random
import socket
import struct
import time
from collections.abc import Callable

import pytest
from server_client import NOISE, append, checked, completed, frame, healthy, open_session, upgrade
from stub import Running, descriptors, running

from speechmtp.server.config import Limits

PATHS = [
    "/v1/realtime",
    "/v1/listen?encoding=linear16&sample_rate=16000",
    "/",
    "/v2/listen",
    "/v1/listen?encoding=opus",
]
VALUES = [
    None, True, -1, 0, 1e9, "", "x", [], {}, "16000", float("nan"), float("inf"), 10**30, "\ud800", "a" * 3000,
    [[[[[[[[[[[[[[[[[[[[1]]]]]]]]]]]]]]]]]]]], {"type": "server_vad"}, {"type": "audio/pcm", "rate": -1},
]  # fmt: skip
EVENTS = [
    {"type": "session.update", "session": {"audio": {"input": {"format": {"type": "audio/pcm", "rate": 8000}}}}},
    {"type": "input_audio_buffer.append", "audio": "AAAA"},
    {"type": "input_audio_buffer.commit"},
    {"type": "input_audio_buffer.clear"},
    {"type": "KeepAlive"}, {"type": "Finalize"}, {"type": "CloseStream"}, {"type": "Configure"},
    {"config": {"sample_rate": 8000, "words": 1, "max_alternatives": 3}}, {"eof": 1}, {"reset": 1},
]  # fmt: skip


def broken(chance: random.Random, value: object, depth: int = 0) -> object:
    """The value with some part of it replaced, left out or doubled."""
    if isinstance(value, dict) and value and depth < 5:
        key = chance.choice(list(value))
        other = dict(value)
        if chance.random() < 0.15:
            del other[key]
        elif chance.random() < 0.1:
            other[chance.choice(["type", "x", "audio", "config"])] = chance.choice(VALUES)
        else:
            other[key] = broken(chance, value[key], depth + 1)
        return other
    return chance.choice(VALUES)


def message(chance: random.Random) -> bytes:
    """Bytes of a frame, or of what is none."""
    event: object = chance.choice(EVENTS)
    if chance.random() < 0.6:
        event = broken(chance, event)
    text = json.dumps(event)
    if chance.random() < 0.1:
        place = chance.randrange(len(text) + 1)
        text = text[:place] + chance.choice(["}", "\0", "NaN", '"', "é", "{" * 50]) + text[place:]
    data = text.encode("utf-8", "surrogatepass")
    opcode = chance.choice([1, 1, 1, 1, 2, 2, 8, 9, 10, 0, 3, 15])
    if opcode == 2:
        data = chance.randbytes(chance.choice([0, 1, 3, 320, 1601, 40000]))
    if opcode >= 8:
        data = data[:125]
    found = bytearray(frame(opcode, data[:60000], chance.choice([0x80] * 12 + [0, 0xC0]), chance.random() < 0.97))
    for _ in range(chance.choice([0] * 8 + [1, 3])):
        found[chance.randrange(len(found))] = chance.randrange(256)
    return bytes(found[: chance.choice([len(found)] * 15 + [chance.randrange(len(found) + 1)])])


def head(chance: random.Random) -> bytes:
    """The request of an upgrade, broken or not."""
    found = bytearray(upgrade(chance.choice(PATHS)))
    for _ in range(chance.choice([0] * 6 + [1, 2, 5])):
        place = chance.randrange(len(found))
        found[place : place + chance.choice([0, 1, 4])] = chance.randbytes(chance.choice([0, 1, 1, 3]))
    return bytes(found)


def exchange(chance: random.Random, connect: Callable[[], socket.socket]) -> None:
    """One connection: its messages are not waited for, and its end comes in one of four ways."""
    client = connect()
    client.settimeout(0.02)
    try:
        client.sendall(head(chance))
        for _ in range(chance.randrange(6)):
            if chance.random() < 0.5:
                with contextlib.suppress(TimeoutError):
                    client.recv(1 << 16)
            client.sendall(message(chance))
        end = chance.randrange(4)
        if end == 0:
            client.sendall(frame(8, struct.pack(">H", chance.choice([1000, 1001, 999, 5000]))))
        elif end == 1:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # RST
        elif end == 2:
            client.shutdown(socket.SHUT_WR)
            client.recv(1 << 16)
    except OSError:
        pass
    finally:
        client.close()


def run(server: Running, count: int, seed: int) -> None:
    """Broken exchanges beside a healthy session that goes on."""
    before, tasks = descriptors(), server.left_over()[1]
    chance, samples = random.Random(seed), NOISE[:400]
    with open_session(server) as client:
        for number in range(1, count + 1):
            exchange(chance, server.connect)
            client.send(append(samples))
            if number % 50 == 0 or number == count:
                client.send(json.dumps({"type": "input_audio_buffer.commit"}))
                sent = 50 if number % 50 == 0 else number % 50
                assert completed(client).split()[-1] == checked(list(samples) * sent)
    healthy(server)
    deadline = time.monotonic() + 15
    while time.monotonic() < deadline and (server.left_over()[0] or descriptors() > before):
        time.sleep(0.05)
    sessions, left = server.left_over()
    assert sessions == 0 and descriptors() <= before and left <= tasks + 1
    assert not server.tracebacks


QUICK = Limits(head_seconds=1.0, message_seconds=1.0, first_audio=2.0, silent=3.0, unread_seconds=1.0, failures=10**6)


@pytest.mark.parametrize("count", [150, pytest.param(10_000, marks=pytest.mark.slow)])
@pytest.mark.timeout(1800)
def test_broken_exchanges_disturb_nobody(count: int) -> None:
    with running(limits=QUICK, sessions=1000) as server:
        run(server, count, seed=count)
