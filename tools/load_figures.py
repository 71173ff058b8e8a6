"""The figures of `tools/load.py`: delays of words, of last words and of what was heard, and what was lost or wrong."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from speechmtp.evaluation.live_delays import Delays, SaidLive, Shown, last_of_each_time
from speechmtp.words.word import Word

RATE = 16000
LATE = 0.020  # seconds: a load that was later itself says nothing
_EDGES = [0.0, *(0.001 * 1.15**power for power in range(79))]  # seconds, up to a minute


@dataclass
class Said:
    """What was said of one utterance: `text`, when it was `asked` for and `answered` (monotonic; None: never), when its
    first sample was spoken, and all its events."""

    id: str
    begun: float
    asked: float
    answered: float | None = None
    text: str = ""
    failed: bool = False
    fast: bool = False  # sent at once, so that its words have no delay
    check: str = ""  # how a stub engine would call its audio
    events: list[list[Any]] = field(default_factory=list)

    @property
    def live(self) -> SaidLive:
        """Its words and what was on show, on the utterance's own clock."""
        text, tail, ends, shown = "", "", list[tuple[int, float]](), list[Shown]()
        for time, kind, _, *more in self.events:
            if kind == "delta":
                text += more[0]
                ends.append((len(text), time - self.begun))
            elif kind == "tail":
                tail = more[0]
            elif kind == "completed":
                tail = ""
            shown.append(Shown(time - self.begun, text + tail))
        words, at = list[tuple[str, float]](), 0
        for word in text.split():
            at = text.index(word, at) + len(word)
            words.append((word, next(time for end, time in ends if end >= at)))
        return SaidLive(text.strip(), tuple(words), last_of_each_time(shown))


def utterances(record: Mapping[str, Any], turns: str) -> list[Said]:
    """The utterances of one connection with what was said of them. With commits the k-th item that is committed is the
    k-th utterance; otherwise items belong to the utterance in which their speech began."""
    found = [
        Said(
            one["id"],
            record["t0"] + one["begin"] / RATE,
            one["asked"],
            fast=record["fast"],
            check=f"n{one['samples']}x{one['check']:08x}",
        )
        for one in record["slots"]
    ]
    owner: dict[str, Said] = {}
    if turns == "commit":
        owner = dict(zip((event[2] for event in record["events"] if event[1] == "committed"), found))
    else:
        begins = [one["begin"] / RATE for one in record["slots"]]
        for _, kind, item, *more in record["events"]:
            if kind == "started":
                place = int(np.searchsorted(begins, more[0] / 1000 + 0.05)) - 1
                if place >= 0:
                    owner[item] = found[place]
    for event in record["events"]:
        if event[1] in ("delta", "tail", "completed", "failed") and event[2] in owner:
            one = owner[event[2]]
            one.events.append(event)
            if event[1] == "completed":
                one.answered, one.text = event[0], " ".join(filter(None, (one.text, event[3].strip())))
            one.failed = one.failed or event[1] == "failed"
    return found


def spread(values: Sequence[float]) -> dict[str, float | int | None]:
    """Number, median, 95th and 99th percentile and the greatest."""
    if not values:
        return {"count": 0, "p50": None, "p95": None, "p99": None, "max": None}
    p50, p95, p99 = (float(one) for one in np.percentile(values, [50, 95, 99]))
    return {"count": len(values), "p50": p50, "p95": p95, "p99": p99, "max": float(max(values))}


def histogram(values: Sequence[float]) -> dict[str, list[Any]]:
    """How many values are in each of the bins that hold any: their lower edges in seconds, and counts. What is less
    than 0 is in the first."""
    if not values:
        return {"from": [], "counts": []}
    counts, _ = np.histogram(np.clip(values, 0.0, _EDGES[-1]), [*_EDGES, math.inf])
    full = [place for place, count in enumerate(counts) if count]
    return {"from": [round(_EDGES[place], 5) for place in full], "counts": [int(counts[place]) for place in full]}


def slope(times: Sequence[float], delays: Sequence[float]) -> float | None:
    """By how many milliseconds a delay grows in a second, by least squares; None of less than a minute."""
    if len(times) < 10 or max(times) - min(times) < 60:
        return None
    return float(1000 * np.polyfit(np.asarray(times) - min(times), delays, 1)[0])


