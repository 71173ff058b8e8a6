"""A recording that is transcribed part by part, as its parts come."""

import numpy as np
import pytest

import speechmtp
from speechmtp.audio.io import read_audio
from speechmtp.errors import DataError


def test_parts_have_the_words_and_times_of_the_whole() -> None:
    recogniser = speechmtp.load("default", device="cpu")
    samples = np.tile(read_audio(speechmtp.example("reading"))[0], 5)
    whole = recogniser.transcribe(samples, recogniser.rate, words=True, jobs=1)
    cutter, parts, start = recogniser.cutter(), [], 0.0
    for part in [*cutter.push(samples), *cutter.finish()]:
        parts.append(recogniser.transcribe_part(part.samples, start, words=True))
        start = parts[-1].audio_seconds
    assert len(parts) > 1
    assert " ".join(part.text for part in parts) == whole.text
    assert [segment for part in parts for segment in part.segments] == pytest.approx(list(whole.segments))
    assert parts[1].segments[0].start == pytest.approx(parts[0].audio_seconds)


def test_without_words_a_part_is_a_segment() -> None:
    recogniser = speechmtp.load("an4", device="cpu")
    samples, _ = read_audio(speechmtp.example("digits"))
    found = recogniser.transcribe_part(samples, 5.0, logprobs=True)
    [segment] = found.segments
    assert (segment.start, segment.end) == pytest.approx((5.0, 5.0 + len(samples) / recogniser.rate))
    assert found.text == "FOUR TWO SEVEN NINE" and segment.mean_logprob is not None and not segment.words
    with pytest.raises(DataError, match=r"mine: .* too short"):
        recogniser.transcribe_part(samples[:9], name="mine")
