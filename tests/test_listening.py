"""Many recordings are read and heard in order; what cannot be is an error in its place; progress adds up."""

import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from speechmtp.audio.cut import Cutter
from speechmtp.audio.cut import Part as CutPart
from speechmtp.crew import Crew
from speechmtp.errors import ConfigError, DataError
from speechmtp.listening import AudioSource, listen_each, sources_of
from speechmtp.progress import AudioProgress

RATE = 1000


@dataclass(frozen=True)
class Part:
    audio_seconds: float


def cutter() -> Cutter:
    """A part a second."""
    made: Cutter = EverySecond()  # type: ignore[assignment]
    return made


class EverySecond:
    """Cuts without looking; a recording of exactly a second is one part."""

    def __init__(self) -> None:
        self.held = np.zeros(0, np.float32)
        self.start = 0

    def push(self, block: np.ndarray) -> list[CutPart]:
        self.held = np.concatenate([self.held, block])
        found = []
        while len(self.held) > RATE:
            found += self.finish()
        return found

    def finish(self) -> list[CutPart]:
        part, self.held = CutPart(self.start, self.held[:RATE]), self.held[RATE:]
        self.start = part.end
        return [part]


def listen(samples: np.ndarray, name: str, noise_key: int) -> Part:
    """Negative samples cannot be heard."""
    if samples.min() < 0:
        raise DataError(f"{name}: negative")
    return Part(len(samples) / RATE)


def seconds(length: float) -> np.ndarray:
    return np.zeros(round(length * RATE), np.float32)


def run(
    sources: list[AudioSource],
    raises: bool = False,
    count: int | None = None,
    jobs: int = 1,
    rate: float | None = RATE,
) -> tuple[list[object], list[tuple]]:
    """Recordings as the seconds of their parts, or their errors; and what progress told."""
    told: list[tuple] = []
    with AudioProgress(lambda done, total: told.append((done, total)), "", count) as progress, Crew(jobs) as crew:
        found: list[object] = []
        parts: list[float] = []
        for one in listen_each(sources, rate, RATE, cutter, listen, progress, crew, raises=raises):
            if isinstance(one, DataError):
                progress.add(-sum(parts))
                found, parts = [*found, str(one)], []
                continue
            parts.append(one[0].audio_seconds)
            progress.add(parts[-1])  # as if decoded at once
            if one[1]:
                found, parts = [*found, parts], []
    return found, told


def test_parts_and_errors_stand_in_order_and_lazy_sources_are_read_at_their_turn() -> None:
    read: list[int] = []

    def lazy(number: int, length: float) -> AudioSource:
        def source() -> np.ndarray:
            read.append(number)
            return seconds(length)

        return source

    broken = np.concatenate([seconds(1), -0.5 * np.ones(10, np.float32)])
    sources: list[AudioSource] = [lazy(0, 1.5), broken, "none.wav", lazy(3, 1), io.BytesIO(), np.zeros((2, 9))]
    with AudioProgress(None, "", None) as progress:
        each = listen_each(iter(sources), RATE, RATE, cutter, listen, progress, Crew(), raises=False)
        assert [next(each), next(each)] == [(Part(1.0), False), (Part(0.5), True)] and read == [0]
    found, told = run(sources)
    assert found[0] == [1.0, 0.5] and found[3] == [1.0]
    for place, text in ((1, "audio[1]: negative"), (2, "none.wav: no such file"), (4, "stream[4]: no bytes"),
                        (5, "audio[5]: array of shape")):  # fmt: skip
        assert str(found[place]).startswith(text)
    assert told[-1] == (pytest.approx(3.51), pytest.approx(3.51)), "what was heard in vain is done too"
    assert [done for done, _ in told] == sorted(done for done, _ in told)


def test_parts_are_there_before_a_recording_is_read_to_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("speechmtp.audio.io.WHOLE", 0)
    monkeypatch.setattr("speechmtp.audio.io.BLOCK", 1)
    monkeypatch.setattr("speechmtp.listening.AHEAD_SECONDS", 2.0)
    monkeypatch.setattr("speechmtp.listening.LONG", 1.0)
    stream = io.BytesIO()
    soundfile.write(stream, seconds(20.5), RATE, format="WAV")
    read: list[int] = []

    class Counting(EverySecond):
        def push(self, block: np.ndarray) -> list[CutPart]:
            read.append(len(block))
            return super().push(block)

    told: list[tuple[float, float | None]] = []
    with AudioProgress(lambda *tell: told.append(tell), "", 1) as progress, Crew(2) as crew:
        made: Callable[[], Cutter] = Counting  # type: ignore[assignment]
        each = listen_each([stream.getvalue()], None, RATE, made, listen, progress, crew)
        assert next(each) == (Part(1.0), False) and sum(read) <= 8 * RATE
        assert told == [(0.5, 20.5)], "its length is known before"
        assert list(each)[-1] == (Part(0.5), True) and sum(read) == 20.5 * RATE
    assert told[-1] == (10.25, 20.5)


