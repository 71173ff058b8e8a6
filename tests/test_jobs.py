"""Recordings are heard and decoded by several worker threads: the same transcripts in the same order whatever their
number, errors in their places, and a prompt end."""

import gc
import signal
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import pytest
import tiny
import torch

import speechmtp
from speechmtp import api
from speechmtp.api import Recogniser
from speechmtp.batching import batches_by_size, rows_for
from speechmtp.crew import Crew
from speechmtp.decoding.sampling import SamplingConfig
from speechmtp.errors import ConfigError, DataError
from speechmtp.transcripts import Transcript, decode_each
from speechmtp.types import Result, Trace

RATE = 16000


def speech(seconds: float, seed: int = 0) -> np.ndarray:
    return (0.1 * np.random.default_rng(seed).normal(size=round(seconds * RATE))).astype(np.float32)


RECORDINGS = [speech(length, seed) for seed, length in enumerate((3.0, 32.0, 1.5, 0.7, 1.0))]


@pytest.fixture(scope="module")
def recogniser(tmp_path_factory: pytest.TempPathFactory) -> Recogniser:
    """A tiny Moonshine with heads, whose distribution stops after 20 tokens at the most."""
    plain = speechmtp.load(str(tiny.write_brief(tmp_path_factory.mktemp("tiny"))), dtype="float64")
    heads = tiny.heads("latent", 3, shape=plain.bundle.model.trunk.shape)
    return Recogniser(replace(plain.bundle, heads={"own": heads}), plain.device, plain.dtype)


