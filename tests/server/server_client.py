"""Clients of a server with stub engines, well-behaved and raw."""

import base64
import json
import struct
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from stub import Running
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

NOISE = np.random.default_rng(0).integers(-9999, 9999, 48000, dtype=np.int16)
COMMIT = json.dumps({"type": "input_audio_buffer.commit"})


def open_session(server: Running, path: str = "/v1/realtime", **given: Any) -> ClientConnection:
    return connect(f"ws://127.0.0.1:{server.port}{path}", compression=None, **given)


def append(samples: np.ndarray) -> str:
    return json.dumps({"type": "input_audio_buffer.append", "audio": base64.b64encode(samples.tobytes()).decode()})


def completed(client: ClientConnection) -> str:
    """The next transcript."""
    while True:
        event = json.loads(client.recv(30))
        assert event["type"] != "error", event
        if event["type"].endswith("transcription.completed"):
            return str(event["transcript"])


def rest(client: ClientConnection) -> tuple[str, int, str]:
    """What is said until the server closes, its code and its reason."""
    texts = list[str]()
    try:
        while True:
            texts.append(str(client.recv(10)))
    except ConnectionClosed:
        return "".join(texts), client.close_code or 1006, client.close_reason or ""


def checked(samples: np.ndarray | Sequence[int]) -> str:
    """What the stub says of samples."""
    samples = np.asarray(samples, np.int16)
    return f"n{len(samples)}x{zlib.crc32(samples.tobytes()):08x}"


def healthy(server: Running) -> None:
    with open_session(server) as client:
        client.send(append(NOISE))
        client.send(COMMIT)
        assert completed(client).split() == ["w1", "w2", checked(NOISE)]


def upgrade(path: str = "/v1/realtime", *lines: str, method: str = "GET", version: str = "1.1") -> bytes:
    head = [
        f"{method} {path} HTTP/{version}", "Host: 127.0.0.1", "Upgrade: websocket", "Connection: Upgrade",
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==", "Sec-WebSocket-Version: 13", *lines, "", "",
    ]  # fmt: skip
    return "\r\n".join(head).encode()


def frame(opcode: int, payload: bytes = b"", first: int = 0x80, masked: bool = True) -> bytes:
    size = len(payload)
    length = bytes([(0x80 if masked else 0) | min(size, 126)]) + (struct.pack(">H", size) if size >= 126 else b"")
    mask = b"\1\2\3\4" if masked else b""
    data = bytes(byte ^ mask[place % 4] for place, byte in enumerate(payload)) if masked else payload
    return bytes([first | opcode]) + length + mask + data
