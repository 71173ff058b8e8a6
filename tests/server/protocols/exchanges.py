"""Exchanges of a protocol as text that a person can read: what comes to an adapter, and below it what it does.

A line without indent is a step: `open PATH?QUERY`, `append N` (an event of OpenAI with N zero bytes), `binary N` or
`binary hex HH..`, `client JSON`, `say TYPE JSON` (an event of the recogniser; words are lists of text, start, end and
confidence), `wait SECONDS`, `timer`, `end REASON TEXT`. Indented lines are actions. Run this file to write the actions
of all files anew; read every change before it is committed.
"""

import base64
import itertools
import json
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from speechmtp.server import messages
from speechmtp.server.messages import Action, Audio, Close, Configure, CoreEvent, Flush, Send
from speechmtp.server.protocols.contract import Adapter, Offer, Refused, SocketProtocol
from speechmtp.server.protocols.table import PROTOCOLS
from speechmtp.words.word import Word

GOLDEN = Path(__file__).parent / "golden"
LANGUAGES = {"default": (), "many": ("de", "en", "fr")}


def offer_of(target: str, strict: bool = False) -> tuple[SocketProtocol, Offer]:
    """The protocol and the request of a path with a query; ids are numbered, and the models are `default`, which knows
    one language, and `many`."""
    parts = urlsplit(target)
    protocol = next(one for one in PROTOCOLS.values() if parts.path in one.paths)
    numbers = itertools.count(1)
    query = parse_qs(parts.query, keep_blank_values=True)
    names = list(LANGUAGES)
    return protocol, Offer(
        parts.path, query, lambda prefix: f"{prefix}{next(numbers)}", names, LANGUAGES, strict=strict
    )


def opened(target: str) -> Adapter:
    """The adapter of a request."""
    protocol, offer = offer_of(target)
    return protocol.open(offer)


def core_event(kind: str, fields: dict[str, Any]) -> CoreEvent:
    """An event of the recogniser."""
    if "words" in fields:
        fields = {**fields, "words": tuple(Word(*word) for word in fields["words"])}
    event: CoreEvent = getattr(messages, kind)(**fields)
    return event


def shown(action: Action) -> str:
    """An action as a line."""
    if isinstance(action, Send):
        text = action.message if isinstance(action.message, str) else repr(action.message)
        return f"{'droppable' if action.droppable else 'send'} {re.sub(r'event_[0-9]+', 'event_N', text)}"
    if isinstance(action, Close):
        return f"close {action.code} {action.reason}".rstrip()
    if isinstance(action, Audio):
        return f"audio {len(action.samples)} at {action.rate:g} Hz"
    if isinstance(action, Configure):
        given = {name: value for name, value in vars(action.settings).items() if value not in ("", None, False)}
        return f"configure {json.dumps(given)}"
    return f"flush {action.number}" if isinstance(action, Flush) else type(action).__name__.lower()


def replayed(steps: Sequence[str]) -> Iterator[str]:
    """The steps, each with its actions below it."""
    adapter: Adapter | None = None
    now = 0.0
    for step in steps:
        yield step
        name, _, rest = step.partition(" ")
        if name == "open":
            protocol, offer = offer_of(rest)
            try:
                adapter = protocol.open(offer)
                yield from _lines(adapter.start(now))
            except Refused as refused:
                status, headers, body = protocol.refuse(refused, offer.ids)
                yield f"    refuse {status} {json.dumps(dict(headers))} {body.decode().strip()}"
        elif name == "wait":
            now = round(now + float(rest), 6)
        elif name and not name.startswith("#"):
            assert adapter is not None, step
            yield from _lines(_done(adapter, name, rest, now))


def _done(adapter: Adapter, name: str, rest: str, now: float) -> Sequence[Action]:
    first, _, more = rest.partition(" ")
    if name == "say":
        return adapter.on_core(core_event(first, json.loads(more)), now)
    if name == "timer":
        assert adapter.wake is not None and adapter.wake <= now, f"wake is {adapter.wake}, not {now}"
        return adapter.on_timer(now)
    if name == "end":
        return adapter.on_end(first, more, now)  # type: ignore[arg-type]
    if name == "append":
        audio = base64.b64encode(bytes(int(rest))).decode()
        return adapter.on_client(json.dumps({"type": "input_audio_buffer.append", "audio": audio}), now)
    if name == "binary":
        return adapter.on_client(bytes.fromhex(more) if first == "hex" else bytes(int(rest)), now)
    assert name == "client", name
    return adapter.on_client(rest, now)


def _lines(actions: Sequence[Action]) -> Iterator[str]:
    return (f"    {shown(action)}" for action in actions)


def steps_of(text: str) -> list[str]:
    """The steps of a file, without their actions."""
    return [line for line in text.splitlines() if not line.startswith("    ")]


if __name__ == "__main__":
    for path in map(Path, sys.argv[1:]) if sys.argv[1:] else sorted(GOLDEN.glob("*.txt")):
        path.write_text("\n".join(replayed(steps_of(path.read_text()))) + "\n")
