"""Who is let in: as many sessions as the engines can carry with grown steps, and none while they fall behind."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from speechmtp.server.link import Load, Readiness

LEAST_SHARE = 0.5  # of its time that a session is taken to speak, however silent it was
LATE = 1.5  # seconds that a pass waits where no more sessions are let in
SMOOTHING = 30.0  # seconds of audio over which the share of speech is averaged


@dataclass
class SpeechShare:
    """The part of a session's audio that is speech, the last half minute counting most; 1 at the beginning."""

    value: float = 1.0
    _at: float = 0.0
    _since: float | None = None

    def move(self, time: float, speaking: bool) -> None:
        """Note that the audio up to `time` was listened to, and whether speech goes on there."""
        length = max(0.0, time - self._at)
        weight = math.exp(-length / SMOOTHING)
        self.value = self.value * weight + (1.0 if self._since is not None else 0.0) * (1 - weight)
        self._at = max(self._at, time)
        self._since = (self._since if self._since is not None else time) if speaking else None


@dataclass
class Room:
    """What is known of one engine: its costs, its load, and the shares of speech of the sessions that it has."""

    readiness: Readiness | None = None
    load: Load = field(default_factory=Load)
    shares: Sequence[float] = ()


def cost_at(readiness: Readiness, step: float) -> float:
    """Seconds of work for each second of speech at the nearest step that was measured."""
    return readiness.costs[min(readiness.costs, key=lambda known: abs(float(known) - step))]


def load_with(room: Room, step: float, more: int = 1) -> float:
    """The load that an engine would have with `more` sessions that speak all the time, at that step."""
    if room.readiness is None:
        return math.inf
    spoken = sum(max(LEAST_SHARE, share) for share in room.shares)
    return (spoken + more) * cost_at(room.readiness, step)


def choose(rooms: Sequence[Room], step: float, share: float, most: int = 0) -> int | None:
    """The engine for one more session: the one with the least load, None if there is none with room. An engine without
    sessions takes one whatever it costs, unless it is late."""
    if most and sum(len(room.shares) for room in rooms) >= most:
        return None
    able = [i for i, room in enumerate(rooms) if room.readiness is not None and room.load.lateness <= LATE]
    best = min(able, key=lambda i: load_with(rooms[i], step), default=None)
    if best is None:
        return None
    fits = not rooms[best].shares or load_with(rooms[best], step) <= share
    return best if fits else None


def capacity(rooms: Sequence[Room], step: float, share: float, most: int = 0) -> int:
    """How many sessions that speak all the time are let in."""
    found = sum(max(1, int(share / cost_at(room.readiness, step))) for room in rooms if room.readiness is not None)
    return min(found, most) if most else found
