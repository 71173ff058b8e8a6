"""Settings of live recognition."""

from dataclasses import dataclass, field
from typing import Annotated

from speechmtp.audio.endpoint import ActivityConfig
from speechmtp.config import Range, Share, check_fields
from speechmtp.errors import ConfigError

Seconds = Annotated[float, Range(0, 60, above=True)]


@dataclass(frozen=True)
class StreamConfig:
    """When a stream decodes, commits and ends a segment. Times are in seconds.

    A segment begins with speech and is decoded again every `step`, with the words committed so far as a prefix. A word
    is committed when `passes` passes in a row had it, `patience` more if its confidence is below `sure`.

    A segment ends with the speech (`activity`), or in a pause once it is longer than `shortest`: the pause must be
    `pause` long there, and any pause will do at `longest`, where it ends in any case.

    A segment is dropped, or its first words wait for its end, where the mean probability of speech in it is below
    `activity_floor` and the mean confidence of its words below `confidence_floor`. `words` finds the times of words.
    `keep` keeps the segments for `result`, which grows with them. `strategy` decodes (empty:
    `previous-heads:depth=3`, or `previous` without heads).
    """

    step: Seconds = 0.5
    passes: Annotated[int, Range(1, 10)] = 2
    sure: Share = 0.4
    patience: Annotated[int, Range(0, 1000)] = 2
    shortest: Seconds = 15.0
    longest: Seconds = 25.0
    pause: Seconds = 0.4
    activity_floor: Share = 0.4
    confidence_floor: Share = 0.5
    words: bool = True
    keep: bool = True
    strategy: str = ""
    activity: ActivityConfig = field(default_factory=ActivityConfig)

    def __post_init__(self) -> None:
        """Raise ConfigError for a value out of range."""
        check_fields(self, "stream")
        if self.shortest >= self.longest:
            raise ConfigError(f"stream: shortest={self.shortest:g}, expected less than longest={self.longest:g}")

    def needed_pause(self, length: float) -> float:
        """Seconds of pause that end a segment of `length` seconds: `pause` at `shortest`, ever less up to `longest`."""
        return self.pause * (self.longest - length) / (self.longest - self.shortest)


@dataclass(frozen=True)
class EngineConfig:
    """Sizes of an engine of sessions: `slots` of them at most, `together` passes decoded in one batch, and the step in
    seconds where it is crowded, until for `calm` seconds no pass was late. The last pass of a segment should be done
    `prompt` seconds after it is due. A session with more than `behind` seconds of audio that were not looked at is
    decoded a whole segment at a time, which may take that long."""

    slots: Annotated[int, Range(1, 1 << 12)] = 16
    together: Annotated[int, Range(1, 64)] = 4
    crowded_step: Seconds = 1.0
    calm: Seconds = 5.0
    prompt: Seconds = 0.1
    behind: Seconds = 5.0

    def __post_init__(self) -> None:
        """Raise ConfigError for a value out of range."""
        check_fields(self, "engine")
