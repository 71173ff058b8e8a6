"""What another's live transcriber said, as the benchmark keeps it: by a stream that is written down."""

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from scripts import imported

from speechmtp.evaluation.latency import FeedConfig
from speechmtp.evaluation.live_delays import Shown

UPDATES = [[("one", False)], [("one two", True), ("thee", False)], [("one two", True), ("three", True)]]


class Stream:
    """Says the next of `UPDATES` after each half second, and the last one at its end."""

    def __init__(self) -> None:
        self.said, self.heard, self.closed = iter(UPDATES), 0, False

    def start(self) -> None:
        """Nothing to do."""

    def add_audio(self, samples: list[float], rate: int) -> None:
        """Count samples."""
        assert rate == 16000
        self.heard += len(samples)
        if self.heard % 8000 == 0:
            self.update_transcription(0)

    def update_transcription(self, flags: int = 0) -> Any:
        """Lines by number, text and whether they are complete."""
        lines = enumerate(next(self.said))
        return SimpleNamespace(
            lines=[SimpleNamespace(line_id=i, text=f" {text} ", is_complete=whole) for i, (text, whole) in lines]
        )

    def stop(self) -> Any:
        """The last update."""
        return self.update_transcription(0)

    def close(self) -> None:
        """It is over."""
        self.closed = True


@pytest.fixture
def scripts() -> Iterator[list[Any]]:
    """The script and its side."""
    with imported("live_peers", "live_peers_side") as found:
        yield found


def test_words_count_once_their_line_is_complete(scripts: list[Any]) -> None:
    main, side = scripts
    stream, intervals = Stream(), []

    def create_stream(update_interval: float) -> Stream:
        intervals.append(update_interval)
        return stream

    transcriber = SimpleNamespace(create_stream=create_stream)
    answer = side.heard(transcriber, np.zeros(12000, np.float32), FeedConfig(silence=0.5), 0.5)
    assert intervals == [0.5] and stream.closed and stream.heard == 20000 and answer["updates"] == 3
    said = main.said_by(answer)
    assert said.text == "one two three" and said.words == (("one", 1.0), ("two", 1.0), ("three", 1.25))
    assert said.shown == (Shown(0.5, "one"), Shown(1.0, "one two thee"), Shown(1.25, "one two three"))
    assert said.ends == ((1.0, 2),), "the last line was ended by the stop"


def test_pieces_hold_all_samples_and_the_silence() -> None:
    samples = np.arange(1, 1001, dtype=np.float32)
    pieces = FeedConfig(piece_ms=20, silence=0.01).pieces(samples, 16000)
    assert [len(piece) for piece in pieces] == [320, 320, 320, 200]
    assert np.array_equal(np.concatenate(pieces), np.concatenate([samples, np.zeros(160, np.float32)]))
    assert [len(piece) for piece in FeedConfig(piece_ms=5, silence=0.0).pieces(samples[:101], 11025)] == [55, 46]
    assert [len(piece) for piece in FeedConfig(piece_ms=20, silence=0.0).pieces(samples[:640], 16000)] == [320, 320]
