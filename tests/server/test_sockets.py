"""Websockets over real connections: who gets in, what is said, and what hostile clients find."""

import base64
import json
import os
import signal
import socket
import ssl
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from server_client import COMMIT, NOISE, append, checked, completed, frame, healthy, open_session, rest, upgrade
from stub import Running, descriptors, running
from websockets.exceptions import ConnectionClosed, InvalidStatus

from speechmtp.server.config import Limits

QUICK = Limits(head_seconds=1.0, message_seconds=1.0, first_audio=2.0, silent=3.0, unread_seconds=1.0, message=1 << 20)


@pytest.fixture(scope="module")
def server() -> Iterator[Running]:
    with running(limits=QUICK) as found:
        yield found
        assert not found.tracebacks


@pytest.fixture
def clean(server: Running) -> Iterator[Running]:
    """Afterwards a healthy session passes, and nothing is left of the others."""
    before = descriptors()
    yield server
    healthy(server)
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline and (server.left_over()[0] or descriptors() > before):
        time.sleep(0.02)
    assert server.left_over()[0] == 0 and descriptors() <= before and not server.tracebacks


def reply(client: socket.socket) -> bytes:
    """All that the server sends until it closes."""
    found = b""
    try:
        while data := client.recv(1 << 16):
            found += data
    except ConnectionResetError:
        pass
    return found


def upgraded(server: Running) -> socket.socket:
    """A connection on which frames can be sent."""
    client = server.connect()
    client.sendall(upgrade())
    head = b""
    while b"\r\n\r\n" not in head:
        head += client.recv(1 << 16)
    assert head.startswith(b"HTTP/1.1 101 ")
    return client


def close_code(client: socket.socket) -> int:
    """The code of the close frame in what the server sends."""
    found = reply(client)
    while found:
        size = found[1] & 0x7F
        begin = 2 + (2 if size == 126 else 8 if size == 127 else 0)
        if size >= 126:
            size = int.from_bytes(found[2:begin], "big")
        if found[0] & 0xF == 8:
            return int(struct.unpack(">H", found[begin : begin + 2])[0])
        found = found[begin + size :]
    return 1006


# What is said


@pytest.mark.parametrize("size", [1, 7, 160, 801, 4800, 48000])
def test_every_sample_arrives_in_messages_of_any_size(server: Running, size: int) -> None:
    sound = NOISE[: 300 * size]
    with open_session(server) as client:
        for start in range(0, len(sound), size):
            client.send(append(sound[start : start + size]))
        client.send(COMMIT)
        assert completed(client).split()[-1] == checked(sound)


def test_bytes_may_be_cut_anywhere(server: Running) -> None:
    data, rng = NOISE[:8000].tobytes(), np.random.default_rng(1)
    with open_session(server) as client:
        start = 0
        while start < len(data):
            end = start + int(rng.integers(1, 999))
            audio = base64.b64encode(data[start:end]).decode()
            client.send(json.dumps({"type": "input_audio_buffer.append", "audio": audio}))
            start = end
        client.send(COMMIT)
        assert completed(client).split()[-1] == checked(NOISE[:8000])


def test_two_hundred_commits_in_a_burst_are_answered_in_order_with_their_last_samples(clean: Running) -> None:
    lengths = [1 + 97 * number for number in range(200)]
    with open_session(clean) as client:
        for length in lengths:
            client.send(append(NOISE[: max(0, length - 1920)]))
            client.send(append(NOISE[max(0, length - 1920) : length]))  # the last 80 ms come just before the commit
            client.send(COMMIT)
        assert [completed(client) for _ in lengths] == [checked(NOISE[:length]) for length in lengths]


def test_a_client_that_leaves_frees_its_place(clean: Running) -> None:
    for number in range(40):
        client = upgraded(clean)
        client.sendall(frame(1, append(NOISE[:800]).encode()[:120]))
        if number % 2:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # RST
        client.close()


def test_finals_reach_a_client_that_has_closed_its_half(clean: Running) -> None:
    client = clean.connect()
    client.sendall(upgrade("/v1/listen?encoding=linear16&sample_rate=16000"))
    client.sendall(frame(2, NOISE[:8000].tobytes()[:60000]))
    client.sendall(frame(1, b'{"type":"CloseStream"}'))
    client.shutdown(socket.SHUT_WR)
    found = reply(client)
    assert checked(NOISE[:8000]).encode() in found and b'"Metadata"' in found and b"\x03\xe8" in found[-8:]


# Who gets in


