"""Recordings of any length and number: heard in parts, decoded in batches, put together in order."""

import copy
import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import tiny

import speechmtp
from speechmtp import progress
from speechmtp.api import Recogniser
from speechmtp.audio.cut import cut_points
from speechmtp.audio.io import read_audio, write_audio
from speechmtp.bundle import load_without_heads
from speechmtp.crew import Crew
from speechmtp.decoding.sampling import SamplingConfig
from speechmtp.errors import ConfigError, DataError
from speechmtp.progress import Told
from speechmtp.transcripts import Transcript, decode_each, join_parts
from speechmtp.types import Result, Trace

RATE = 16000


@dataclass(frozen=True)
class Part:
    """Something heard."""

    name: str
    audio_seconds: float
    listen_seconds: float = 0.25
    language: str | None = "en"

    @property
    def size(self) -> int:
        return round(1000 * self.audio_seconds)


def parts(*lengths: float, name: str = "a") -> list[Part]:
    return [Part(f"{name}{i}", length) for i, length in enumerate(lengths)]


def heard_of(*recordings: list[Part] | DataError) -> Iterator[tuple[Part, bool] | DataError]:
    """The parts of recordings one after the other, each with whether it is its recording's last."""
    for one in recordings:
        if isinstance(one, DataError):
            yield one
        else:
            yield from ((part, part is one[-1]) for part in one)


def text_of(rows: list[Part]) -> list[Result]:
    return [Result(row.name, (), Trace()) for row in rows]


