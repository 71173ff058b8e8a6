"""What a Deepgram client asks for in the query of its request, and how text is written without punctuation."""

import re
import unicodedata
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from speechmtp.server.messages import Settings
from speechmtp.server.protocols.contract import Offer, Refused
from speechmtp.server.protocols.encodings import ENCODINGS, checked_rate
from speechmtp.server.protocols.json_guard import write_object
from speechmtp.server.protocols.rules import known_language, known_model

# What changes the text or sends it elsewhere, which is not done here: refused where it is asked for.
MISSING = ("diarize", "redact", "replace", "search", "callback", "multichannel")
LEAST_SILENCE, MOST_SILENCE = 200, 60_000  # ms of silence that end speech; clients ask for 10 and 25


@dataclass(frozen=True)
class Listening:
    """What a client asked for.

    `encoding` is empty where the audio brings a header. `endpoints` says whether silence ends an utterance, and
    `utterance_end` after how many seconds behind the last word that is said once more (None: never). `formatted` text
    has punctuation and capitals. `name` is the model as the client calls it.
    """

    settings: Settings
    name: str
    encoding: str = ""
    rate: float = 16000.0
    interim: bool = False
    formatted: bool = False
    endpoints: bool = True
    utterance_end: float | None = None
    speech_events: bool = False


def read_query(offer: Offer) -> Listening:
    """What the query of a request asks for; Refused with the parameter that is wrong."""
    given = {name: values[0] for name, values in offer.query.items() if values}
    for name in MISSING:
        if given.get(name, "false").lower() not in ("false", ""):
            raise _wrong(name, given[name], "false: this server does not do it")
    if given.get("channels", "1") != "1":
        raise _wrong("channels", given["channels"], "1; mix them before")
    encoding, rate = _format(given)
    model, language = given.get("model", ""), given.get("language", "")
    name = known_model(model, offer)
    code = "" if language == "multi" else known_language(language, name, offer)
    endpoints, silence = _endpointing(given.get("endpointing", "true"))
    end = _whole("utterance_end_ms", given["utterance_end_ms"]) if "utterance_end_ms" in given else None
    return Listening(
        Settings(name, code, silence=silence, words=True),
        model or name,
        encoding,
        rate,
        _flag(given, "interim_results"),
        _flag(given, "punctuate") or _flag(given, "smart_format"),
        endpoints,
        end / 1000 if end else None,
        _flag(given, "vad_events"),
    )


def refuse(refused: Refused, ids: Callable[[str], str]) -> tuple[int, Mapping[str, str], bytes]:
    """A refusal as Deepgram writes it."""
    name = ids("")
    body = {"err_code": refused.code.upper(), "err_msg": refused.message, "request_id": name}
    shown = " ".join(refused.message.encode("ascii", "replace").decode().split())
    headers = {"Content-Type": "application/json", "dg-error": shown, "dg-request-id": name}
    return refused.status, headers, write_object(body).encode()


def plain(text: str) -> str:
    """Text in small letters and without punctuation, but for that between two letters or digits."""
    kept = []
    for word in text.lower().split():
        first = next((i for i, letter in enumerate(word) if not _is_mark(letter)), len(word))
        last = next((i for i in range(len(word), first, -1) if not _is_mark(word[i - 1])), first)
        kept.append(re.sub("[。，！？；：、]", "", word[first:last]))
    return " ".join(word for word in kept if word)


def _is_mark(letter: str) -> bool:
    return unicodedata.category(letter)[0] == "P"


def _wrong(name: str, value: str, expected: str) -> Refused:
    return Refused(400, "invalid_query_parameter", f"{name}: {value[:64]!r}, expected {expected}", name)


def _flag(given: Mapping[str, str], name: str) -> bool:
    value = given.get(name, "false").lower()
    if value not in ("true", "false", ""):
        raise _wrong(name, given[name], "true or false")
    return value == "true"


def _whole(name: str, value: str) -> int:
    if not re.fullmatch(r"[0-9]{1,9}", value, re.ASCII):
        raise _wrong(name, value, "whole milliseconds")
    return int(value)


def _format(given: Mapping[str, str]) -> tuple[str, float]:
    """Encoding and rate of the audio."""
    encoding = given.get("encoding", "")
    if not encoding:
        return "", 16000.0
    if encoding not in ENCODINGS:
        raise _wrong("encoding", encoding, f"one of {', '.join(ENCODINGS)}, or none for WAV")
    default = "8000" if encoding in ("mulaw", "alaw") else ""
    text = given.get("sample_rate", default)
    rate = checked_rate(int(text)) if re.fullmatch(r"[0-9]{1,9}", text, re.ASCII) else None
    if rate is None:
        raise _wrong("sample_rate", text, "the rate of the audio in Hz, such as 16000")
    return encoding, rate


def _endpointing(value: str) -> tuple[bool, float | None]:
    """Whether silence ends an utterance, and how many seconds of it; None: as many as usual."""
    if value.lower() in ("true", "false"):
        return value.lower() == "true", None
    return True, min(MOST_SILENCE, max(LEAST_SILENCE, _whole("endpointing", value))) / 1000
