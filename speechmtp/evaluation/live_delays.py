"""When the words of a recording were said by live recognition: delays behind their ends, and what was taken back.

All times are seconds on the clock of the audio. Texts are compared word by word, each word normalised alone, so that
case and punctuation make no difference.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from typing import Any

import numpy as np

from speechmtp.scoring.align import align
from speechmtp.streaming.events import Committed, Final, StreamEvent, Tail
from speechmtp.words.word import Word

Normalise = Callable[[str], str]
TimedWord = tuple[str, float]


@dataclass(frozen=True)
class Shown:
    """The whole text that is on show from `time` on."""

    time: float
    text: str


@dataclass(frozen=True)
class SaidLive:
    """What was said of one recording: its `text`, the committed `words` with the time of each, all texts that were
    `shown` (at one time the last counts), and for each segment that silence ended the time at which that was said and
    the number of words that were committed by then."""

    text: str
    words: tuple[TimedWord, ...]
    shown: tuple[Shown, ...]
    ends: tuple[tuple[float, int], ...] = ()

    @classmethod
    def of(cls, events: Sequence[StreamEvent]) -> "SaidLive":
        """Of the events of a stream, in their order."""
        text, tail, words, shown, ends = "", "", list[TimedWord](), list[Shown](), list[tuple[float, int]]()
        for event in events:
            if isinstance(event, Committed):
                text += event.text
                words += [(word.text, event.time) for word in event.words]
            elif isinstance(event, Tail):
                tail = event.text
            elif isinstance(event, Final):
                tail = ""
                if event.reason == "endpoint" and event.words:
                    ends.append((event.time, len(words)))
            if isinstance(event, Committed | Tail | Final):
                shown.append(Shown(event.time, text + tail))
        return cls(text.strip(), tuple(words), last_of_each_time(shown), tuple(ends))


def last_of_each_time(shown: Sequence[Shown]) -> tuple[Shown, ...]:
    """The texts without those that another one replaced at the same time."""
    return tuple({one.time: one for one in shown}.values())


class WordMatcher:
    """Tells which words of one text say the words of another; `normalise` is that of the word error rate."""

    def __init__(self, normalise: Normalise) -> None:
        self.tokens = cache(lambda word: tuple(normalise(word).split()))

    def match(self, words: Sequence[str], said: Sequence[str]) -> list[int | None]:
        """For each of the words the place in `said` of the word that says it, the last if it takes several; None if it
        is not said. Of equal alignments the one with matches at the beginning is taken, as `said` may be cut short."""
        mine, owners = self._flat(words)
        theirs, places = self._flat(said)
        hits, i, j = dict[int, list[int]](), 0, 0
        for ours, other in reversed(align(mine[::-1], theirs[::-1])):
            if ours is not None and ours == other:
                hits.setdefault(owners[i], []).append(places[j])
            i, j = i + (ours is not None), j + (other is not None)
        return [
            max(hits[place]) if len(hits.get(place, ())) == len(self.tokens(word)) > 0 else None
            for place, word in enumerate(words)
        ]

    def said_at_all(self, words: Sequence[str]) -> int:
        """The number of words of which the normaliser leaves something."""
        return sum(bool(self.tokens(word)) for word in words)

    def _flat(self, words: Sequence[str]) -> tuple[list[str], list[int]]:
        """All tokens, and the word that each comes from."""
        pairs = [(token, place) for place, word in enumerate(words) for token in self.tokens(word)]
        return [token for token, _ in pairs], [place for _, place in pairs]


def shown_since(said: SaidLive, matcher: WordMatcher) -> tuple[TimedWord, ...]:
    """The words of the text, each with the time since which it was always on show."""
    words = said.text.split()
    times = [said.shown[-1].time if said.shown else 0.0] * len(words)
    stayed = set(range(len(words)))
    for one in reversed(said.shown):
        found = matcher.match(words, one.text.split())
        stayed = {place for place in stayed if found[place] is not None}
        for place in stayed:
            times[place] = one.time
    return tuple(zip(words, times))


def retracted(said: SaidLive, matcher: WordMatcher) -> int:
    """The number of words that were on show and were not in the next text."""
    texts = [one.text.split() for one in said.shown]
    return sum(
        matcher.said_at_all(before) - sum(place is not None for place in matcher.match(before, after))
        for before, after in pairwise(texts)
    )


@dataclass(frozen=True)
class Delays:
    """Delays of one recording in seconds: of committed words and of words on show, each behind the end of its word, and
    of the ends of segments behind the ends of their last words; only words that are right count, `words` of the
    reference could be. `first_word` is the delay of the first committed word, `first_text` the time of the first text
    on show behind the start of the first word; None where it is not known."""

    words: int
    committed: list[float]
    shown: list[float]
    ends: list[float]
    first_word: float | None
    first_text: float | None
    retracted: int
    final_words: int

    @classmethod
    def of(cls, reference: Sequence[Word], said: SaidLive, normalise: Normalise) -> "Delays":
        """Of what was said, by the words of the reference with their times."""
        matcher = WordMatcher(normalise)
        texts = [word.text for word in reference]

        def behind(words: Sequence[TimedWord]) -> list[tuple[int, float]]:
            """Place in `words` and delay of every word that is right and whose end is known."""
            found = matcher.match(texts, [text for text, _ in words])
            return [
                (place, words[place][1] - word.end)
                for word, place in zip(reference, found)
                if place is not None and word.end is not None
            ]

        committed, shown = behind(said.words), behind(shown_since(said, matcher))
        end_of = {place: said.words[place][1] - delay for place, delay in committed}  # of several words the last end
        firsts = [delay for place, delay in committed if place == 0]
        ends = [time - end_of[count - 1] for time, count in said.ends if count - 1 in end_of]
        start = reference[0].start if reference else None
        first = next((one.time for one in said.shown if matcher.said_at_all(one.text.split())), None)
        return cls(
            matcher.said_at_all(texts), [delay for _, delay in committed], [delay for _, delay in shown], ends,
            firsts[-1] if firsts else None,
            None if start is None or first is None else first - start,
            retracted(said, matcher), matcher.said_at_all(said.text.split()),
        )  # fmt: skip


def spread(name: str, values: Sequence[float]) -> dict[str, Any]:
    """Mean, median, 90th and 99th percentile under names that begin with `name`; None without values."""
    if not values:
        return dict.fromkeys([f"{name}_mean", f"{name}_median", f"{name}_p90", f"{name}_p99"])
    median, p90, p99 = (float(one) for one in np.percentile(values, [50, 90, 99]))
    return {f"{name}_mean": float(np.mean(values)), f"{name}_median": median, f"{name}_p90": p90, f"{name}_p99": p99}


def delay_figures(delays: Sequence[Delays]) -> dict[str, Any]:
    """The figures of all recordings together: percentiles are over words, `coverage` is the share of the reference's
    words that have a delay, and `flicker` the number of retracted words for each final one."""
    committed = [one for each in delays for one in each.committed]
    words, final = sum(each.words for each in delays), sum(each.final_words for each in delays)
    firsts = {name: [one for each in delays if (one := getattr(each, name)) is not None]
              for name in ("first_word", "first_text")}  # fmt: skip
    return {
        **spread("delay", committed), "coverage": len(committed) / words if words else None,
        **spread("shown", [one for each in delays for one in each.shown]),
        **spread("first_word", firsts["first_word"]), **spread("first_text", firsts["first_text"]),
        **spread("final", [one for each in delays for one in each.ends]),
        "finals": sum(len(each.ends) for each in delays),
        "flicker": sum(each.retracted for each in delays) / final if final else None,
        "delays": [round(one, 3) for one in committed],
    }  # fmt: skip