def test_a_wrong_path_and_a_wrong_method(clean: Running) -> None:
    with pytest.raises(InvalidStatus) as error:
        open_session(clean, "/v1/nothing")
    assert error.value.response.status_code == 404
    for head, status in (
        (upgrade(version="1.0"), b"505"),
        (upgrade("/v1/realtime", "Content-Length: 3") + b"abc", b"400"),
        (upgrade("/v1/realtime", "Transfer-Encoding: chunked"), b"400"),
        (b"POST /v1/realtime HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 0\r\n\r\n", b"405"),
        (upgrade("/v1/realtime", "Origin: https://elsewhere.example"), b"403"),
        (upgrade("/v1/realtime", "Origin: null"), b"403"),
        (upgrade().replace(b"Host: 127.0.0.1", b"Host: evil.example"), b"403"),
        (upgrade("/v1/realtime", "X-Long: " + "x" * 20000), b"431"),
        (b"nonsense\r\n\r\n", b"400"),
    ):
        with clean.connect() as client:
            client.sendall(head)
            client.shutdown(socket.SHUT_WR)
            assert reply(client).split(b" ", 2)[1] == status, head


def test_one_header_a_second_is_cut_off(clean: Running) -> None:
    with clean.connect() as client:
        began = time.monotonic()
        client.sendall(b"GET / HT")
        assert b"408" in reply(client) and 0.8 < time.monotonic() - began < 3


def test_tls_on_a_plain_port(clean: Running) -> None:
    context = ssl.create_default_context()
    with clean.connect() as client, pytest.raises((ssl.SSLError, ConnectionError, EOFError, OSError)):
        context.wrap_socket(client, server_hostname="localhost")


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (frame(1, b"{}", masked=False), 1002),
        (frame(1, b"{}", first=0xC0), 1002),
        (frame(3), 1002),
        (frame(1, b"\xff\xfe"), 1007),
        (b"\x81\xff" + struct.pack(">Q", 3 << 20) + b"\1\2\3\4", 1009),
    ],
)
def test_broken_frames(clean: Running, data: bytes, code: int) -> None:
    with upgraded(clean) as client:
        client.sendall(data)
        client.shutdown(socket.SHUT_WR)
        assert close_code(client) == code


def test_endless_fragments_are_cut_off(clean: Running) -> None:
    with upgraded(clean) as client:
        client.sendall(frame(1, b"{", first=0))
        began = time.monotonic()
        client.settimeout(0.2)
        while time.monotonic() - began < 6:
            try:
                client.sendall(frame(0, b" ", first=0))
                if not client.recv(1 << 16):
                    break
            except TimeoutError:
                continue
            except (ConnectionError, BrokenPipeError):
                break
        assert time.monotonic() - began < 5


def test_who_is_silent_or_stops_in_a_frame_is_cut_off(clean: Running) -> None:
    with upgraded(clean) as silent, upgraded(clean) as stopped:
        stopped.sendall(frame(1, b"x" * 100)[:50])
        began = time.monotonic()
        for client in (silent, stopped):
            assert close_code(client) in (1011, 1006) and time.monotonic() - began < 8


def test_who_never_reads_is_cut_off(clean: Running) -> None:
    with upgraded(clean) as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.settimeout(1.0)
        began, data = time.monotonic(), frame(1, b'{"type":"nothing","event_id":"' + b"x" * 400 + b'"}')
        try:
            while time.monotonic() - began < 20:
                client.sendall(frame(9, b"p" * 100) * 50 + data)
        except (ConnectionError, TimeoutError):
            pass
        assert time.monotonic() - began < 20
    deadline = time.monotonic() + 12
    while clean.left_over()[0] and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not clean.left_over()[0]


def test_a_flood_of_pings_disturbs_nobody(clean: Running) -> None:
    with upgraded(clean) as client, open_session(clean) as other:
        client.settimeout(0.5)
        for _ in range(30):
            client.sendall(frame(9, b"") * 200)
            client.recv(1 << 16)
            other.send(append(NOISE[:800]))
        other.send(COMMIT)
        assert completed(other).split()[-1] == checked(np.tile(NOISE[:800], 30))


