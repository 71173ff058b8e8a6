"""Speech from text with a small voice of random weights: lengths, times, seeds, drafts, streams and errors."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from small_voice import SAMPLING, save_small_voice, small_synthesiser
from torch import Tensor

import speechmtp
from speechmtp.codec.contract import FRAME, RATE
from speechmtp.errors import CheckpointError, ConfigError, DataError
from speechmtp.synthesis import Synthesiser, marks_of

TEXT = "Hello there, Dr. Smith. It costs $3.50 today! Is that all?"


@pytest.fixture(scope="module")
def voice() -> Synthesiser:
    return small_synthesiser()


def test_speech_is_as_long_as_planned_and_its_words_stand_in_order(voice: Synthesiser) -> None:
    speech, planned = voice.synthesize(TEXT), list(voice.plan(TEXT))
    assert len(speech.audio) == sum(one.samples for one in planned) > 0
    assert np.isfinite(speech.audio).all() and np.abs(speech.audio).max() <= 1
    assert [mark.text for mark in speech.marks] == ["Hello", "there", "Dr.", "Smith", "It", "costs", "$3.50", "today",
                                                    "Is", "that", "all"]  # fmt: skip
    assert all(TEXT[mark.begin : mark.end] == mark.text for mark in speech.marks)
    times = [time for mark in speech.marks for time in (mark.start, mark.stop)]
    assert times == sorted(times) and times[-1] <= speech.seconds
    assert speech.trace.emitted == sum(one.spans.tokens for one in planned if one.spans)
    assert speech.trace.finished and not speech.trace.flags


def test_one_seed_gives_one_recording_whatever_is_drafted_and_how_many_speak_together() -> None:
    voice = small_synthesiser(torch.float64)  # differences of rounding would decide near-ties in float32
    tokens = {}
    for strategy in ("ar", "verify:heads=chain,depth=3", "verify:heads=block,depth=3", "verify:depth=1"):
        for batch in (1, 8):
            requests = [one.request for one in voice.plan(TEXT) if one.request]
            found = []
            for start in range(0, len(requests), batch):
                found += voice.decode(requests[start : start + batch], voice.chosen(strategy), SAMPLING)
            tokens[strategy, batch] = [one.tokens for one in found]
    assert all(found == tokens["ar", 1] for found in tokens.values())
    again = voice.decode(requests, voice.chosen("ar"), replace(SAMPLING, seed=1))
    assert [one.tokens for one in again] != tokens["ar", 1]


def test_drafts_are_accepted_in_sampling(voice: Synthesiser) -> None:
    plain, drafted = (voice.synthesize(TEXT, strategy) for strategy in ("ar", "verify:heads=chain,depth=3"))
    assert plain.trace.calls == plain.trace.emitted
    assert drafted.trace.num_accepted_tokens > 0 and drafted.trace.calls < plain.trace.calls


def test_a_stream_is_the_whole_sentence_by_sentence(voice: Synthesiser) -> None:
    whole, parts = voice.synthesize(TEXT, seed=3), list(voice.stream(TEXT, seed=3))
    assert len(parts) == 3
    assert np.array_equal(np.concatenate([part.audio for part in parts]), whole.audio)
    assert [mark for part in parts for mark in part.marks] == list(whole.marks)
    assert not np.array_equal(voice.synthesize(TEXT, seed=4).audio, whole.audio)


def test_speed_and_pauses_change_lengths(voice: Synthesiser) -> None:
    slow, usual, fast = (voice.synthesize(TEXT, speed=speed).seconds for speed in (0.7, 1.0, 1.4))
    assert slow == pytest.approx(usual / 0.7, rel=0.02) and fast == pytest.approx(usual / 1.4, rel=0.02)
    without, given = voice.synthesize("One two."), voice.synthesize("One [pause 700ms] two.")
    first, second = given.marks
    assert second.start - first.stop >= 0.7
    assert given.seconds > without.seconds + 0.5


def test_a_text_that_cannot_be_read_is_silent_and_says_so(voice: Synthesiser) -> None:
    assert voice.synthesize("").seconds == 0
    speech = voice.synthesize("你好")
    assert speech.seconds == 0 and speech.skipped
    mixed = voice.synthesize("Hello 你好 there.")
    assert mixed.seconds > 0 and mixed.skipped and [mark.text for mark in mixed.marks] == ["Hello", "there"]


@dataclass(frozen=True)
class Always:
    """A processor that leaves one token."""

    token: int
    reads_prefix: bool = False

    def __call__(self, logits: Tensor, index: Tensor, prefixes: Callable[[], object]) -> Tensor:
        """Logits of this token alone."""
        only = torch.full_like(logits, torch.finfo(logits.dtype).min)
        only[..., self.token] = 0
        return only


def test_a_held_silence_is_no_repetition_and_a_held_vowel_is(voice: Synthesiser) -> None:
    [one] = voice.plan("Hello. [pause 2s]")
    assert one.request is not None
    for token, flags in ((0, ()), (17, ()), (voice.codec.size - 1, ("repetition",))):
        request = replace(one.request, processors=(Always(token),))
        [found] = voice.decode([request], voice.chosen("ar"), SAMPLING)
        assert set(found.tokens) == {token} and found.trace.flags == flags


def test_marks_leave_out_silence(voice: Synthesiser) -> None:
    [one] = voice.plan("Hello, you.")
    assert one.spans is not None
    first, second = marks_of(one, 2.0)
    assert first.start == pytest.approx(2 + FRAME / RATE * one.spans.frames[0])  # the pad before it is silent
    comma = [unit.symbol for unit in one.sentence.units].index(",") + 1
    assert first.stop == pytest.approx(2 + FRAME / RATE * one.spans.frames[:comma].sum())
    assert second.start > first.stop


def test_saved_speech_is_read_back(voice: Synthesiser, tmp_path: Path) -> None:
    speech = voice.synthesize("Hello there.")
    speech.save(tmp_path / "hello.wav")
    audio, rate = soundfile.read(tmp_path / "hello.wav")
    assert rate == 24000 and len(audio) == len(speech.audio)
    assert np.abs(audio - speech.audio).max() < 1e-4
    with pytest.raises(DataError, match=r"hello\.xyz.*extension"):
        speech.save(tmp_path / "hello.xyz")


def test_a_voice_folder_is_loaded_with_its_codec_heads_and_sampling(tmp_path: Path) -> None:
    folder = save_small_voice(tmp_path / "small")
    loaded, made = speechmtp.load_voice(folder), small_synthesiser()
    assert set(loaded.bundle.heads) == {"chain", "block"} and loaded.bundle.config.sampling == SAMPLING
    assert np.array_equal(loaded.synthesize("Hello there.", "ar").audio, made.synthesize("Hello there.", "ar").audio)


def test_errors_name_the_thing_and_the_mend(voice: Synthesiser, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"an4: a recogniser, expected a voice.*speechmtp\.load"):
        speechmtp.load_voice("an4")
    folder = save_small_voice(tmp_path / "small")
    with pytest.raises(CheckpointError, match=r"a voice, expected a recogniser.*load_voice"):
        speechmtp.load(folder)
    with pytest.raises(ConfigError, match=r"speed=2: expected 0\.7 to 1\.4"):
        voice.synthesize("Hello.", speed=2)
    with pytest.raises(ConfigError, match="batch=0"):
        voice.synthesize("Hello.", batch=0)
    with pytest.raises(DataError, match="emphasis"):
        voice.synthesize("<speak><emphasis>Hello</emphasis></speak>", markup="ssml")
    (folder / "codec" / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"model\.safetensors"):
        speechmtp.load_voice(folder)
