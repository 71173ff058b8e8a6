"""HTTP over a real socket: bodies of every kind, limits, and requests that are none."""

import asyncio
import random
import socket
import time
from collections.abc import Iterator

import pytest
from http_runs import BOUNDARY, Served, form, quick, rest, serving

from speechmtp.server.http.form import Spool

KEEP = "GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"
POST = "POST /v1/listen HTTP/1.1\r\nHost: localhost\r\n"
LAST = "GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    with quick(), serving(head_seconds=0.3, upload=200_000) as one:
        yield one


@pytest.fixture(autouse=True)
def _a_healthy_request_passes_after_each(served: Served) -> Iterator[None]:
    yield
    assert served.idle(), served.site.connections
    assert served.healthy()


def answers(data: bytes) -> list[int]:
    """The statuses of answers in what came."""
    return [int(one.split(b" ", 1)[0]) for one in data.split(b"HTTP/1.1 ")[1:]]


def test_a_connection_serves_one_request_after_the_other(served: Served) -> None:
    with served.connected() as sock:
        for _ in range(3):
            sock.sendall(KEEP.encode())
            found = b""
            while b'{"status":"ok"}' not in found:
                found += sock.recv(4096)
            assert answers(found) == [200]
        sock.sendall(LAST.encode())
        assert answers(rest(sock)) == [200]


def test_bodies_with_a_length_in_chunks_and_in_small_pieces(served: Served) -> None:
    body = form(b"one\ntwo")
    kind = {"content-type": f"multipart/form-data; boundary={BOUNDARY}"}
    whole = served.ask("POST", "/v1/audio/transcriptions", body, kind)
    assert whole.json()["text"] == "one two"
    pieces = iter([body[start : start + 7] for start in range(0, len(body), 7)])
    chunked = served.ask("POST", "/v1/audio/transcriptions", pieces, kind, chunked=True)
    assert chunked.body == whole.body
    head = (
        "POST /v1/audio/transcriptions HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
        f"Content-Length: {len(body)}\r\ncontent-type: {kind['content-type']}\r\n\r\n"
    )
    with served.connected() as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in head.encode() + body:
            sock.sendall(bytes([byte]))
        assert rest(sock).endswith(whole.body)


def test_a_client_that_waits_for_leave_to_send_gets_it(served: Served) -> None:
    body = form(b"one")
    head = (
        "POST {} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nExpect: 100-continue\r\n"
        f"Content-Type: multipart/form-data; boundary={BOUNDARY}\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    with served.connected() as sock:
        sock.sendall(head.format("/v1/audio/transcriptions").encode())
        assert sock.recv(4096).startswith(b"HTTP/1.1 100 ")
        sock.sendall(body)
        assert b'"text":"one"' in rest(sock)
    with served.connected() as sock:
        sock.sendall(head.format("/nowhere").encode())
        assert answers(rest(sock)) == [404]


def test_head_has_the_headers_of_get_and_no_body(served: Served) -> None:
    whole, head = served.ask("GET", "/v1/models"), served.ask("HEAD", "/v1/models")
    assert (head.status, head.body, head.headers) == (200, b"", whole.headers)


@pytest.mark.parametrize(
    ("method", "path", "status", "allow"),
    [
        ("GET", "/nowhere", 404, None), ("POST", "/v1/models", 405, "GET, HEAD"),
        ("GET", "/v1/audio/transcriptions", 405, "POST"), ("GET", "/v1/realtime", 426, "GET"),
        ("POST", "/v1/realtime", 405, "GET"), ("DELETE", "/v1/listen", 405, "POST, GET"),
        ("GET", "/v1/listen", 426, "POST, GET"), ("GET", "/v2/listen", 404, None),
        ("BREW", "/healthz", 405, "GET, HEAD"), ("OPTIONS", "/v1/models", 405, "GET, HEAD"),
        ("GET", "/../../etc/passwd", 404, None), ("GET", "/%2e%2e/x", 404, None),
    ],
)  # fmt: skip
def test_what_no_handler_takes(served: Served, method: str, path: str, status: int, allow: str | None) -> None:
    found = served.ask(method, path)
    assert (found.status, found.headers.get("allow")) == (status, allow)
    error = found.json()
    assert error["err_msg"] if path.endswith("listen") else error["error"]["message"]
    assert ("dg-error" in found.headers) == path.endswith("listen")


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        ("GET /healthz HTTP/1.1\r\nHost: localhost\r\nX: " + "x" * 20480 + "\r\n\r\n", 431),
        ("GET /healthz HTTP/1.1\r\nHost: localhost\r\n" + "X: y\r\n" * 200 + "\r\n", 431),
        ("GET /" + "x" * 20480 + " HTTP/1.1\r\nHost: localhost\r\n\r\n", 431),
        (f"{POST}Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
        (f"{POST}Content-Length: 3\r\nContent-Length: 4\r\n\r\nabcd", 400),
        (f"{POST}Content-Length: -1\r\n\r\n", 400), (f"{POST}Transfer-Encoding: gzip\r\n\r\n", 501),
        (f"{POST}Transfer-Encoding: chunked\r\n\r\nzz\r\n", 400),
        ("GET /healthz HTTP/1.1\r\n\r\n", 400),
        ("GET /healthz HTTP/1.1\r\nHost: localhost\r\nHost: localhost\r\n\r\n", 400),
        ("GET /healthz HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n", 403),
        ("GET /healthz HTTP/1.1\r\nHost: localhost\r\nOrigin: null\r\nConnection: close\r\n\r\n", 403),
        ("GET /healthz HTTP/1.1\r\nHost : localhost\r\n\r\n", 400),
        ("GET http://[ HTTP/1.1\r\nHost: localhost\r\n\r\n", 400),
        ("GET /healthz?" + "a&" * 300 + " HTTP/1.1\r\nHost: localhost\r\n\r\n", 400),
        ("\x16\x03\x01\x02\x00\x01\x00", 400), ("nonsense\r\n\r\n", 400),
    ],
)  # fmt: skip
def test_requests_that_are_none(served: Served, request_: str, status: int) -> None:
    found = served.send(request_.encode("latin-1"))
    assert answers(found) == [status]
    assert b'"err' in found and b"Traceback" not in found


