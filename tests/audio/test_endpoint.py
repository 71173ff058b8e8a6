"""Start and stop of speech, by hand-made probabilities of frames of 32 ms."""

import pytest

from speechmtp.audio.endpoint import ActivityConfig, ActivityDetector, frames_of
from speechmtp.errors import ConfigError

SOME = ActivityConfig(min_speech_ms=96, min_silence_ms=160, speech_pad_ms=64)  # 3, 5 and 2 frames


def changes(probabilities: list[float], config: ActivityConfig = SOME) -> list[tuple[int, str, int]]:
    """The frame at which each change is told, its kind, and the frame that it is about."""
    detector, found = ActivityDetector(config), []
    for number, probability in enumerate(probabilities):
        if (change := detector.push(probability)) is not None:
            found.append((number, change.kind, change.frame))
    if (change := detector.finish()) is not None:
        found.append((len(probabilities), change.kind, change.frame))
    return found


def test_speech_starts_and_stops_with_padding() -> None:
    assert changes([0.0] * 10 + [0.9] * 6 + [0.0] * 10) == [(12, "started", 8), (20, "stopped", 18)]


def test_a_click_is_no_speech() -> None:
    assert changes([0.0] * 5 + [0.9] * 2 + [0.0] + [0.9] * 2 + [0.0] * 9) == []
    assert changes([0.9] * 3) == [(2, "started", 0), (3, "stopped", 3)], "neither end is beyond the recording"


def test_between_the_thresholds_speech_goes_on_but_does_not_start() -> None:
    assert changes([0.4] * 20) == []
    assert changes([0.9] + [0.4] * 9) == [(2, "started", 0), (10, "stopped", 10)]
    assert changes([0.9] + [0.34] * 9) == []
    assert changes([0.9] * 3 + [0.34, 0.4] * 5) == [(2, "started", 0), (7, "stopped", 5)], "a pause takes 0.5 to end"
    low = ActivityConfig(threshold=0.1, hysteresis=0.2, min_silence_ms=160)
    assert changes([0.1] * 3 + [0.009] * 5, low)[-1] == (7, "stopped", 8), "the lower threshold is never below 0.01"
    assert changes([0.5] * 3 + [0.0] * 2)[0] == (2, "started", 0), "the threshold itself is speech"


def test_a_short_pause_stops_nothing() -> None:
    assert changes([0.9] * 3 + [0.0] * 4 + [0.9] + [0.0] * 4) == [(2, "started", 0), (12, "stopped", 10)]


def test_padding_does_not_reach_into_the_speech_before() -> None:
    config = ActivityConfig(min_speech_ms=32, min_silence_ms=64, speech_pad_ms=64)
    assert changes([0.9, 0.0, 0.0, 0.9, 0.0, 0.0], config) == [
        (0, "started", 0), (2, "stopped", 3), (3, "started", 3), (5, "stopped", 6),
    ]  # fmt: skip
    wide = ActivityConfig(min_speech_ms=0, min_silence_ms=0, speech_pad_ms=320)
    assert changes([0.9, 0.0], wide) == [(0, "started", 0), (1, "stopped", 2)], "no end is in the future"


def test_pauses_and_the_last_speech_are_known_at_every_frame() -> None:
    detector = ActivityDetector(SOME)
    seen = []
    for probability in [0.0, 0.9, 0.0, 0.9, 0.9, 0.9, 0.0, 0.0, 0.9, 0.0]:
        detector.push(probability)
        seen.append((detector.pause, detector.last_speech, detector.speaking))
    assert [pause for pause, _, _ in seen] == [1, 0, 1, 0, 0, 0, 1, 2, 0, 1]
    assert [last for _, last, _ in seen] == [None] * 5 + [5, 5, 5, 8, 8]
    assert [speaking for _, _, speaking in seen] == [False] * 5 + [True] * 5 and detector.frames == 10


def test_times_are_whole_frames() -> None:
    assert [frames_of(ms) for ms in (0, 1, 32, 33, 96, 500)] == [0, 1, 1, 2, 3, 16]
    assert ActivityDetector().config == ActivityConfig()
    soon = ActivityConfig(min_silence_ms=500, speech_pad_ms=300)
    assert changes([0.9] * 3 + [0.0] * 16, soon) == [(2, "started", 0), (18, "stopped", 13)]


@pytest.mark.parametrize(
    "values", [{"threshold": 1.5}, {"hysteresis": -0.1}, {"min_silence_ms": -1}, {"speech_pad_ms": 10**6}]
)
def test_absurd_settings_are_refused(values: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=f"activity: {next(iter(values))}="):
        ActivityConfig(**values)  # type: ignore[arg-type]
