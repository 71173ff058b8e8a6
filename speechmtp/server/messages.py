"""What a session's protocol and its recogniser tell each other. All times are seconds of the session's audio.

The times are those of the audio that was sent, from its first sample on, cleared and silent audio included.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from speechmtp.streaming.events import Committed, Ended, Final, SpeechStarted, SpeechStopped, Tail


@dataclass(frozen=True)
class Settings:
    """How a session is recognised. A new one holds for the audio behind it.

    `model` is a name that the server knows (empty: the first). `language` is an ISO 639-1 code (empty: the model's
    own). Speech starts where its probability is above `threshold`, and ends after `silence` seconds without it; a
    segment has `padding` seconds of audio before its speech. None: the recogniser's own. `words` asks for times of
    words.
    """

    model: str = ""
    language: str = ""
    threshold: float | None = None
    silence: float | None = None
    padding: float | None = None
    words: bool = False


# From a protocol to its recogniser


@dataclass(frozen=True)
class Configure:
    """Recognise what follows so. The session starts with the first one, or with the first audio."""

    settings: Settings


@dataclass(frozen=True)
class Audio:
    """Samples int16 [n] at `rate` Hz."""

    samples: np.ndarray = field(repr=False)
    rate: float


@dataclass(frozen=True)
class Flush:
    """End the segment here, and answer with a Final that has this `number`: 1, 2, ... of a session."""

    number: int


@dataclass(frozen=True)
class Clear:
    """Forget what was said and heard since the last flush or the last end of a segment. It waits for flushes before it,
    and nothing of the forgotten audio is said after Cleared."""


@dataclass(frozen=True)
class End:
    """Nothing follows: say the rest, then Ended."""


Command = Configure | Audio | Flush | Clear | End


# From a recogniser to its protocol


# What a stream says (`streaming/events.py`), on the session's clock: Committed texts joined are the transcript, but for
# what is cleared, and the flush of a Final is the number of its Flush.


@dataclass(frozen=True)
class Heard:
    """All audio up to `time` was listened to, and what arose was said. `tokens` and `calls` count what the decoder has
    emitted, and its calls, since the session began."""

    time: float
    tokens: int = 0
    calls: int = 0


@dataclass(frozen=True)
class Cleared:
    """The answer to Clear; what is heard next begins at `time`."""

    time: float


@dataclass(frozen=True)
class Failed:
    """The recogniser gave the session up; nothing follows. `code` is `engine_lost`, `poisoned` (it broke an engine
    twice), `overloaded`, or `failed` (an error in its own decoding)."""

    code: str
    message: str


CoreEvent = SpeechStarted | SpeechStopped | Committed | Tail | Final | Heard | Cleared | Failed | Ended


# From a protocol to its client


@dataclass(frozen=True)
class Send:
    """A message: text or binary."""

    message: str | bytes
    droppable: str = ""  # its kind, if a later one of that kind replaces it where the client reads too slowly


@dataclass(frozen=True)
class Close:
    """Close the connection. The reason has at most 123 bytes."""

    code: int
    reason: str = ""


Action = Command | Send | Close
Actions = Sequence[Action]
