"""What the front keeps of a session is all that another engine needs to go on with it."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from speechmtp.errors import ConfigError
from speechmtp.server.link import Frame, FrameReader, Kind, Opening, Said, read_opening
from speechmtp.server.messages import (
    Audio,
    Clear,
    Cleared,
    Command,
    Configure,
    CoreEvent,
    End,
    Ended,
    Final,
    Flush,
    Heard,
    Settings,
)
from speechmtp.server.session import Journal

RATE = 1000.0


class Engine:
    """Counts samples: the Final of a flush says which numbers came since the one before. It works one frame at a time
    and can be lost between any two."""

    def __init__(self) -> None:
        self.waiting: list[Frame] = []
        self.opening: Opening | None = None

    def take(self, frames: list[bytes]) -> None:
        reader = FrameReader()
        for data in frames:
            self.waiting += reader.push(data)

    def step(self) -> Said | None:
        """Work on the next frame."""
        if not self.waiting:
            return None
        one, events = self.waiting.pop(0), list[CoreEvent]()
        if one.kind is Kind.OPEN:
            self.opening = read_opening(one.json())
            self.rate, self.time, self.start = self.opening.rate, self.opening.offset, self.opening.offset
            self.settings, self.numbers = self.opening.settings, list[int]()
        elif one.kind is Kind.AUDIO:
            samples = np.frombuffer(one.payload, np.int16)
            self.numbers += samples.tolist()
            self.time += len(samples) / self.rate
            events.append(Heard(self.time))
        elif one.kind is Kind.FLUSH:
            events.append(self.final(one.json()["number"]))
        elif one.kind is Kind.CLEAR:
            self.numbers, self.start = [], self.time
            events.append(Cleared(self.time))
        elif one.kind is Kind.CONFIGURE:
            events += [self.final(None)] if self.numbers else []
            self.settings, self.rate = Settings(**one.json()["settings"]), one.json()["rate"]
        elif one.kind is Kind.END:
            events += [self.final(None), Ended(self.time)]
        return Said(tuple(events), self.start)

    def final(self, number: int | None) -> Final:
        text = " ".join(map(str, [*self.numbers, self.settings.language]))
        made = Final(text, (), self.start, self.time, "flush", self.time, number)
        self.numbers, self.start = [], self.time
        return made


Told = list[tuple[Any, ...]]


def run(commands: list[Command], lost: set[int], credit: float = 1e9) -> tuple[Told, Journal]:
    """The finals of a session, and where audio was cleared, whose engine is lost after the steps in `lost`."""
    journal, engine, told, steps = Journal(1, credit), Engine(), Told(), 0

    def work() -> None:
        nonlocal engine, steps
        while True:
            engine.take(journal.to_send())
            if steps in lost and not (told and told[-1][0] == "Ended"):
                engine, steps = Engine(), steps + 1
                journal.reopen()
                continue
            said = engine.step()
            if said is None:
                return
            steps += 1
            for event in journal.hear(said):
                if isinstance(event, Final):
                    told.append((event.text, round(event.start, 6), round(event.end, 6), event.flush))
                elif isinstance(event, Cleared | Ended):
                    told.append((type(event).__name__, round(event.time, 6)))

    for command in commands:
        journal.take(command)
        work()
    return told, journal


def audio(first: int, count: int, rate: float = RATE) -> Audio:
    return Audio(np.arange(first, first + count, dtype=np.int16), rate)


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_a_lost_engine_is_not_noticed(data: st.DataObject) -> None:
    commands, number, first, rate = list[Command](), 0, 0, RATE
    for kind in data.draw(st.lists(st.sampled_from("aaaafcsr"), max_size=24)):
        if kind == "a":
            count = data.draw(st.integers(0, 50))
            commands.append(audio(first, count, rate))
            first += count
        elif kind == "f":
            number += 1
            commands.append(Flush(number))
        elif kind == "c":
            commands.append(Clear())
        elif kind == "s":
            commands.append(Configure(Settings(language=data.draw(st.sampled_from(["", "en", "de"])))))
        else:
            rate = data.draw(st.sampled_from([500.0, 1000.0, 2000.0]))
    commands.append(End())
    lost = data.draw(st.sets(st.integers(0, 60), max_size=6))
    told, journal = run(commands, lost)
    assert told == run(commands, set())[0]
    assert [one[3] for one in told if len(one) == 4 and one[3] is not None] == list(range(1, number + 1))
    assert abs(journal.waiting) < 1e-6


def test_only_what_is_needed_is_kept() -> None:
    journal = Journal(1)
    journal.take(audio(0, 1000))
    journal.take(Flush(1))
    journal.take(audio(1000, 1000))
    assert len(journal.to_send()) == 4 and not journal.to_send()
    journal.hear(Said((Final("", (), 0, 1, "flush", 1.0, 1), Heard(1.75)), 1.75))
    journal.reopen()
    opening, samples = (next(FrameReader().push(data)) for data in journal.to_send())
    assert read_opening(opening.json()).offset == 1.75
    assert np.frombuffer(samples.payload, np.int16).tolist() == list(range(1750, 2000))


def test_an_engine_holds_so_much_audio_and_no_more() -> None:
    journal = Journal(1, credit=2.0)
    for second in range(10):
        journal.take(audio(0, 1000))
        assert journal.waiting == second + 1
    assert len(journal.to_send()) == 1 + 3 and not journal.to_send()
    journal.hear(Said((Heard(1.5),), 1.5))
    assert len(journal.to_send()) == 1


def test_nothing_is_taken_behind_the_end() -> None:
    journal = Journal(1)
    journal.take(End())
    with pytest.raises(ConfigError, match="behind End"):
        journal.take(Flush(1))


def test_settings_before_audio_open_the_session() -> None:
    journal = Journal(1)
    assert not journal.to_send() and not journal.begun
    journal.take(Configure(Settings(language="en")))
    journal.take(audio(0, 10, 8000))
    [first, second] = journal.to_send()
    opening = read_opening(next(FrameReader().push(first)).json())
    assert (opening.settings.language, opening.rate, opening.offset) == ("en", 8000, 0)
    assert next(FrameReader().push(second)).kind is Kind.AUDIO


def test_an_answered_flush_is_not_given_again_though_audio_before_it_is() -> None:
    journal = Journal(1)
    journal.take(audio(0, 1000))
    journal.take(Flush(1))
    journal.take(audio(1000, 500))
    journal.take(Flush(2))
    assert len(journal.to_send()) == 5
    journal.hear(Said((Final("", (), 1, 1, "flush", 1.0, 1), Heard(1.5)), 0.7))
    journal.reopen()
    frames = [next(FrameReader().push(data)) for data in journal.to_send()]
    assert [one.kind for one in frames] == [Kind.OPEN, Kind.AUDIO, Kind.AUDIO, Kind.FLUSH]
    assert frames[-1].json() == {"number": 2} and len(frames[1].payload) == 2 * 300
