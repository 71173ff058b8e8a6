"""Streams of `tools/load.py` in a process of their own: audio goes out when it is due, whatever comes back, and all
that comes back is noted with its time.

A plan comes as one line of JSON on standard input. When the audio is there, `ready` is printed; a second line is the
time of `time.monotonic` at which to begin, which is one clock for all processes. The records are written as JSON.
"""

import asyncio
import json
import random
import sys
import time
import zlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from speechmtp.data.kaldi import read_data_dir
from speechmtp.server.client import Realtime

RATE = 16000
GRID = 2560  # samples: utterances begin where frames of any model do
PAUSE = 0.6  # seconds between utterances that are read
HEAD = 1.0  # seconds that a connection may take before its audio is due
LAST = 15.0  # seconds that the last answers may take
_ITEM = "conversation.item.input_audio_transcription."


@dataclass
class Plan:
    """What a process does: stream `numbers` over utterances of `data`, each from its own place in their order.

    `piece` are milliseconds of audio that are sent at a time, `jitter` those by which a piece may be late, `aborts` the
    chance for each minute that a client goes away without a word and comes again. `turns` is `commit` (at the end of
    each utterance), `vad`, or `none` for connections that say nothing.
    """

    url: str
    data: str
    numbers: list[int]
    seconds: float
    out: str
    root: str | None = None
    token: str = ""
    seed: int = 0
    first: int = 0  # utterances that are taken; 0: all
    piece: int = 40
    jitter: float = 0.0
    turns: str = "commit"
    silence: float = 0.7
    spread: float = 2.0  # seconds within which streams begin
    conversation: bool = False
    aborts: float = 0.0
    fast: int = 0  # the last so many of all `streams` send utterances at once, each when the one before is answered
    streams: int = 1


@dataclass
class Record:
    """One connection. Times are those of `time.monotonic`. `slots` are utterances: their id, first and last sample,
    when their end was told to the server, and how much audio that was with its checksum. `events` are [time, kind,
    ..]."""

    number: int
    asked: float
    connect: float | None = None  # seconds until it was open
    refused: str = ""
    t0: float = 0.0  # when the first sample is spoken
    slots: list[dict[str, Any]] = field(default_factory=list)
    events: list[list[Any]] = field(default_factory=list)
    lateness: list[float] = field(default_factory=list)  # of this program, seconds
    blocked: float = 0.0  # seconds in which the server took nothing
    closed: str = ""  # why the server ended it
    aborted: bool = False
    fast: bool = False
    ended: bool = False  # the connection


@dataclass(frozen=True)
class Slot:
    """An utterance in a stream: its samples, with silence behind them up to the next one."""

    id: str
    samples: np.ndarray
    spoken: int  # samples of the utterance itself


