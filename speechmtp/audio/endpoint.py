"""Where speech starts and stops, by the probabilities that frames are speech; no network inside.

Frame i covers samples [512 i, 512 (i + 1)) at 16 kHz, as in `audio/activity.py`.
"""

import math
from dataclasses import dataclass
from typing import Annotated, Literal

from speechmtp.audio.activity import FRAMES_PER_SECOND
from speechmtp.config import Range, Share, check_fields

LOWEST = 0.01  # of thresholds: silence stays below it
Milliseconds = Annotated[int, Range(0, 60_000)]


@dataclass(frozen=True)
class ActivityConfig:
    """When speech starts and stops. Times are rounded up to whole frames of 32 ms.

    A frame is speech from `threshold` on, and behind another one that is speech already from `threshold` -
    `hysteresis` on. Speech starts with `min_speech_ms` of such frames and stops with `min_silence_ms` of others;
    `speech_pad_ms` before and behind belong to it.
    """

    threshold: Share = 0.5
    hysteresis: Share = 0.15
    min_speech_ms: Milliseconds = 96
    min_silence_ms: Milliseconds = 700
    speech_pad_ms: Milliseconds = 1000

    def __post_init__(self) -> None:
        """Raise ConfigError for a value that is not allowed."""
        check_fields(self, "activity")


@dataclass(frozen=True)
class Change:
    """Speech starts with frame `frame`, or stops before it; padding is included."""

    kind: Literal["started", "stopped"]
    frame: int


class ActivityDetector:
    """Follows one recording: `push` the probability of each frame in turn.

    `frames` counts what was pushed, `speaking` says whether speech is going on, `run` is the number of frames of speech
    without a break up to now, `pause` that of frames since the last one of speech, and `last_speech` that frame while
    or after someone speaks; None before.
    """

    def __init__(self, config: ActivityConfig | None = None) -> None:
        self.config = config = config or ActivityConfig()
        self._lower = max(config.threshold - config.hysteresis, LOWEST)
        self._min_speech = max(1, frames_of(config.min_speech_ms))
        self._min_silence = max(1, frames_of(config.min_silence_ms))
        self._pad = frames_of(config.speech_pad_ms)
        self.frames = 0
        self.speaking = False
        self.pause = 0
        self.last_speech: int | None = None
        self.run = 0  # frames of speech up to now, without a break
        self._stopped = 0  # where the speech before ended

    def push(self, probability: float) -> Change | None:
        """Take the next frame's probability; return what has changed by it, which may have begun earlier."""
        voiced = probability >= (self._lower if self.run else self.config.threshold)
        self.frames += 1
        self.run, self.pause = (self.run + 1, 0) if voiced else (0, self.pause + 1)
        if voiced and (self.speaking or self.run >= self._min_speech):
            self.last_speech = self.frames - 1
            if not self.speaking:
                self.speaking = True
                return Change("started", self.candidate)
        elif self.speaking and self.pause >= self._min_silence:
            return self._stop()
        return None

    @property
    def candidate(self) -> int:
        """The frame with which speech would start that has begun with the run of speech up to now, if there is one;
        padding is included."""
        return max(self._stopped, self.frames - self.run - self._pad)

    def go_on(self, pause: int) -> None:
        """Start within speech, `pause` frames behind its last one, or that many before its first one if below 0."""
        self.speaking, self.pause = True, pause

    def finish(self) -> Change | None:
        """The end of the recording, which ends speech."""
        return self._stop() if self.speaking else None

    def _stop(self) -> Change:
        self.speaking = False
        self._stopped = min(self.frames, (self.last_speech or 0) + 1 + self._pad)
        return Change("stopped", self._stopped)


def frames_of(milliseconds: float) -> int:
    """The frames of 32 ms that so many milliseconds need."""
    return math.ceil(milliseconds * FRAMES_PER_SECOND / 1000)
