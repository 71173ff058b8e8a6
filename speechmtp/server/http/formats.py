"""A transcript in the formats of `POST /v1/audio/transcriptions`."""

import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from speechmtp.server.uploads import Part, Segment, TokenLogprob
from speechmtp.words.subtitles import cues, srt, vtt
from speechmtp.words.word import Word

FORMATS = ("json", "text", "srt", "vtt", "verbose_json")
_FRAME = 0.01  # seconds that Whisper counts in `seek`


@dataclass
class Collected:
    """The parts of a recording so far."""

    text: str = ""
    seconds: float = 0.0
    language: str | None = None
    segments: list[Segment] = field(default_factory=list)
    logprobs: list[TokenLogprob] = field(default_factory=list)

    def add(self, part: Part) -> str:
        """Add a part; what it adds to the text."""
        text = part.text.strip()
        more = f" {text}" if self.text and text else text
        self.text += more
        self.seconds = part.end
        self.language = self.language or part.language
        self.segments += part.segments
        added = list(part.logprobs)
        if added and more.startswith(" "):
            added[0] = TokenLogprob(f" {added[0].token.lstrip()}", added[0].logprob)
        self.logprobs += added
        return more

    @property
    def words(self) -> list[Word]:
        """All words."""
        return [word for segment in self.segments for word in segment.words]


def usage(seconds: float) -> dict[str, Any]:
    """What OpenAI calls usage."""
    return {"type": "duration", "seconds": round(seconds, 3)}


def logprobs_of(listed: Iterable[TokenLogprob]) -> list[dict[str, Any]]:
    """Tokens with their log probabilities, as OpenAI has them."""
    return [{"token": one.token, "logprob": one.logprob, "bytes": list(one.token.encode())} for one in listed]


def as_json(found: Collected, with_logprobs: bool) -> dict[str, Any]:
    """`json`."""
    answer: dict[str, Any] = {"text": found.text}
    if with_logprobs:
        answer["logprobs"] = logprobs_of(found.logprobs)
    return answer | {"usage": usage(found.seconds)}


def as_verbose(found: Collected, granularities: Sequence[str], language: str) -> dict[str, Any]:
    """`verbose_json`, with words, segments or both."""
    answer: dict[str, Any] = {
        "task": "transcribe",
        "language": found.language or language,
        "duration": round(found.seconds, 3),
        "text": found.text,
    }
    if "segment" in granularities:
        answer["segments"] = [_segment(number, one) for number, one in enumerate(found.segments)]
    if "word" in granularities:
        answer["words"] = [
            {"word": word.text, "start": start, "end": end}
            for segment in found.segments
            for word, start, end in timed(segment)
        ]
    return answer | {"usage": usage(found.seconds)}


def as_subtitles(found: Collected, kind: str) -> str:
    """`srt` or `vtt`."""
    shown = cues(found.segments)
    return srt(shown) if kind == "srt" else vtt(shown)


def timed(segment: Segment) -> Iterable[tuple[Word, float, float]]:
    """The words of a segment with their times; those of the segment where a word has none."""
    for word in segment.words:
        known = word.start is not None and word.end is not None
        start, end = (word.start, word.end) if known else (segment.start, segment.end)
        yield word, round(float(start or 0.0), 3), round(float(end or 0.0), 3)


def _segment(number: int, one: Segment) -> dict[str, Any]:
    """A segment with all fields that OpenAI's has."""
    text = one.text.encode()
    return {
        "id": number,
        "seek": round(one.begin / _FRAME),
        "start": round(one.start, 3),
        "end": round(one.end, 3),
        "text": one.text,
        "tokens": list(one.tokens),
        "temperature": 0.0,
        "avg_logprob": 0.0 if one.mean_logprob is None else one.mean_logprob,
        "compression_ratio": len(text) / len(zlib.compress(text)) if text else 0.0,
        "no_speech_prob": 1.0 - (one.speech or 0.0),
    }