class Programme:
    """What a stream says, in an order of its own."""

    def __init__(self, plan: Plan, audio: dict[str, np.ndarray], number: int) -> None:
        self._plan, self._audio = plan, audio
        self.draw = random.Random(f"{plan.seed} {number}")
        self._names = sorted(audio)
        if plan.seed:
            self.draw.shuffle(self._names)
        self.phase = self.draw.random()

    def slots(self) -> Iterator[Slot]:
        """Utterances without end."""
        while True:
            for name in self._names:
                samples = self._audio[name]
                pause = len(samples) if self._plan.conversation else int(PAUSE * RATE)
                whole = -(-(len(samples) + pause) // GRID) * GRID
                yield Slot(name, np.pad(samples, (0, whole - len(samples))), len(samples))


def pieces(slot: Slot, size: int) -> list[tuple[int, int]]:
    """The pieces of a slot; one ends where the utterance does."""
    edges = sorted({*range(0, len(slot.samples), size), slot.spoken, len(slot.samples)})
    return list(pairwise(edges))


class Stream:
    """One connection after another, until the time is over."""

    def __init__(self, plan: Plan, audio: dict[str, np.ndarray], number: int, begin: float) -> None:
        self.plan, self.number = plan, number
        self.fast = number >= plan.streams - plan.fast
        self.programme = Programme(plan, audio, number)
        self.due = begin + plan.spread * self.programme.phase  # of the connection
        self.end = begin + plan.seconds
        self.records: list[Record] = []

    async def run(self) -> list[Record]:
        """All connections."""
        await _until(self.due)
        slots = self.programme.slots()
        while True:
            record = Record(self.number, time.monotonic(), fast=self.fast)
            self.records.append(record)
            if not await self._connected(record, slots) or time.monotonic() > self.end:
                return self.records

    async def _connected(self, record: Record, slots: Iterator[Slot]) -> bool:
        """One connection; whether another one follows."""
        plan = self.plan
        headers = {"Authorization": f"Bearer {plan.token}"} if plan.token else None
        try:
            socket = await connect(
                plan.url, subprotocols=["realtime"], compression=None, proxy=None, max_size=None, ping_interval=None,  # type: ignore[list-item]
                additional_headers=headers, open_timeout=30,
            )  # fmt: skip
        except InvalidStatus as error:
            record.refused = str(error.response.status_code)
        except (OSError, TimeoutError, ConnectionClosed, EOFError) as error:
            record.refused = type(error).__name__
        record.connect = time.monotonic() - record.asked
        if record.refused:
            return False
        client = Realtime(RATE, silence=plan.silence if plan.turns == "vad" else None)
        listener = asyncio.create_task(_listen(socket, record))
        try:
            await socket.send(client.settings())
            if plan.turns == "none":
                await _until(self.end)
            else:
                record.aborted = await self._speak(socket, client, record, slots)
            if record.aborted:
                socket.transport.abort()
            else:
                await self._answers(record)
                await socket.close()
        except ConnectionClosed:
            pass  # the listener notes it
        await listener
        return record.aborted

    async def _speak(self, socket: ClientConnection, client: Realtime, record: Record, slots: Iterator[Slot]) -> bool:
        """Send utterances until the time is over; whether the client goes away in the middle of one."""
        plan, draw = self.plan, self.programme.draw
        record.t0 = max(record.asked + HEAD, time.monotonic())
        sent, before, count, check = 0, 0.0, 0, 0
        for slot in slots:
            over = time.monotonic() if self.fast else record.t0 + (sent + slot.spoken) / RATE
            if over > self.end:
                return False
            leaves = not self.fast and draw.random() < 1 - (1 - plan.aborts) ** (len(slot.samples) / RATE / 60)
            note: dict[str, Any] = {"id": slot.id, "begin": sent, "end": sent + slot.spoken}
            for start, stop in pieces(slot, plan.piece * RATE // 1000):
                if leaves and start > slot.spoken // 2:
                    return True
                message = client.audio(slot.samples[start:stop])
                if self.fast:
                    await socket.send(message)
                else:
                    before = max(before, record.t0 + (sent + stop) / RATE + plan.jitter * draw.random())
                    await _send(socket, message, before, record)
                count, check = count + stop - start, zlib.crc32(slot.samples[start:stop].tobytes(), check)
                if stop == slot.spoken:
                    note |= {"asked": time.monotonic(), "samples": count, "check": check}
                    count = check = 0
                    if plan.turns == "commit":
                        await socket.send(client.commit())
                    record.slots.append(note)
            sent += len(slot.samples)
            if self.fast:
                await self._answers(record)
        return False

    async def _answers(self, record: Record) -> None:
        """Wait until all commits are answered, but not for ever."""
        until = time.monotonic() + LAST
        while time.monotonic() < until and not record.ended:
            answers = sum(event[1] in ("completed", "failed") for event in record.events)
            if answers >= len(record.slots) or self.plan.turns == "none":
                return
            await asyncio.sleep(0.05)


async def _send(socket: ClientConnection, message: str, due: float, record: Record) -> None:
    """Send a message when it is due. What the server makes us wait is not our lateness."""
    free = time.monotonic()
    await _until(due)
    woke = time.monotonic()
    record.lateness.append(woke - max(due, free))
    await socket.send(message)
    record.blocked += time.monotonic() - woke


async def _until(due: float) -> None:
    while (left := due - time.monotonic()) > 0:
        await asyncio.sleep(left)


async def _listen(socket: ClientConnection, record: Record) -> None:
    """Note what comes."""
    try:
        async for message in socket:
            now, given = time.monotonic(), json.loads(message)
            noted = note_of(given)
            if noted:
                record.events.append([now, *noted])
    except ConnectionClosed as error:
        if error.rcvd is not None and error.rcvd.code != 1000:
            record.closed = f"{error.rcvd.code} {error.rcvd.reason}".strip()
        elif error.rcvd is None and not record.aborted:
            record.closed = "1006"
    record.ended = True


def note_of(given: dict[str, Any]) -> list[Any]:
    """What is kept of a message; nothing of those that do not matter."""
    kind = given["type"].removeprefix(_ITEM)
    if kind == "delta":
        return ["delta", given["item_id"], given["delta"]]
    if kind == "speechmtp.tail":
        return ["tail", given["item_id"], given["text"]]
    if kind == "speechmtp.heard":
        return ["heard", given["audio_ms"], given["tokens"], given["calls"]]
    if kind == "input_audio_buffer.speech_started":
        return ["started", given["item_id"], given["audio_start_ms"]]
    if kind == "input_audio_buffer.committed":
        return ["committed", given["item_id"]]
    if kind == "completed":
        return ["completed", given["item_id"], given["transcript"]]
    if kind in ("failed", "error"):
        return [kind, given.get("item_id"), str(given["error"].get("message"))]
    return []


def read_audio(plan: Plan) -> dict[str, np.ndarray]:
    """The utterances as int16 samples [N]."""
    found = read_data_dir(plan.data, plan.root, need_text=False).utterances
    chosen = found[: plan.first or None]
    return {one.id: np.clip(np.rint(one.load(RATE) * 32768), -32768, 32767).astype("<i2") for one in chosen}


async def run_all(plan: Plan, audio: dict[str, np.ndarray], begin: float) -> list[Record]:
    """All streams of a plan."""
    found = await asyncio.gather(*(Stream(plan, audio, number, begin).run() for number in plan.numbers))
    return [record for records in found for record in records]


def main() -> int:
    """Run the plan on standard input."""
    plan = Plan(**json.loads(sys.stdin.readline()))
    audio = {} if plan.turns == "none" else read_audio(plan)
    print("ready", flush=True)
    records = asyncio.run(run_all(plan, audio, float(sys.stdin.readline())))
    Path(plan.out).write_text(json.dumps([asdict(one) for one in records]), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