def test_a_recording_that_breaks_in_its_middle_is_done_as_far_as_progress_knows(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("speechmtp.audio.io.WHOLE", 0)
    monkeypatch.setattr("speechmtp.audio.io.BLOCK", 1)
    stream = io.BytesIO()
    soundfile.write(stream, np.random.default_rng(0).normal(0, 0.1, 9 * RATE).clip(0, 1), RATE, format="FLAC")
    data = bytearray(stream.getvalue())
    data[len(data) // 2 : len(data) // 2 + 3000] = bytes(3000)
    negative = np.concatenate([seconds(3), -0.5 * np.ones(10, np.float32), seconds(4)])
    for jobs in (1, 2):
        found, told = run([(seconds(1), RATE), bytes(data), (negative, RATE), (seconds(2), RATE)], False, 4, jobs, None)
        assert found[0] == [1.0] and found[3] == [1.0, 1.0] and len(found) == 4
        assert str(found[1]).startswith("bytes[1]: damaged after ") and str(found[2]) == "audio[2]: negative"
        assert told[-1][0] == pytest.approx(told[-1][1]) and told[-1][1] == pytest.approx(19.01)


def test_what_a_function_cannot_read_is_an_error_in_its_place() -> None:
    def fails(error: Exception) -> AudioSource:
        def source() -> np.ndarray:
            raise error

        return source

    found, _ = run([seconds(1), fails(OSError("no\nnet")), fails(ValueError()), seconds(2)])
    assert found[0] == [1.0] and found[3] == [1.0, 1.0]
    assert str(found[1]).startswith("source[1]: not to be had (no net)")
    assert str(found[2]).startswith("source[2]: not to be had (ValueError)")
    with pytest.raises(KeyError):
        run([fails(KeyError("x"))])


def test_an_error_that_is_raised_is_the_last() -> None:
    found, told = run([seconds(1), "none.wav", seconds(1)], raises=True)
    assert len(found) == 2 and str(found[1]).startswith("none.wav")
    assert all(total is None for _, total in told)


def test_a_missing_rate_is_the_callers_mistake() -> None:
    with AudioProgress(None, "", None) as progress, pytest.raises(ConfigError, match=r"audio\[0\]: samples need"):
        list(listen_each([seconds(1)], None, RATE, cutter, listen, progress, Crew(), raises=False))
    with AudioProgress(None, "", None) as progress, pytest.raises(DataError, match="take: array of shape"):
        raise next(listen_each([np.zeros((2, 9))], RATE, RATE, cutter, listen, progress, Crew(), ["take"]))  # type: ignore[misc]


def test_progress_grows_to_the_total_which_is_told_once_it_is_known() -> None:
    _, told = run([seconds(0.7), seconds(2.1), seconds(1)])
    done, totals = zip(*told)
    assert list(done) == sorted(done)
    _, told = run([seconds(2.5)], count=1)
    assert len(told) > 2 and {total for _, total in told} == {2.5}, "one recording's length is known at once"
    known = [total for total in totals if total is not None]
    assert known == pytest.approx([3.8] * len(known)) and known and totals[0] is None
    assert done[-1] == totals[-1]


def test_the_bar_takes_the_rest_to_be_as_long(monkeypatch: pytest.MonkeyPatch) -> None:
    moved: list[tuple[float, float | None]] = []
    progress = AudioProgress(True, "", 4)
    with progress:
        monkeypatch.setattr(progress, "_tell", lambda done, total: moved.append((done, total)))
        progress.read(3.0)
        progress.add(3.0)
        progress.read(1.0)
        progress.add(1.0)
        progress.all_read()
    assert moved == [(1.5, 12.0), (2.0, 8.0), (2.0, 4.0)]


@pytest.mark.parametrize(
    "one",
    ["a.wav", Path("a.wav"), b"RIFF", io.BytesIO(), np.zeros(9), torch.zeros(9), (np.zeros(9), 16000),
     (np.zeros(9), np.int64(16000)), (torch.tensor(16000), np.zeros(9)), {"array": [0.0], "sampling_rate": 16000},
     3, None],
)  # fmt: skip
def test_a_single_recording_is_no_list(one: object) -> None:
    with pytest.raises(ConfigError, match=r"transcribe_many: .*, expected a list of recordings; a single one goes to"):
        sources_of(one)  # type: ignore[arg-type]


def test_lists_and_generators_are_taken_as_they_are() -> None:
    for many in (["a.wav"], ("a.wav", "b.wav"), (seconds(1), seconds(1)), (x for x in ["a.wav"]), {"a.wav": 1}.keys()):
        assert sources_of(many) is many