def test_a_slow_head_is_cut(served: Served) -> None:
    for data in (b"", b"GET /healthz HTT"):
        began = time.monotonic()
        with served.connected() as sock:
            sock.sendall(b"G" + data)
            assert answers(rest(sock)) == [408]
        assert 0.2 < time.monotonic() - began < 3.5


def test_requests_before_an_answer_are_not_served(served: Served) -> None:
    assert answers(served.send(3 * KEEP.encode())) == [200]


def test_a_request_of_http_1_0_is_answered_and_closed(served: Served) -> None:
    assert answers(served.send(b"GET /healthz HTTP/1.0\r\n\r\n")) == [200]


def test_a_client_that_ends_sending_is_still_answered(served: Served) -> None:
    assert answers(served.send(KEEP.encode(), end=True)) == [200]


@pytest.mark.parametrize("said", ["length", "chunks"])
def test_a_body_that_is_cut(served: Served, said: str) -> None:
    length = "Content-Length: 100" if said == "length" else "Transfer-Encoding: chunked"
    head = f"POST /v1/listen HTTP/1.1\r\nHost: localhost\r\n{length}\r\n\r\n5\r\nabc"
    assert answers(served.send(head.encode(), end=True)) in ([400], [])


def test_a_refusal_is_seen_by_a_client_that_still_sends(served: Served) -> None:
    """Closing at once would reset the connection, and the answer with it."""
    data = b"x" * 5_000_000
    found = served.ask("POST", "/v1/listen", data)
    assert found.status == 413 and found.json()["err_code"] == "TOO_LARGE"


def test_a_body_waits_for_who_reads_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """A body that nobody has read yet is left to the system, not kept here."""

    async def wait(self: Spool, data: bytes) -> None:
        await asyncio.sleep(60)

    monkeypatch.setattr(Spool, "write", wait)
    with serving(upload=1 << 30) as served, served.connected() as sock:
        sock.sendall(b"POST /v1/listen HTTP/1.1\r\nHost: localhost\r\nContent-Length: 900000000\r\n\r\n")
        sock.settimeout(0.5)
        with pytest.raises(TimeoutError):
            sock.sendall(bytes(100_000_000))
        [connection] = served.site.connections
        assert len(connection._h11.trailing_data[0]) < 2_000_000


def test_a_body_in_tiny_chunks_keeps_nobody_waiting(served: Served) -> None:
    head = POST.replace("listen", "listen?encoding=linear16&sample_rate=8000").encode()
    flood = head + b"Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n" + 40_000 * b"1\r\nx\r\n" + b"0\r\n\r\n"
    longest = 0.0

    async def watch() -> None:
        """Find how much the loop's thread computes between two turns of others, at most."""
        nonlocal longest
        while True:
            before = time.thread_time()
            await asyncio.sleep(0.001)
            longest = max(longest, time.thread_time() - before)

    watching = asyncio.run_coroutine_threadsafe(watch(), served.loop)
    assert answers(served.send(flood)) == [200]
    watching.cancel()
    assert longest < 0.1  # all of it at once takes 0.3 s or more