@dataclass
class Measured:
    """All delays in seconds, and counts."""

    delays: dict[str, list[float]] = field(
        default_factory=lambda: {
            name: [] for name in ("first token", "emission", "shown", "finalisation", "fast", "heard", "lateness",
                                  "connect", "refused")
        }
    )  # fmt: skip
    counts: dict[str, int] = field(
        default_factory=lambda: dict.fromkeys(
            ("connections", "refused", "closed", "aborted", "commits", "lost", "failed", "wrong", "wrong words",
             "errors", "words", "retracted"), 0
        )
    )  # fmt: skip
    times: dict[str, list[float]] = field(default_factory=lambda: {"emission": [], "heard": []})
    wrong: list[dict[str, str]] = field(default_factory=list)
    closed: list[str] = field(default_factory=list)
    texts: dict[str, str] = field(default_factory=dict)
    blocked: float = 0.0
    audio: float = 0.0  # seconds that were sent
    tokens: int = 0
    calls: int = 0

    @property
    def void(self) -> bool:
        """Whether the load was late itself."""
        late = spread(self.delays["lateness"])["p99"]
        return late is not None and late > LATE

    def add(self, record: Mapping[str, Any], turns: str) -> None:
        """Take a connection's own figures."""
        counts, delays = self.counts, self.delays
        counts["connections"] += 1
        delays["lateness"] += record["lateness"]
        if record["refused"]:
            counts["refused"] += 1
            delays["refused"].append(record["connect"])
            return
        delays["connect"].append(record["connect"])
        counts["aborted"] += record["aborted"]
        self.blocked += record["blocked"]
        if record["closed"]:
            counts["closed"] += 1
            self.closed.append(record["closed"])
        heard = [event for event in record["events"] if event[1] == "heard"]
        for time, _, until, *_ in () if record["fast"] else heard:
            delays["heard"].append(time - record["t0"] - until / 1000)
            self.times["heard"].append(time)
        if heard:
            self.tokens += heard[-1][3]
            self.calls += heard[-1][4]
        counts["errors"] += sum(event[1] == "error" for event in record["events"])
        self.audio += sum(one["end"] - one["begin"] for one in record["slots"]) / RATE

    def add_utterance(
        self, one: Said, turns: str, expected: str | None, reference: Sequence[Word], normalise: Callable[[str], str]
    ) -> None:
        """Take what was said of an utterance. `expected` is what it says alone, `reference` its words with times."""
        counts = self.counts
        counts["commits"] += 1
        counts["failed"] += one.failed
        if one.answered is None:
            counts["lost"] += not one.failed and turns == "commit"
            return
        self.texts[one.id] = one.text
        last = next((word.end for word in reversed(reference) if word.end is not None), None)
        asked = one.asked if one.fast or turns == "commit" or last is None else one.begun + last
        self.delays["fast" if one.fast else "finalisation"].append(one.answered - asked)
        if expected is not None and one.text.split() != expected.split():
            counts["wrong"] += 1
            counts["wrong words"] += normalise(one.text) != normalise(expected)
            self.wrong.append({"id": one.id, "expected": expected, "found": one.text})
        if not reference or one.fast:
            return
        said = one.live
        found = Delays.of(reference, said, normalise)
        self.delays["emission"] += found.committed
        self.times["emission"] += [one.begun] * len(found.committed)
        self.delays["shown"] += found.shown
        self.delays["first token"] += [] if found.first_text is None else [found.first_text]
        counts["words"] += found.words
        counts["retracted"] += found.retracted

    def figures(self) -> dict[str, Any]:
        """All of it, for JSON."""
        covered = len(self.delays["emission"])
        return {
            "void": self.void, "counts": self.counts, "audio_seconds": round(self.audio, 1),
            "blocked_seconds": round(self.blocked, 3),
            "delays": {name: spread(values) for name, values in self.delays.items()},
            "coverage": covered / self.counts["words"] if self.counts["words"] else None,
            "slope_ms_per_s": {name: slope(self.times[name], self.delays[name]) for name in self.times},
            "tokens_per_call": self.tokens / self.calls if self.calls else None,
            "closed": sorted(self.closed), "wrong": self.wrong[:50],
            "histograms": {name: histogram(values) for name, values in self.delays.items()},
        }  # fmt: skip


def measured(
    records: Sequence[Mapping[str, Any]], turns: str, expected: Mapping[str, str], words: Mapping[str, Sequence[Word]],
    normalise: Callable[[str], str], stub: bool = False,
) -> Measured:  # fmt: skip
    """The figures of all connections. `stub` says that a stub engine tells how much audio it got, which is checked."""
    found = Measured()
    for record in records:
        found.add(record, turns)
        for one in utterances(record, turns) if not record["refused"] else ():
            text = one.text.rsplit(" ", 1)
            want = " ".join([*text[:-1], one.check]) if stub else expected.get(one.id)
            found.add_utterance(one, turns, want, words.get(one.id, ()), normalise)
    return found


def lines(figures: Mapping[str, Any]) -> Iterator[str]:
    """The figures as text."""
    yield f"{'seconds':<14}{'number':>9}{'p50':>9}{'p95':>9}{'p99':>9}{'max':>9}"
    for name, one in figures["delays"].items():
        if one["count"]:
            cells = "".join(f"{one[key]:9.3f}" for key in ("p50", "p95", "p99", "max"))
            yield f"{name:<14}{one['count']:>9}{cells}"
    yield ", ".join(f"{name} {count}" for name, count in figures["counts"].items())
    yield f"{figures['audio_seconds']:g} s of audio, {figures['blocked_seconds']:g} s in which the server took nothing"
    for name, value in figures["slope_ms_per_s"].items():
        if value is not None:
            yield f"{name} delay grows by {value:.3f} ms a second"
    if figures["coverage"] is not None:
        yield f"delays of {100 * figures['coverage']:.1f} % of the words (those that are right)"
    if figures["tokens_per_call"] is not None:
        yield f"{figures['tokens_per_call']:.2f} tokens a call"
    for why in sorted(set(figures["closed"])):
        yield f"closed: {why} ({figures['closed'].count(why)} times)"
    if figures["void"]:
        yield f"VOID: the load itself was later than {1000 * LATE:g} ms; take fewer streams or another machine"
