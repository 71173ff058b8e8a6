"""`POST /v1/audio/transcriptions`: a form with a file in, its transcript out, at once or as it arises."""

import asyncio
import math
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import AsyncExitStack, aclosing
from dataclasses import dataclass
from typing import Any, TypeVar

from speechmtp.server.http.form import read_form, spooled
from speechmtp.server.http.formats import FORMATS, Collected, as_json, as_subtitles, as_verbose, logprobs_of
from speechmtp.server.http.messages import Owned, Reply, Request, error_of, json_reply, written
from speechmtp.server.http.site import Site
from speechmtp.server.protocols.contract import Refused
from speechmtp.server.uploads import Part, Upload

T = TypeVar("T")

ALIVE = 15.0  # seconds after which a stream says that it is alive
GRANULARITIES = ("word", "segment")
_PROMPT = "text/plain; charset=utf-8"
_KINDS = {"text": _PROMPT, "srt": "application/x-subrip; charset=utf-8", "vtt": "text/vtt; charset=utf-8"}
_TRUE, _FALSE = ("true", "1"), ("false", "0", "")


@dataclass(frozen=True)
class Asked:
    """What a form asks for. `language` is what the model is told (empty where it has no choice), `named` what is
    answered."""

    model: str
    language: str
    named: str
    format: str
    stream: bool
    logprobs: bool
    granularities: Sequence[str]

    def upload(self, path: str) -> Upload:
        """The file and what is to be found in it."""
        verbose = self.format == "verbose_json"
        words = verbose or self.format in ("srt", "vtt")
        return Upload(path, self.model, self.language, words, self.logprobs, verbose)


async def transcriptions(site: Site, request: Request) -> Reply:
    """Answer a form. Refused for what is no file, or is not possible."""
    async with AsyncExitStack() as stack:
        stack.enter_context(site.transcribing.slot())
        spool = await stack.enter_async_context(spooled(site.limits.upload))
        asked = read_asked(site, await read_form(request, spool, site.limits))
        parts = site.transcribing.transcribe(asked.upload(spool.path))
        if asked.stream:
            items = await stack.enter_async_context(aclosing(with_signs(parts, ALIVE)))
            # What cannot be read is refused before the stream begins.
            first = await anext(items, None)
            return Reply(200, _STREAM, Owned(_events(site, asked, first, items), stack.pop_all()))
        found = await collected(site, parts)
    return await asyncio.to_thread(_whole, asked, found)  # two hours of words take a while


async def collected(site: Site, parts: AsyncGenerator[Part, None]) -> Collected:
    """All parts."""
    found = Collected()
    async with aclosing(parts):
        async for part in parts:
            found.add(part)
    site.metrics.count("upload_audio_seconds_total", found.seconds)
    return found


def _whole(asked: Asked, found: Collected) -> Reply:
    """The whole transcript."""
    if asked.format == "json":
        return json_reply(as_json(found, asked.logprobs))
    if asked.format == "verbose_json":
        return json_reply(as_verbose(found, asked.granularities, asked.named))
    text = f"{found.text}\n" if asked.format == "text" else as_subtitles(found, asked.format)
    return Reply(200, [("content-type", _KINDS[asked.format])], text.encode("utf-8", "replace"))


_STREAM = [("content-type", "text/event-stream; charset=utf-8"), ("cache-control", "no-store")]


async def _events(
    site: Site, asked: Asked, first: Part | None, items: AsyncGenerator[Part | None, None]
) -> AsyncGenerator[bytes, None]:
    """The transcript as it arises: server-sent events. `first` is the first of the items."""
    found = Collected()
    try:
        if first is not None:
            yield _delta(asked, found, first)
        async for part in items:
            yield _delta(asked, found, part) if part is not None else b": still there\n\n"
    except Refused as refused:
        yield _event(error_of(refused))
        return
    site.metrics.count("upload_audio_seconds_total", found.seconds)
    done: dict[str, Any] = {"type": "transcript.text.done", "text": found.text}
    if asked.logprobs:
        done["logprobs"] = logprobs_of(found.logprobs)
    yield _event(done)
    yield b"data: [DONE]\n\n"


def _delta(asked: Asked, found: Collected, part: Part) -> bytes:
    """The event of a part, which is added to those before it; a part without text is a comment."""
    before = len(found.logprobs)
    more = found.add(part)
    if not more:
        return b": nothing was said\n\n"
    delta: dict[str, Any] = {"type": "transcript.text.delta", "delta": more}
    if asked.logprobs:
        delta["logprobs"] = logprobs_of(found.logprobs[before:])
    return _event(delta)


def _event(value: Any) -> bytes:
    return b"data: " + written(value) + b"\n\n"


async def with_signs(items: AsyncGenerator[T, None], seconds: float) -> AsyncGenerator[T | None, None]:
    """The items, and None whenever the next one takes longer than that."""
    coming: asyncio.Future[T] = asyncio.ensure_future(anext(items))
    try:
        while True:
            done, _ = await asyncio.wait([coming], timeout=seconds)
            if not done:
                yield None
                continue
            try:
                item = coming.result()
            except StopAsyncIteration:
                return
            yield item
            coming = asyncio.ensure_future(anext(items))
    finally:
        if not coming.done():
            coming.cancel()
            await asyncio.wait([coming])


# What is asked


def read_asked(site: Site, fields: Mapping[str, Sequence[str]]) -> Asked:
    """The fields of a form. Refused for values that are none; names that are not known are passed over."""
    given = {name: values[-1].strip() for name, values in fields.items() if values}
    form = given.get("response_format") or "json"
    if form == "diarized_json":
        raise Refused(400, "unsupported_format", "response_format: diarized_json, but speakers are not told apart; "
                      f"expected one of {', '.join(FORMATS)}", "response_format")  # fmt: skip
    if form not in FORMATS:
        raise _wrong("response_format", form, FORMATS)
    stream = _flag("stream", given.get("stream", ""))
    if stream and form not in ("json", "text"):
        raise Refused(400, "unsupported_format", f"stream: not with response_format {form}, whose text has to be "
                      "whole; leave one of them out", "stream")  # fmt: skip
    granularities = _several(fields, "timestamp_granularities", GRANULARITIES) or ["segment"]
    include = _several(fields, "include", ("logprobs",))
    _number("temperature", given.get("temperature", ""))
    model = site.model(given.get("model", ""))
    language = site.language(given.get("language", ""), model)
    named = language or given.get("language", "") or site.own_language(model)
    return Asked(model, language, named, form, stream, "logprobs" in include, granularities)


def _several(fields: Mapping[str, Sequence[str]], name: str, known: Sequence[str]) -> list[str]:
    found = [value.strip() for value in fields.get(name, ()) if value.strip()]
    for value in found:
        if value not in known:
            raise _wrong(name, value, known)
    return found


def _flag(name: str, text: str) -> bool:
    if text.lower() not in (*_TRUE, *_FALSE):
        raise _wrong(name, text, ("true", "false"))
    return text.lower() in _TRUE


def _number(name: str, text: str) -> None:
    try:
        good = not text or (0 <= float(text) <= 1 and math.isfinite(float(text)))
    except ValueError:
        good = False
    if not good:
        raise Refused(400, "invalid_value", f"{name}: {text[:32]!r}, expected a number from 0 to 1", name)


def _wrong(name: str, value: str, known: Sequence[str]) -> Refused:
    return Refused(400, "invalid_value", f"{name}: {value[:32]!r}, expected {' or '.join(known)}", name)
