"""Random runs of the engine: requests that join, pause, go on and leave at any step, in slots that others have used."""

import random
from collections.abc import Sequence
from dataclasses import dataclass, field

from speechmtp.decoding.bound import BoundStrategy
from speechmtp.decoding.engine import Engine
from speechmtp.decoding.sampling import RowSampling
from speechmtp.types import Request, Trace


@dataclass
class Run:
    """An engine and what was said in it: `said` are the finished requests by number, with their tokens and traces."""

    engine: Engine
    requests: Sequence[Request]
    bound_strategies: Sequence[BoundStrategy]
    rng: random.Random
    row_sampling: RowSampling | None = None
    waiting: list[int] = field(default_factory=list)
    inside: dict[int, int] = field(default_factory=dict)  # slot -> request
    paused: set[int] = field(default_factory=set)
    heard: dict[int, list[int]] = field(default_factory=dict)  # by events
    said: dict[int, tuple[list[int], Trace]] = field(default_factory=dict)
    left_early: dict[int, list[int]] = field(default_factory=dict)
    used: set[int] = field(default_factory=set)
    reused: int = 0
    in_midrun: int = 0

    def __post_init__(self) -> None:
        self.waiting = list(range(len(self.requests)))
        self.rng.shuffle(self.waiting)

    def join(self) -> None:
        """The next request takes a slot."""
        number = self.waiting.pop()
        self.in_midrun += any(self.heard[other] for other in self.inside.values())
        slot = self.engine.join(self.requests[number], self.bound_strategies[number], self.row_sampling)
        assert slot not in self.inside
        self.reused += slot in self.used
        self.used.add(slot)
        self.inside[slot], self.heard[number] = number, []

    def step(self) -> None:
        """One step; rows that are done leave."""
        for event in self.engine.step():
            assert event.slot not in self.paused, "a paused row says nothing"
            self.heard[self.inside[event.slot]] += event.tokens
            if event.done:
                number = self.inside.pop(event.slot)
                self.said[number] = self.engine.leave(event.slot)
                assert self.heard[number] == self.said[number][0]

    def pause(self) -> None:
        """Some row pauses, or a paused one goes on."""
        slot = self.rng.choice(list(self.inside))
        if slot in self.paused:
            self.paused.remove(slot)
            self.engine.resume(slot)
        else:
            self.paused.add(slot)
            self.engine.pause(slot)

    def leave(self) -> None:
        """Some row leaves before it is done."""
        slot = self.rng.choice(list(self.inside))
        number = self.inside.pop(slot)
        self.paused.discard(slot)
        self.left_early[number] = self.engine.leave(slot)[0]

    def act(self, leaving: float = 0.0) -> None:
        """Any of these."""
        choice = self.rng.random()
        if self.waiting and self.engine.free and choice < 0.4:
            self.join()
        elif self.inside and choice < 0.5:
            self.pause()
        elif self.inside and choice < 0.5 + leaving:
            self.leave()
        else:
            self.step()

    def finish(self) -> None:
        """All that is left, without further pauses."""
        for slot in sorted(self.paused):
            self.engine.resume(slot)
        self.paused = set()
        while self.waiting or self.inside:
            while self.waiting and self.engine.free:
                self.join()
            self.step()