@pytest.fixture
def often() -> Iterator[None]:
    """Threads that take turns all the time."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(before)


@pytest.mark.parametrize(
    ("items", "rows", "workers", "expected"),
    [(256, 16, 1, 16), (256, 16, 2, 16), (256, 16, 12, 11), (40, 16, 2, 10), (40, 4, 2, 4), (7, 16, 2, 4),
     (7, 16, 4, 2), (1, 16, 2, 1), (3, 16, 8, 1), (5, 1, 2, 1), (0, 16, 2, 16), (7, 16, 1, 16)],
)  # fmt: skip
def test_batches_are_as_small_as_every_worker_needs_them(items: int, rows: int, workers: int, expected: int) -> None:
    assert rows_for(items, rows, workers) == expected
    batches = len(batches_by_size(range(items), expected))
    assert batches >= min(items, workers)


@dataclass(frozen=True)
class Part:
    audio_seconds: float
    listen_seconds: float = 0.0
    language: str | None = None

    @property
    def size(self) -> int:
        return round(self.audio_seconds)


def test_every_worker_has_a_batch_of_few_parts_and_both_decode_at_once() -> None:
    together = threading.Barrier(2)

    def decode(rows: list[Part]) -> list[Result]:
        together.wait(20)
        return [Result(f"{row.size}", (), Trace(), 1.0) for row in rows]

    with Crew(2) as crew:
        [found] = decode_each([(Part(3), False), (Part(1), False), (Part(2), True)], decode, 16, crew)
    assert isinstance(found, Transcript) and str(found) == "3 1 2" and found.seconds == 2.0


@pytest.mark.parametrize("strategy", ["ar", "verify:depth=2", "verify:depth=3,length=cost"])
def test_transcripts_are_the_same_whatever_the_number_of_jobs(
    recogniser: Recogniser, strategy: str, often: None
) -> None:
    for sampling in (None, SamplingConfig(temperature=2.0, seed=3)):
        expected = list(recogniser.transcribe_many(RECORDINGS, RATE, strategy, jobs=1, sampling=sampling))
        assert len(expected[1].segments) == 2
        for jobs, batch in ((2, 16), (5, 1)):
            found = list(recogniser.transcribe_many(RECORDINGS, RATE, strategy, batch, jobs=jobs, sampling=sampling))
            assert [(one.text, one.tokens) for one in found] == [(one.text, one.tokens) for one in expected]


def test_noise_keys_count_parts_whatever_the_number_of_jobs(recogniser: Recogniser) -> None:
    hot = SamplingConfig(temperature=2.0, seed=3)
    keys = [0, 1, 3, 4, 5]
    counted = list(recogniser.transcribe_many(RECORDINGS, RATE, sampling=hot, jobs=2))
    given = list(recogniser.transcribe_many(RECORDINGS, RATE, sampling=hot, jobs=2, noise_keys=keys))
    assert [one.tokens for one in counted] == [one.tokens for one in given]
    assert [one.tokens for one in given] != [
        one.tokens for one in recogniser.transcribe_many(RECORDINGS, RATE, sampling=hot, noise_keys=keys[::-1])
    ]


@pytest.mark.parametrize("jobs", [1, 2])
def test_errors_are_in_their_places(recogniser: Recogniser, jobs: int) -> None:
    short, broken = speech(0.001), np.concatenate([speech(26), [np.nan]])
    sources = [RECORDINGS[0], short, "none.wav", broken, lambda: RECORDINGS[2], np.zeros((2, 9))]
    found = list(recogniser.transcribe_many(iter(sources), RATE, on_error="return", jobs=jobs))
    kinds = [Transcript, DataError, DataError, DataError, Transcript, DataError]
    assert [type(one) for one in found] == kinds
    for place, text in ((1, "audio[1]: "), (2, "none.wav: no such file"), (3, "audio[3]: "), (5, "audio[5]: ")):
        assert str(found[place]).startswith(text)
    raised = recogniser.transcribe_many(sources, RATE, jobs=jobs)
    assert next(raised) == found[0]
    with pytest.raises(DataError, match=r"audio\[1\]"):
        next(raised)


def test_other_exceptions_of_workers_are_raised(recogniser: Recogniser, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*args: object, **more: object) -> None:
        raise MemoryError("mine")

    monkeypatch.setattr(recogniser, "decode", broken)
    with pytest.raises(MemoryError, match="mine"):
        list(recogniser.transcribe_many(RECORDINGS, RATE, jobs=2))
    monkeypatch.undo()
    monkeypatch.setattr(recogniser, "listen", broken)
    with pytest.raises(MemoryError, match="mine"):
        recogniser.transcribe(RECORDINGS[0], RATE, jobs=2)
    assert not workers()


def test_sources_and_progress_are_called_in_the_callers_thread(recogniser: Recogniser) -> None:
    threads: list[int] = []
    told: list[tuple[float, float | None]] = []

    def source() -> np.ndarray:
        threads.append(threading.get_ident())
        return RECORDINGS[1]

    def tell(done: float, total: float | None) -> None:
        threads.append(threading.get_ident())
        told.append((done, total))

    list(recogniser.transcribe_many([source, speech(0.001), source], RATE, "", 1, "return", tell, jobs=2))
    assert set(threads) == {threading.get_ident()}
    done = [seconds for seconds, _ in told]
    assert done == sorted(done) and told[-1] == (pytest.approx(64.001),) * 2
    assert len(told) >= 8, "after every part that is heard, and every batch"


def test_a_few_parts_are_read_ahead(recogniser: Recogniser, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("speechmtp.transcripts.HELD", 8)
    monkeypatch.setattr("speechmtp.listening.AHEAD", 3)
    read: list[int] = []

    def items() -> Iterator[np.ndarray]:
        for number in range(40):
            read.append(number)
            yield RECORDINGS[2]

    found = recogniser.transcribe_many(items(), RATE, jobs=2)
    assert not read
    next(found)
    assert 8 <= len(read) <= 8 + 3 + 2 + 1
    assert len(list(found)) == 39


def workers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "speechmtp worker"]


def test_a_run_that_is_given_up_ends_its_workers(recogniser: Recogniser, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("speechmtp.transcripts.HELD", 2)
    found = recogniser.transcribe_many(RECORDINGS * 3, RATE, jobs=2)
    next(found)
    assert len(workers()) == 2
    found.close()  # type: ignore[attr-defined]
    assert not workers()
    found = recogniser.transcribe_many(RECORDINGS * 3, RATE, jobs=2)
    next(found)
    del found
    gc.collect()
    assert not workers()


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="needs timers")
@pytest.mark.parametrize("what", ["listen", "decode"])
def test_ctrl_c_ends_a_run_at_once(recogniser: Recogniser, monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    def long(*args: object, **more: object) -> None:
        while True:
            time.sleep(0.001)

    def interrupt(*args: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(recogniser, what, long)
    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.5)
        began = time.monotonic()
        with pytest.raises(KeyboardInterrupt):
            list(recogniser.transcribe_many(RECORDINGS, RATE, jobs=2))
        assert time.monotonic() - began < 5
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert not workers()


def test_workers_have_one_arithmetic_thread_and_as_many_as_there_are_cores(
    recogniser: Recogniser, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[str, int]] = []
    listen = Recogniser.listen

    def noting(self: Recogniser, *args: object) -> object:
        seen.append((threading.current_thread().name, torch.get_num_threads()))
        return listen(self, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(Recogniser, "listen", noting)
    sizes: list[tuple[int, int]] = []
    monkeypatch.setattr(api, "Crew", lambda size, threads: sizes.append((size, threads)) or Crew(size, threads))
    monkeypatch.setattr(api, "cores", lambda: 3)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        recogniser.transcribe(RECORDINGS[1], RATE)
        list(recogniser.transcribe_many(RECORDINGS[:1], RATE, jobs=2, threads=3))
        recogniser.transcribe(RECORDINGS[0], RATE, jobs=1)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    worker = "speechmtp worker"
    assert seen == [(worker, 1)] * 2 + [(worker, 3), (threading.current_thread().name, 2)]
    monkeypatch.setattr(recogniser, "device", torch.device("meta"))
    recogniser.transcribe(RECORDINGS[0], RATE)
    assert sizes == [(3, 1), (2, 3), (1, 1), (1, 1)], "one where the device is no CPU"


@pytest.mark.parametrize("wrong", [{"jobs": 0}, {"jobs": -1}, {"threads": 0}])
def test_less_than_one_job_is_refused(recogniser: Recogniser, wrong: dict[str, int]) -> None:
    [(name, value)] = wrong.items()
    with pytest.raises(ConfigError, match=f"transcribe_many: {name}={value}, expected 1 or more"):
        recogniser.transcribe_many(RECORDINGS, RATE, **wrong)  # type: ignore[call-overload]


def test_two_threads_share_the_default_model_with_all_that_it_has(often: None) -> None:
    default = speechmtp.load("default", device="cpu")
    files = [speechmtp.example(name) for name in ("digits", "date")]
    for strategy in ("verify:depth=3", "ctc-heads"):
        expected = list(default.transcribe_many(files, strategy=strategy, batch=1, jobs=1))
        assert list(default.transcribe_many(files, strategy=strategy, batch=1, jobs=2)) == expected
