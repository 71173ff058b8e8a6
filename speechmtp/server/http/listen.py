"""`POST /v1/listen`: Deepgram's way of sending a file, as its body."""

import asyncio
import datetime
import struct
import uuid
from collections.abc import Iterable, Sequence
from contextlib import AsyncExitStack
from typing import Any

from speechmtp.audio.raw import is_wav
from speechmtp.server.http.form import Spool, spooled, too_large
from speechmtp.server.http.formats import Collected, timed
from speechmtp.server.http.messages import Reply, Request, json_reply, refusal_headers
from speechmtp.server.http.site import Site
from speechmtp.server.http.transcriptions import collected
from speechmtp.server.protocols.contract import Refused
from speechmtp.server.protocols.deepgram_query import Listening, plain, read_query, refuse
from speechmtp.server.uploads import Segment, Upload
from speechmtp.words.word import Word

# Encodings -> how a WAV header calls them, and bytes of a sample.
_WAV = {"linear16": (1, 2), "linear32": (3, 4), "alaw": (6, 1), "mulaw": (7, 1)}
_HEADER = struct.Struct("<4sI4s4sIHHIIHH4sI")
_SNIFFED = 12  # bytes by which a WAV file is known
_MOST = (1 << 32) - 1  # bytes that a WAV header can tell of


def dg_refusal(site: Site, refused: Refused) -> Reply:
    """A refusal as Deepgram's clients read it."""
    status, headers, body = refuse(refused, site.ids)
    named = [(name.lower(), value) for name, value in headers.items()]
    return Reply(status, [*named, *refusal_headers(refused)], body)


async def no_listen(site: Site, request: Request) -> Reply:
    """Refused: the second version is not spoken here."""
    raise Refused(404, "not_found", f"{request.path}: not served here, expected /v1/listen; use that")


async def listen(site: Site, request: Request) -> Reply:
    """Answer a file. Refused for what is no file, or is not possible."""
    asked = read_query(site.offer(request.path, request.query))
    utterances = _flag(request, "utterances")
    kind = request.header("content-type").partition(";")[0].strip().lower()
    if kind == "application/json":
        raise Refused(
            400, "unsupported_source", "a body of JSON, expected audio: no URL is fetched; send the file", "url"
        )
    async with AsyncExitStack() as stack:
        stack.enter_context(site.transcribing.slot())
        spool = await stack.enter_async_context(spooled(site.limits.upload))
        await _receive(site, request, spool, asked)
        settings = asked.settings
        upload = Upload(spool.path, settings.model, settings.language, words=True)
        found = await collected(site, site.transcribing.transcribe(upload))
        tags = request.query.get("tag", ())
        return await asyncio.to_thread(
            lambda: json_reply(_answer(site, asked, found, spool.digest, utterances, tags))
        )  # two hours of words take a while


async def _receive(site: Site, request: Request, spool: Spool, asked: Listening) -> None:
    """Put the body into the spool. Samples without a header get one."""
    if request.length is not None and request.length > site.limits.upload:
        raise too_large(site.limits.upload)
    first, raw = bytearray(), False

    async def begin() -> None:
        nonlocal raw
        raw = _is_raw(bytes(first), asked)
        if raw:
            await spool.reserve(_HEADER.size)
        await spool.write(first)

    async for data in request.body:
        if spool.size:
            await spool.write(data)
            continue
        first += data
        if len(first) >= _SNIFFED:
            await begin()
    if not spool.size:
        await begin()
    await spool.flush()
    if raw:
        await spool.put_first(wav_head(asked.encoding, round(asked.rate), spool.size))


def _is_raw(first: bytes, asked: Listening) -> bool:
    """Whether what begins so are samples alone: a WAV file tells more than the query."""
    return bool(first) and bool(asked.encoding) and not is_wav(first)


def wav_head(encoding: str, rate: int, size: int) -> bytes:
    """The header of a WAV file of one channel with `size` bytes of samples."""
    tag, width = _WAV[encoding]
    size = min(size, _MOST - _HEADER.size)
    return _HEADER.pack(
        b"RIFF", size + _HEADER.size - 8, b"WAVE", b"fmt ", 16, tag, 1, rate, rate * width, width, 8 * width, b"data",
        size // width * width,
    )  # fmt: skip


def _flag(request: Request, name: str) -> bool:
    value = request.query.get(name, ["false"])[0].lower()
    if value not in ("true", "false", ""):
        raise Refused(400, "invalid_query_parameter", f"{name}: {value[:32]!r}, expected true or false", name)
    return value == "true"


# The answer


def _answer(
    site: Site, asked: Listening, found: Collected, digest: str, utterances: bool, tags: Sequence[str]
) -> dict[str, Any]:
    """The whole answer."""
    model = str(uuid.uuid5(uuid.NAMESPACE_URL, f"speechmtp:{asked.settings.model}"))
    metadata: dict[str, Any] = {
        "transaction_key": "deprecated",
        "request_id": site.ids(""),
        "sha256": digest,
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "duration": round(found.seconds, 3),
        "channels": 1,
        "models": [model],
        "model_info": {model: {"name": asked.name, "version": "live", "arch": "speechmtp"}},
    }
    if tags:
        metadata["tags"] = list(tags)
    words = [one for segment in found.segments for one in _words(segment, asked)]
    alternative: dict[str, Any] = {
        "transcript": _text(found.text, asked),
        "confidence": _confidence(found.words),
        "words": words,
    }
    results: dict[str, Any] = {"channels": [{"alternatives": [alternative]}]}
    if utterances:
        results["utterances"] = [_utterance(site, one, asked) for one in found.segments if one.text.strip()]
    return {"metadata": metadata, "results": results}


def _text(text: str, asked: Listening) -> str:
    return text if asked.formatted else plain(text)


def _confidence(words: Iterable[Word]) -> float:
    known = [word.confidence for word in words if word.confidence is not None]
    return round(sum(known) / len(known), 4) if known else 0.0


def _words(segment: Segment, asked: Listening) -> list[dict[str, Any]]:
    """The words of a segment; none of punctuation alone."""
    found = []
    for word, start, end in timed(segment):
        bare = plain(word.text)
        if bare:
            one = {"word": bare, "start": start, "end": end, "confidence": round(word.confidence or 0.0, 4)}
            found.append({**one, "punctuated_word": word.text} if asked.formatted else one)
    return found


def _utterance(site: Site, segment: Segment, asked: Listening) -> dict[str, Any]:
    """A segment, from its first word to its last."""
    words = _words(segment, asked)
    return {
        "id": site.ids(""),
        "start": words[0]["start"] if words else round(segment.start, 3),
        "end": words[-1]["end"] if words else round(segment.end, 3),
        "confidence": _confidence(segment.words),
        "channel": 0,
        "transcript": _text(segment.text, asked),
        "words": words,
    }