def test_a_slow_body_is_cut() -> None:
    with quick(GRACE=0.3), serving(upload_rate=1000) as served:
        began = time.monotonic()
        head = POST.replace("listen", "listen?encoding=linear16&sample_rate=8000").encode()
        head += b"Content-Length: 5000\r\n\r\n"
        with served.connected() as sock:
            sock.sendall(head)
            for _ in range(4):
                sock.sendall(b"x" * 20)
                time.sleep(0.1)
            assert answers(rest(sock)) == [408]
        assert time.monotonic() - began < 3.5
        assert served.idle()
        # One that is as fast as asked takes its time.
        with served.connected() as sock:
            sock.sendall(head.replace(b"5000", b"1000").replace(b"Host", b"Connection: close\r\nHost"))
            for _ in range(10):
                sock.sendall(b"x" * 100)
                time.sleep(0.08)
            assert answers(rest(sock)) == [200]


def test_a_reply_that_is_not_read_is_given_up() -> None:
    with quick(UNREAD=0.2), serving() as served, served.connected() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        content = b"x" * 50_000 + b"\n"
        body = form(content * 400, stream="true")
        head = (
            f"POST /v1/audio/transcriptions HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n"
            f"Content-Type: multipart/form-data; boundary={BOUNDARY}\r\n\r\n"
        )
        sock.sendall(head.encode() + body)
        assert served.idle(5.0)


SEEDS = [
    KEEP.encode(), LAST.encode(),
    POST.replace("listen", "listen?encoding=linear16&sample_rate=16000").encode() + b"Content-Length: 3\r\n\r\none",
    (f"POST /v1/audio/transcriptions HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\nContent-Type: "
     f"multipart/form-data; boundary={BOUNDARY}\r\n\r\n").encode()
    + b"%x\r\n%s\r\n0\r\n\r\n" % (len(form(b"one")), form(b"one")),
]  # fmt: skip


def broken(chance: random.Random) -> bytes:
    """A request with some bytes changed, left out, doubled, or cut."""
    data = bytearray(chance.choice(SEEDS) * chance.choice([1, 1, 1, 2]))
    for _ in range(chance.randrange(1, 6)):
        place = chance.randrange(len(data))
        span = slice(place, place + chance.choice([1, 1, 2, 8, 64]))
        new = [
            b"",
            bytes(data[span]) * 2,
            chance.randbytes(len(data[span])),
            b"\r\n",
            b"\r\n\r\n",
            b"\0",
            b"99999999999",
        ]
        data[span] = chance.choice(new)
        if not data:
            break
    return bytes(data)


def random_requests(served: Served, count: int, seed: int) -> None:
    chance = random.Random(seed)
    for number in range(count):
        data = broken(chance)
        found = served.send(data, end=chance.random() < 0.9)
        assert b"Traceback" not in found, data
        assert all(status in range(200, 505) and status != 500 for status in answers(found)), (data, found)
        if number % 20 == 0:
            assert served.healthy()


@pytest.fixture
def _quick() -> Iterator[None]:
    """Nobody is waited for."""
    with quick(LINGER=0.02, GONE=0.05, IDLE=0.05, GRACE=0.1):
        yield


@pytest.mark.usefixtures("_quick")
def test_random_broken_requests(served: Served, caplog: pytest.LogCaptureFixture) -> None:
    random_requests(served, 60, 1)
    assert not [record for record in caplog.records if record.exc_info], caplog.text


@pytest.mark.slow
@pytest.mark.usefixtures("_quick")
@pytest.mark.parametrize("seed", range(10))
def test_many_random_broken_requests(served: Served, caplog: pytest.LogCaptureFixture, seed: int) -> None:
    random_requests(served, 1000, 100 + seed)
    assert not [record for record in caplog.records if record.exc_info], caplog.text


def test_nothing_secret_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG")
    with serving(tokens=["sk-canary"]) as served:
        for key in ("sk-canary", "sk-canary-wrong"):
            headers = {"authorization": f"Bearer {key}", "content-type": f"multipart/form-data; boundary={BOUNDARY}"}
            for body in (form(b"said-canary", prompt="prompt-canary"), b"--canary", form(b"!refuse x canary")[:-9]):
                served.ask("POST", f"/v1/audio/transcriptions?token={key}&x=query-canary", body, headers)
            served.ask("POST", "/v1/listen?callback=canary", b"canary", headers)
            served.send(f"GET /canary?token={key} HTTP/1.1\r\nHost: canary\r\ncanary\r\n\r\n".encode())
        assert served.idle()
    assert "http: transcriptions" in caplog.text and "canary" not in caplog.text