def speech(seconds: float, seed: int = 0) -> np.ndarray:
    return (0.1 * np.random.default_rng(seed).normal(size=round(seconds * RATE))).astype(np.float32)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Moonshine whose distribution stops after 20 tokens at the most."""
    return tiny.write_brief(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def recogniser(folder: Path) -> Recogniser:
    return speechmtp.load(str(folder), dtype="float64")


def test_parts_are_batched_by_size_and_put_together_in_order() -> None:
    recordings = [parts(9, 2, name="a"), parts(5, name="b"), parts(1, 8, 3, name="c")]
    calls: list[list[str]] = []
    noted: list[float] = []

    def decode(rows: list[Part]) -> list[Result]:
        calls.append([row.name for row in rows])
        return [Result(row.name, (len(calls),), Trace(calls=1, emitted=2, finished=True), 1.5) for row in rows]

    every = list(decode_each(heard_of(*recordings), decode, 2, Crew(), noted.append))
    found = [one for one in every if isinstance(one, Transcript)]
    assert calls == [["c1", "a0"], ["c2", "b0"], ["c0", "a1"]], "the longest first"
    assert [str(one) for one in found] == [one.text for one in found] == ["a0 a1", "b0", "c0 c1 c2"]
    assert "c0 c1" in found[2] and "a0 b0" not in found[0]
    assert [one.tokens for one in found] == [(1, 3), (2,), (3, 1, 2)]
    assert [(s.start, s.end, s.text, s.tokens) for s in found[2].segments] == [
        (0, 1, "c0", (3,)), (1, 9, "c1", (1,)), (9, 12, "c2", (2,)),
    ]  # fmt: skip
    assert [one.audio_seconds for one in found] == [11, 5, 12]
    assert [one.trace.emitted for one in found] == [4, 2, 6]
    assert [one.seconds for one in found] == [3.0, 1.5, 4.5], "each batch once"
    assert [one.listen_seconds for one in found] == [0.5, 0.25, 0.75]
    assert {one.language for one in found} == {"en"}
    assert noted == [17, 8, 3]


def test_errors_stay_in_their_places() -> None:
    first, last = DataError("first"), DataError("last")
    found = list(decode_each(heard_of(first, parts(1, name="a"), parts(2, 1, name="b"), last), text_of, 16, Crew()))
    assert found[0] is first and found[3] is last
    assert [str(one) for one in found[1:3]] == ["a0", "b0 b1"]
    assert list(decode_each([first], lambda rows: [], 16, Crew())) == [first]


def whole_of(*results: Result) -> Transcript:
    return join_parts(parts(*[1.0] * len(results)), results, 0.0)


def test_parts_draw_by_keys_of_their_own(recogniser: Recogniser) -> None:
    found = list(recogniser.listen_parts(speech(60.0), "take", 100))
    assert len(found) > 2 and [part.noise_key for part in found] == [100 + n for n in range(len(found))]


def test_flags_of_the_parts_are_those_of_the_whole() -> None:
    good, silent = Trace(calls=2, finished=True, gaps=[1.0]), Trace(finished=True, flags=("empty",))
    cut = Trace(calls=3, flags=("limit", "repetition"), gaps=[2.0, 3.0])

    def of(*traces: Trace) -> Transcript:
        return whole_of(*(Result("x", (), trace) for trace in traces))

    assert of(good, silent).flags == () and of(good, silent).trace.finished
    assert of(silent, silent).flags == ("empty",)
    whole = of(good, cut, silent)
    assert (whole.flags, whole.trace.finished, whole.trace.calls) == (("limit", "repetition"), False, 5)
    assert [segment.flags for segment in whole.segments] == [(), ("limit", "repetition"), ("empty",)]
    assert whole.trace.gaps == [1.0, 2.0, 3.0]
    assert of(good).trace is good


def test_log_probabilities_are_means_of_each_segment() -> None:
    whole = whole_of(*(Result("x", (), Trace(logprobs=found)) for found in ([-1.0, -2.0], [], [-0.5])))
    assert [segment.mean_logprob for segment in whole.segments] == [-1.5, None, -0.5]
    assert whole.trace.logprobs == [-1.0, -2.0, -0.5]


def test_silent_parts_leave_no_gap_in_the_text() -> None:
    assert str(whole_of(*(Result(text, (), Trace()) for text in ("one", "", " two ")))) == "one two"


def test_transcripts_compare_by_what_was_said_and_counted_and_can_be_stored() -> None:
    one = whole_of(Result("x", (1, 2), Trace(calls=2, flags=("limit",))))
    later = replace(one, seconds=9.0, listen_seconds=3.0)
    assert one == later and hash(one) == hash(later)
    assert one != replace(one, text="y") and one != replace(one, trace=Trace(calls=3))
    for copied in (pickle.loads(pickle.dumps(later)), copy.deepcopy(later)):
        assert copied == later and copied.seconds == 9.0 and copied.flags == ("limit",)


@pytest.mark.parametrize(("held", "seconds"), [(3, 1e9), (256, 3.0)])
def test_only_so_much_is_held(monkeypatch: pytest.MonkeyPatch, held: int, seconds: float) -> None:
    monkeypatch.setattr("speechmtp.transcripts.HELD", held)
    monkeypatch.setattr("speechmtp.transcripts.HELD_SECONDS", seconds)
    read: list[str] = []
    decoded: list[int] = []

    def decode(rows: list[Part]) -> list[Result]:
        decoded.append(len(rows))
        return text_of(rows)

    def heard() -> Iterator[tuple[Part, bool] | DataError]:
        recordings = (parts(*[1.0] * size, name=f"{number}.") for number, size in enumerate((1, 2, 1, 7, 1)))
        for one in heard_of(*recordings):
            read.append(one[0].name if isinstance(one, tuple) else "")
            yield one

    found = decode_each(heard(), decode, 16, Crew())
    assert (str(next(found)), read) == ("0.0", ["0.0", "1.0", "1.1"])
    assert [str(one) for one in found] == ["1.0 1.1", "2.0", " ".join(f"3.{n}" for n in range(7)), "4.0"]
    assert decoded == [3, 3, 3, 3], "a long recording's parts in several groups"


def test_nothing_more_is_decoded_of_a_recording_that_breaks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("speechmtp.transcripts.HELD", 2)
    names: list[str] = []
    noted: list[float] = []

    def decode(rows: list[Part]) -> list[Result]:
        names.extend(row.name for row in rows)
        return text_of(rows)

    def heard() -> Iterator[tuple[Part, bool] | DataError]:
        yield from ((part, False) for part in parts(1, 2, 3, name="a"))
        yield from heard_of(DataError("broken"), parts(4, name="b"))
        yield parts(5, name="c")[0], False
        raise KeyError("mine")

    found = decode_each(heard(), decode, 1, Crew(), noted.append)
    assert str(next(found)) == "broken" and str(next(found)) == "b0"
    with pytest.raises(KeyError):
        next(found)
    assert names == ["a1", "a0", "b0"] and noted == [2, 1, -3, 4]


def test_what_is_raised_comes_behind_the_transcripts_before_it(recogniser: Recogniser) -> None:
    def broken() -> np.ndarray:
        raise KeyError("mine")

    for sources in ([speech(1.0), broken], (speech(1.0) if n == 0 else {}[n] for n in range(2))):
        found = recogniser.transcribe_many(sources, RATE, on_error="return")
        assert isinstance(next(found), Transcript)
        with pytest.raises(KeyError):
            next(found)


def test_a_file_read_in_blocks_has_the_text_of_its_samples(
    recogniser: Recogniser, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_audio(tmp_path / "a.flac", speech(70.0), RATE)
    expected = recogniser.transcribe(read_audio(tmp_path / "a.flac")[0], RATE)
    monkeypatch.setattr("speechmtp.transcripts.HELD_SECONDS", 20.0)
    for jobs in (1, 2):
        with (tmp_path / "a.flac").open("rb") as file:
            assert recogniser.transcribe(file, jobs=jobs) == expected
    assert len(expected.segments) > 2


def test_a_long_recording_is_its_parts(recogniser: Recogniser) -> None:
    audio = speech(60)
    found = recogniser.transcribe(audio, RATE)
    spans = cut_points(audio, RATE)
    apart = [recogniser.transcribe(audio[start:end], RATE) for start, end in spans]
    assert len(found.segments) == len(spans) == 3
    assert found.text == " ".join(filter(None, (one.text.strip() for one in apart)))
    assert found.tokens == sum((one.tokens for one in apart), ())
    assert found.trace.calls == sum(one.trace.calls for one in apart)
    times = np.array([(segment.start, segment.end) for segment in found.segments])
    assert times == pytest.approx(np.array(spans) / RATE) and found.audio_seconds == pytest.approx(60)
    assert [segment.tokens for segment in found.segments] == [one.tokens for one in apart]
    assert recogniser.transcribe(audio, RATE) == found


def test_many_are_as_each_alone_whatever_the_batch(recogniser: Recogniser, tmp_path: Path) -> None:
    audios = [speech(length, seed) for seed, length in enumerate((3.0, 27.0, 1.5, 0.7))]
    alone = [recogniser.transcribe(audio, RATE) for audio in audios]
    for batch in (1, 3, 16):
        found = list(recogniser.transcribe_many(audios, RATE, batch=batch))
        assert [one.tokens for one in found] == [one.tokens for one in alone]
    path = tmp_path / "a.wav"
    write_audio(path, audios[0], RATE)
    assert next(recogniser.transcribe_many([path, audios[1]], RATE)).tokens


def test_an_error_is_raised_behind_what_came_before_it_or_stands_in_its_place(recogniser: Recogniser) -> None:
    audio = speech(1.0)
    sources = [audio, audio[:100], lambda: audio, "none.wav"]
    found = recogniser.transcribe_many(sources, RATE)
    assert next(found) == recogniser.transcribe(audio, RATE)
    with pytest.raises(DataError, match=r"audio\[1\]: 0.006 s are too short"):
        next(found)
    done = list(recogniser.transcribe_many(iter(sources), RATE, on_error="return"))
    assert [type(one) for one in done] == [Transcript, DataError, Transcript, DataError]
    assert done[0] == done[2] and "none.wav" in str(done[3])


def test_bars_are_closed_with_the_last_text(recogniser: Recogniser, monkeypatch: pytest.MonkeyPatch) -> None:
    closed: list[str] = []

    @contextmanager
    def bar(label: str) -> Iterator[Told]:
        yield lambda done, total: None
        closed.append(label)  # not where the run is given up

    monkeypatch.setattr(progress, "counter", bar)
    recogniser.transcribe(speech(1.0), RATE, progress=True)
    assert closed == ["transcribing"]


def test_progress_of_many(recogniser: Recogniser, capsys: pytest.CaptureFixture[str]) -> None:
    told: list[tuple[float, float | None]] = []
    audios = [speech(30.0), speech(0.001), speech(2.0)]
    list(recogniser.transcribe_many(audios, RATE, "", 1, "return", lambda *seconds: told.append(seconds), jobs=1))
    assert told[0][1] is None
    done = [seconds for seconds, _ in told]
    assert done == sorted(done) and told[-1] == (pytest.approx(32.001),) * 2
    assert len(told) >= 6, "after every part that is heard, and every batch"
    told.clear()
    recogniser.transcribe(audios[2], RATE, progress=lambda *seconds: told.append(seconds))
    assert told[-1] == (2.0, 2.0)
    list(recogniser.transcribe_many(audios[2:], RATE, progress=True))
    assert capsys.readouterr().err == "", "no bar where there is no terminal"


def test_noise_is_of_the_recordings_keys_whatever_the_batch(recogniser: Recogniser) -> None:
    hot, audios = SamplingConfig(temperature=2.0, seed=3), [speech(3.0), speech(27.0, 1), speech(2.0, 2)]
    keys = [7, 5, 9]
    alone = [
        next(recogniser.transcribe_many([audio], RATE, sampling=hot, noise_keys=[key]))
        for audio, key in zip(audios, keys)
    ]
    assert list(recogniser.transcribe_many(audios, RATE, "", 2, sampling=hot, noise_keys=keys)) == alone
    assert alone != list(recogniser.transcribe_many(audios, RATE, sampling=hot))
    counted = list(recogniser.transcribe_many(audios, RATE, sampling=hot, noise_keys=[0, 1, 3]))
    assert counted == list(recogniser.transcribe_many(audios, RATE, sampling=hot)), "parts are counted"
    with pytest.raises(ConfigError, match="1 noise_keys for more recordings"):
        list(recogniser.transcribe_many(audios, RATE, noise_keys=[1]))


def test_long_recordings_of_every_kind_of_model() -> None:
    an4 = speechmtp.load("an4")
    once = read_audio(speechmtp.example("digits"), an4.rate)[0]
    audio = np.concatenate([once, np.zeros(round(24 * an4.rate) - len(once), np.float32), once])
    found = an4.transcribe(audio, an4.rate)
    assert len(found.segments) == 2
    assert found.text == " ".join(str(an4.transcribe(audio[a:b], an4.rate)) for a, b in cut_points(audio, an4.rate))
    assert found.text.startswith("FOUR TWO SEVEN NINE ") and found.text.endswith(" SEVEN NINE")


def test_the_strategy_that_nobody_chose(recogniser: Recogniser, folder: Path, tmp_path: Path) -> None:
    assert recogniser.default_strategy.name == "ar"
    with_heads = replace(recogniser.bundle, heads={"own": tiny.heads("latent", 3, shape=shape(recogniser))})
    speaker = Recogniser(with_heads, recogniser.device, recogniser.dtype)
    assert speaker.default_strategy.label == "verify:depth=3", "as deep as the heads"
    named = replace(with_heads, config=replace(with_heads.config, strategy="verify:depth=2"))
    assert Recogniser(named, recogniser.device, recogniser.dtype).default_strategy.label == "verify:depth=2"
    assert speechmtp.load("an4").default_strategy.label == "ctc", "named by its folder"
    an4 = load_without_heads("an4")
    for heads, label in (({}, "ctc"), (speechmtp.load("an4").bundle.heads, "ctc-heads:depth=7,theta=0.9")):
        plain = replace(an4, config=replace(an4.config, strategy=""), heads=heads)
        assert Recogniser(plain, recogniser.device, speechmtp.load("an4").dtype).default_strategy.label == label
    default = speechmtp.load("default").bundle
    both = Recogniser(
        replace(default, config=replace(default.config, strategy="")), recogniser.device, speechmtp.load("an4").dtype
    )
    assert both.has_ctc and both.bundle.heads and both.default_strategy.name == "verify"
    wrong = replace(with_heads, config=replace(with_heads.config, strategy="verfy"))
    with pytest.raises(ConfigError, match="did you mean 'verify'"):
        _ = Recogniser(wrong, recogniser.device, recogniser.dtype).default_strategy


def shape(recogniser: Recogniser) -> object:
    return recogniser.bundle.model.trunk.shape
