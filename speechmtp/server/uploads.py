"""What the front and the process of uploads tell each other, in frames of `link.py`; the sessions are uploads.

To the transcriber: OPEN (Upload), CLOSE, STOP. From it: EVENTS, either {"part": Part}, {"done": true}, or {"failed":
Failure}; BEAT (Pulse); FATAL.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from speechmtp.words.word import Word


@dataclass(frozen=True)
class Upload:
    """A file to transcribe: its path, the name of the model, and a language where the model has a choice. `words` asks
    for timed words and for segments that end with sentences, `logprobs` for those of every token, `activity` for how
    likely speech was in every segment."""

    path: str
    model: str
    language: str = ""
    words: bool = False
    logprobs: bool = False
    activity: bool = False


@dataclass(frozen=True)
class Segment:
    """A piece of a transcript, in seconds from the beginning of the recording; `words` are timed so too. `tokens` are
    without the end token, `mean_logprob` is theirs with it. `speech` is the mean probability of speech. `begin` is
    where the part began that was decoded at once. None: not asked for, or not known."""

    start: float
    end: float
    text: str
    words: tuple[Word, ...] = ()
    tokens: tuple[int, ...] = ()
    mean_logprob: float | None = None
    speech: float | None = None
    begin: float = 0.0


@dataclass(frozen=True)
class TokenLogprob:
    """A token's text and log probability; the texts of a part's tokens joined are its text."""

    token: str
    logprob: float


@dataclass(frozen=True)
class Part:
    """A part of a recording that was decoded: its text, and where it ends in seconds."""

    text: str
    end: float
    segments: tuple[Segment, ...]
    logprobs: tuple[TokenLogprob, ...] = ()
    language: str | None = None


@dataclass(frozen=True)
class Failure:
    """Why an upload has no transcript; `user` says that the file is to blame, or what was asked for."""

    message: str
    user: bool


@dataclass(frozen=True)
class Pulse:
    """How the transcriber does: open uploads, and for how many seconds it has been about the same part."""

    uploads: int = 0
    stuck: float = 0.0


def write_part(part: Part) -> dict[str, Any]:
    """As JSON."""
    return asdict(part)


def read_part(data: Mapping[str, Any]) -> Part:
    """From JSON."""
    segments = tuple(
        Segment(**{**one, "words": tuple(Word(**word) for word in one["words"]), "tokens": tuple(one["tokens"])})
        for one in data["segments"]
    )
    logprobs = tuple(TokenLogprob(**one) for one in data["logprobs"])
    return Part(data["text"], data["end"], segments, logprobs, data["language"])
