"""The last seconds of a recording."""

import numpy as np
import pytest

from speechmtp.streaming.history import History


@pytest.mark.parametrize("seed", range(5))
def test_a_cut_is_that_of_the_whole(seed: int) -> None:
    rng = np.random.default_rng(seed)
    whole, history, forgotten = rng.standard_normal(200_000).astype(np.float32), History(), 0
    while history.end < len(whole):
        history.append(whole[history.end : history.end + int(rng.integers(0, 30_000))])
        start = int(rng.integers(forgotten, history.end + 1))
        end = int(rng.integers(start, history.end + 1))
        assert np.array_equal(history.cut(start, end), whole[start:end])
        assert np.array_equal(history.cut(start, history.end + 99), whole[start : history.end])
        if rng.random() < 0.5:
            forgotten = max(forgotten, int(rng.integers(0, history.end + 1)))
            history.forget(forgotten)
        assert history.begin == forgotten
    assert len(history.cut(0, forgotten)) == 0


def test_memory_follows_what_is_kept() -> None:
    history = History()
    for _ in range(300):
        history.append(np.ones(16_000, np.float32))
        history.forget(history.end - 8_000)
        assert len(history._samples) < 1 << 17
