"""What passes cost is measured as they are live, and the costs of steps follow from it."""

from collections.abc import Sequence

import numpy as np
import pytest

from speechmtp.server.calibration import MOST, STEPS, WINDOWS, PassTimes, describe, measure
from speechmtp.server.live import stream_config
from speechmtp.server.messages import Settings

RATE = 1000


class Machine:
    """A model that says a word a second, and takes `fixed` seconds, and so much for each second of a window and each
    token; its clock."""

    def __init__(self, fixed: float = 0.01, second: float = 0.02, token: float = 0.001) -> None:
        self.time, self.calls = 0.0, list[tuple[int, int, int]]()
        self.fixed, self.second, self.token = fixed, second, token

    def now(self) -> float:
        return self.time

    def decode(self, samples: np.ndarray, prefix: Sequence[int], previous: Sequence[int]) -> list[int]:
        seconds = len(samples) // RATE
        self.calls.append((seconds, len(prefix), len(previous)))
        self.time += self.fixed + self.second * len(samples) / RATE + self.token * (seconds - len(prefix))
        return list(range(len(prefix), seconds))

    def listen(self, samples: np.ndarray) -> None:
        self.time += 0.003 * len(samples) / RATE

    def measured(self, longest: float = 30.0) -> PassTimes:
        return measure(self.decode, np.zeros(3 * RATE, np.float32), RATE, longest, self.listen, self.now)


def test_windows_are_decoded_behind_their_words_but_the_last() -> None:
    machine = Machine(second=0.01)
    times = machine.measured()
    calls = list[tuple[int, int, int]]()
    for length in (2, 6, 12, 20):
        calls += [(length, 0, 0), *[(length, max(0, length - 6), min(6, length))] * 2]
    assert machine.calls == calls
    for length in WINDOWS:
        assert times.passes[length] == pytest.approx(0.01 + 0.01 * length + 0.001 * min(6, length))
    assert times.listening == pytest.approx(0.003)


def test_costs_are_those_of_the_passes_of_a_segment() -> None:
    times = PassTimes({2.0: 0.05, 20.0: 0.41}, 0.003)  # 0.01 and 0.02 a second
    assert times.at(2) == 0.05 and times.at(11) == pytest.approx(0.23) and times.at(1) == pytest.approx(0.03)
    for step in (0.5, 1.0, 2.0):
        by_hand = sum(0.01 + 0.02 * length for length in np.arange(step, 12.0 + step / 2, step)) / 12
        assert times.cost(step) == pytest.approx(by_hand + 0.003)
    assert list(times.costs) == ["0.5", "1.0", "2.0"] == [str(step) for step in STEPS]
    assert times.final_seconds == pytest.approx(0.25)
    assert describe(times, "m").startswith("m: passes over 2 s 50 ms, 20 s 410 ms; seconds of work")


def test_a_step_that_is_no_part_of_a_segment_ends_with_its_end() -> None:
    times = PassTimes({1.0: 1.0, 10.0: 1.0})
    assert times.cost(5.0) == pytest.approx(3 / 12) and times.cost(100.0) == pytest.approx(1 / 12)


def test_a_slow_model_is_measured_once() -> None:
    machine = Machine(fixed=1.0)
    machine.measured()
    assert len(machine.calls) == 4 * 2 and machine.time > MOST


def test_a_model_that_hears_little_is_measured_with_that() -> None:
    assert list(Machine().measured(longest=8.0).passes) == [2.0, 6.0]
    one = Machine().measured(longest=1.5)
    assert list(one.passes) == [1.5] and one.at(20.0) == one.passes[1.5]


def test_settings_become_those_of_a_stream() -> None:
    plain = stream_config(Settings())
    assert (plain.activity.threshold, plain.activity.min_silence_ms, plain.activity.speech_pad_ms) == (0.5, 700, 1000)
    assert not plain.keep and not plain.words
    given = stream_config(Settings(threshold=0.3, silence=0.35, padding=0.6, words=True))
    assert (given.activity.threshold, given.activity.min_silence_ms, given.activity.speech_pad_ms) == (0.3, 350, 600)
    assert given.words
    low, high = (stream_config(Settings("", "", value, value, value)).activity for value in (-1.0, 1e9))
    assert (low.threshold, low.min_silence_ms, low.speech_pad_ms) == (0.02, 100, 0)
    assert (high.threshold, high.min_silence_ms, high.speech_pad_ms) == (0.98, 60000, 10000)
