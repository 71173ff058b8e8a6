"""Seconds of drafting: those of a row's start and of every draft, divided among the rows that share them."""

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
import tiny

from speechmtp import clock
from speechmtp.decoding.bound import BoundStrategy
from speechmtp.decoding.drafters.contract import Silent
from speechmtp.decoding.engine import generate
from speechmtp.decoding.rules.greedy_match import GreedyMatch
from speechmtp.decoding.state import DecodeState
from speechmtp.types import Draft, Request, TokenRules

START, PROPOSE, ADVANCE = 8.0, 2.0, 32.0


@dataclass(frozen=True)
class Slow(Silent):
    """Drafts nothing, and moves the clock."""

    now: ClassVar[list[float]] = [0.0]

    def start(self, state: DecodeState) -> Any:
        """Takes `START` seconds."""
        self.now[0] += START

    def propose(self, state: DecodeState) -> Draft:
        """Takes `PROPOSE` seconds."""
        self.now[0] += PROPOSE
        return super().propose(state)


@dataclass(frozen=True)
class SlowHeads(Slow):
    """The same, with heads."""

    heads: ClassVar[bool] = True


@pytest.fixture(autouse=True)
def _clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clock, "time", SimpleNamespace(perf_counter=lambda: Slow.now[0]))


def seconds(strategies: list[BoundStrategy], limits: list[int]) -> list[float]:
    """Seconds of drafting of each row, which says as many tokens as its limit."""
    trunk = tiny.trunk()
    requests = [Request(tiny.prompts(trunk, [3], seed), TokenRules((99,)), n) for seed, n in enumerate(limits)]
    tokens, traces = generate(trunk, requests, strategies)
    assert list(map(len, tokens)) == limits
    return [trace.draft_seconds for trace in traces]


def test_rows_share_the_seconds_of_what_they_draft_together() -> None:
    slow, plain = BoundStrategy(Slow(), GreedyMatch()), BoundStrategy(Silent(), GreedyMatch())
    assert seconds([slow], [3]) == [START + 3 * PROPOSE]
    # Half of the start and of the first call each; from then on the longer one drafts alone.
    assert seconds([slow, plain, slow], [1, 2, 3]) == [
        (START + PROPOSE) / 2, 0.0, (START + PROPOSE) / 2 + 2 * PROPOSE
    ]  # fmt: skip
    apart = BoundStrategy(Slow(), GreedyMatch())  # other rows' drafts are not theirs
    assert seconds([slow, apart], [1, 1]) == [START + PROPOSE] * 2


def test_the_heads_own_seconds_are_drafting(monkeypatch: pytest.MonkeyPatch) -> None:
    heads = tiny.heads(depth=2)

    def slowed(function: Any, taken: float) -> Any:
        def run(*given: Any) -> Any:
            Slow.now[0] += taken
            return function(*given)

        return run

    monkeypatch.setattr(heads, "start", slowed(heads.start, START))
    monkeypatch.setattr(heads, "advance", slowed(heads.advance, ADVANCE))
    # Heads take in what each call committed, but nothing behind the last one.
    assert seconds([BoundStrategy(SlowHeads(), GreedyMatch(), heads)], [3]) == [2 * START + 3 * PROPOSE + 2 * ADVANCE]
