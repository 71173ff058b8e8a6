"""What a stream of recognition says: events, in the order in which they become true.

All times are seconds of audio since the stream began. `time` is how much audio had been heard when the event arose,
without the time that it took to compute.
"""

from dataclasses import dataclass
from typing import Literal

from speechmtp.words.word import Word

# Why a segment ended: silence after speech, a pause before the window was full, a full window, `flush`, or `finish`.
Reason = Literal["endpoint", "pause", "full", "flush", "finish"]


@dataclass(frozen=True)
class SpeechStarted:
    """Speech began at `start`."""

    start: float
    time: float


@dataclass(frozen=True)
class SpeechStopped:
    """Speech ended at `end`."""

    end: float
    time: float


@dataclass(frozen=True)
class Committed:
    """Words that stay as they are. `text` is what they add to the transcript, the space before them included, and
    punctuation of the word before; all these texts joined are the transcript. Punctuation that was committed behind a
    word is in the words of its Final."""

    text: str
    words: tuple[Word, ...]
    time: float


@dataclass(frozen=True)
class Tail:
    """The words behind the committed ones that may still change; each replaces the one before. `text` begins with a
    space if one is between."""

    text: str
    time: float


@dataclass(frozen=True)
class Final:
    """A segment from `start` to `end` ended: the `text` of all its words, which are committed, and why. `flush` is the
    number of the flush that it answers; text and words may be empty then. `dropped` says that the words of the segment
    were doubted and left out."""

    text: str
    words: tuple[Word, ...]
    start: float
    end: float
    reason: Reason
    time: float
    flush: int | None = None
    dropped: bool = False


@dataclass(frozen=True)
class Ended:
    """The answer to `finish`: nothing follows."""

    time: float


@dataclass(frozen=True)
class Failed:
    """An engine ended the session, since `error` was raised in a pass of it: nothing follows."""

    error: Exception
    time: float


StreamEvent = SpeechStarted | SpeechStopped | Committed | Tail | Final | Ended | Failed
