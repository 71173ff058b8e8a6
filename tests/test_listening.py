"""Many recordings are read and heard in order; what cannot be is an error in its place; progress adds up."""

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

from speechmtp.crew import Crew
from speechmtp.errors import ConfigError, DataError
from speechmtp.listening import AudioSource, listen_each, sources_of
from speechmtp.progress import AudioProgress

RATE = 1000


@dataclass(frozen=True)
class Part:
    audio_seconds: float


def spans(samples: np.ndarray) -> list[tuple[int, int]]:
    """A part a second."""
    return [(start, min(start + RATE, len(samples))) for start in range(0, len(samples), RATE)]


def listen(samples: np.ndarray, name: str, noise_key: int) -> Part:
    """Negative samples cannot be heard."""
    if samples.min() < 0:
        raise DataError(f"{name}: negative")
    return Part(len(samples) / RATE)


def seconds(length: float) -> np.ndarray:
    return np.zeros(round(length * RATE), np.float32)


def run(
    sources: list[AudioSource], raises: bool = False, count: int | None = None, jobs: int = 1
) -> tuple[list[object], list[tuple]]:
    told: list[tuple] = []
    with AudioProgress(lambda done, total: told.append((done, total)), "", count) as progress, Crew(jobs) as crew:
        found: list[object] = []
        for one in listen_each(sources, RATE, RATE, spans, listen, progress, crew, raises=raises):
            found.append(str(one) if isinstance(one, DataError) else [part.audio_seconds for part in one])
            if not isinstance(one, DataError):
                progress.add(sum(part.audio_seconds for part in one))  # as if decoded at once
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
        each = listen_each(iter(sources), RATE, RATE, spans, listen, progress, Crew(), raises=False)
        assert next(each) == [Part(1.0), Part(0.5)] and read == [0]
    found, told = run(sources)
    assert found[0] == [1.0, 0.5] and found[3] == [1.0]
    for place, text in ((1, "audio[1]: negative"), (2, "none.wav: no such file"), (4, "stream[4]: no bytes"),
                        (5, "audio[5]: array of shape")):  # fmt: skip
        assert str(found[place]).startswith(text)
    assert told[-1] == (pytest.approx(3.51), pytest.approx(3.51)), "what was heard in vain is done too"
    assert [done for done, _ in told] == sorted(done for done, _ in told)


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
        list(listen_each([seconds(1)], None, RATE, spans, listen, progress, Crew(), raises=False))
    with AudioProgress(None, "", None) as progress, pytest.raises(DataError, match="take: array of shape"):
        raise next(listen_each([np.zeros((2, 9))], RATE, RATE, spans, listen, progress, Crew(), ["take"]))  # type: ignore[misc]


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