def test_tokens() -> None:
    with running(tokens=["secret", "other"]) as server:
        for given in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "Bearer " + "x" * 8000}):
            with pytest.raises(InvalidStatus) as error:
                open_session(server, additional_headers=given)
            assert error.value.response.status_code == 401 and b"secret" not in error.value.response.body
        for given in ({"Authorization": "Bearer secret"}, {"Authorization": "Token other"}):
            with open_session(server, additional_headers=given) as client:
                assert json.loads(client.recv(10))["type"] == "session.created"
        names: Any = ["realtime", "openai-insecure-api-key.secret"]
        with open_session(server, subprotocols=names) as client:
            assert client.subprotocol == "realtime"
        assert "secret" not in " ".join(record.getMessage() for record in server.logged)


def test_a_full_server_says_so_before_the_upgrade() -> None:
    with running(sessions=2) as server, open_session(server), open_session(server) as second:
        began = time.monotonic()
        with pytest.raises(InvalidStatus) as error:
            open_session(server)
        assert error.value.response.status_code == 503 and time.monotonic() - began < 0.5
        assert 1 <= int(error.value.response.headers["Retry-After"]) <= 5
        agent = {"User-Agent": "LiveKit Agents/1.8"}
        with open_session(server, user_agent_header=None, additional_headers=agent) as refused:
            with pytest.raises(ConnectionClosed) as closed:
                refused.recv(10)
            assert closed.value.rcvd is not None and closed.value.rcvd.code == 1013
        second.close()
        deadline = time.monotonic() + 5
        while server.left_over()[0] > 1 and time.monotonic() < deadline:
            time.sleep(0.01)
        healthy(server)


def test_too_many_connections_of_an_address() -> None:
    with running(limits=Limits(connections_address=3)) as server:
        clients = [server.connect() for _ in range(3)]
        time.sleep(0.1)
        with server.connect() as client:
            client.sendall(b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
            assert b" 503 " in reply(client)
        for client in clients:
            client.close()


def test_sigterm_gives_the_last_words(tmp_path: Path) -> None:
    with running(drain=0.5) as server:
        with open_session(server) as client:
            client.send(append(NOISE))
            json.loads(client.recv(10))
            server.send_signal(signal.SIGTERM)
            time.sleep(0.1)
            with pytest.raises((InvalidStatus, OSError)):
                open_session(server)
            said, code, _ = rest(client)
            assert code == 1012 and checked(NOISE) in said
        assert server.stop(signal.SIGTERM) == 0


def test_a_lost_engine_is_not_noticed_by_clients(server: Running) -> None:
    [engine] = server.server.pool.engines
    with open_session(server) as client:
        client.send(append(NOISE[:8000]))
        client.send(COMMIT)
        assert completed(client) == checked(NOISE[:8000])
        client.send(append(NOISE[8000:30000]))
        assert engine.pid is not None
        os.kill(engine.pid, signal.SIGKILL)
        client.send(append(NOISE[30000:]))
        client.send(COMMIT)
        assert completed(client).split()[-1] == checked(NOISE[8000:])


def test_more_audio_than_may_wait_ends_with_the_way_out() -> None:
    limits = Limits(waiting=2.0, credit=1.0, pause=0.5)
    with running("--deaf", limits=limits) as server, open_session(server) as client:
        for _ in range(10):
            client.send(append(NOISE[:24000]))
        _, code, reason = rest(client)
        assert code == 1008 and "/v1/audio/transcriptions" in reason


def test_a_session_that_lasts_too_long_gets_its_last_words() -> None:
    with running(limits=Limits(session=1.0)) as server, open_session(server) as client:
        client.send(append(NOISE))
        said, code, reason = rest(client)
        assert code == 1000 and checked(NOISE) in said and "longest session" in reason


NO_ROOM = """
import os, resource, time
from server_client import healthy
from stub import descriptors, running

with running() as server:
    resource.setrlimit(resource.RLIMIT_NOFILE, (descriptors() + 8, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    clients = []
    try:
        while True:
            clients.append(server.connect(1))
    except OSError:
        pass
    before = time.process_time()
    time.sleep(1)
    assert time.process_time() - before < 0.5, "it spins"
    for one in clients:
        one.close()
    time.sleep(1.5)  # the loop accepts again after a second
    healthy(server)
"""


def test_no_room_for_more_files_is_survived() -> None:
    folder = str(Path(__file__).parent)
    given = {**os.environ, "PYTHONPATH": os.pathsep.join([folder, os.environ.get("PYTHONPATH", "")])}
    done = subprocess.run([sys.executable, "-c", NO_ROOM], capture_output=True, text=True, check=False, env=given)
    assert done.returncode == 0, done.stderr


def test_the_front_never_imports_torch() -> None:
    code = "import sys, speechmtp.server.app, speechmtp.cli.serve; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
