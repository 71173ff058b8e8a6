"""Decoding of `unit25`: the same bits for any cutting, exact lengths, and no more context than is told."""

import numpy as np
import pytest

from speechmtp.codec.contract import Spans
from speechmtp.errors import ConfigError, DataError
from tests.codec.codec_scenes import random_spans, random_tokens, tiny_codec

CODEC = tiny_codec()


def pulled(spans: Spans, tokens: list[int], size: int, seed: int = 3) -> np.ndarray:
    state = CODEC.stream(spans, seed)
    parts = [CODEC.step(tokens[at : at + size], state) for at in range(0, len(tokens), size)]
    return np.concatenate([*parts, CODEC.flush(state)])


@pytest.mark.parametrize("seed", range(3))
def test_pulls_of_any_size_give_the_bits_of_decode(seed: int) -> None:
    spans = random_spans(seed, words=14)
    tokens = random_tokens(CODEC, spans, seed)
    whole = CODEC.decode(tokens, spans, 3)
    assert whole.dtype == np.float32 and whole.std() > 1e-3
    for size in (1, 3, 7, 25, 60):
        assert np.array_equal(pulled(spans, tokens, size), whole), size


def test_samples_come_as_soon_as_two_more_tokens_are_known() -> None:
    spans = Spans(np.array([0, 5, 0]), np.array([0, 0, 0]), np.array([20, 40, 20]))
    state = CODEC.stream(spans)
    sizes = [len(CODEC.step([1], state)) for _ in range(spans.tokens)]
    first = 4800 - 600  # half a window is held back
    assert sizes == [0] * 6 + [first] + [0] * 4 + [4800] + [0] * 4 + [4800] + [0] * 4 + [4800] + [0, 0, 4800]
    assert len(CODEC.flush(state)) == 600 and len(CODEC.flush(state)) == 0


def test_an_utterance_lasts_as_its_spans() -> None:
    for frames in (1, 2, 3, 15, 16, 17, 18, 31, 32, 33, 50):
        spans = Spans(np.array([4]), np.array([0]), np.array([frames]))
        assert len(CODEC.decode([5] * spans.tokens, spans)) == 300 * frames
        assert len(pulled(spans, [5] * spans.tokens, 1)) == 300 * frames


def test_a_changed_token_changes_nothing_before_its_context() -> None:
    spans = random_spans(1, words=14)
    tokens = random_tokens(CODEC, spans)
    before = CODEC.decode(tokens, spans)
    for at in range(0, len(tokens), 3):
        other = tokens.copy()
        other[at] = (other[at] + 31) % CODEC.size
        changed = np.flatnonzero(CODEC.decode(other, spans) != before)
        assert len(changed), at  # tokens are heard
        quantum = max(0, (at - 2) // 5)  # the first that knows it, and half a window before
        assert changed[0] >= 4800 * quantum - 600


def test_units_two_words_on_change_nothing_of_a_word() -> None:
    spans = random_spans(2, words=10)
    tokens = random_tokens(CODEC, spans)
    before = CODEC.decode(tokens, spans)
    ends = spans.frames.cumsum()
    for word in range(2, 10):
        ids = spans.ids.copy()
        ids[(spans.words == word) & (ids > 0)] = 19
        after = CODEC.decode(tokens, Spans(ids, spans.words, spans.frames))
        changed = np.flatnonzero(after != before)
        frame = int(ends[np.flatnonzero(spans.words == word - 1)[0] - 1])  # where the word before begins
        quantum = max(0, -((CODEC.config.ahead - 1 + 16 - frame) // 16))  # the first that sees that frame
        assert not len(changed) or changed[0] >= 4800 * quantum - 600


def test_seed_and_spans_and_tokens_are_heard() -> None:
    spans = random_spans(3)
    tokens = random_tokens(CODEC, spans)
    first = CODEC.decode(tokens, spans, 1)
    assert np.array_equal(first, CODEC.decode(tokens, spans, 1))
    assert not np.array_equal(first, CODEC.decode(tokens, spans, 2))
    assert not np.array_equal(first, CODEC.decode([*tokens[:-1], (tokens[-1] + 1) % CODEC.size], spans, 1))
    assert CODEC.decode(tokens, spans, 2**64 - 1).std() > 0


def test_torchs_generator_is_left_alone() -> None:
    import torch

    spans = random_spans(4)
    state = torch.get_rng_state()
    CODEC.decode(random_tokens(CODEC, spans), spans)
    assert torch.equal(torch.get_rng_state(), state)


def test_there_is_no_click_between_quanta() -> None:
    """With equal units and tokens the samples at the ends of blocks jump no more than others do."""
    spans = Spans(np.array([6]), np.array([0]), np.array([160]))
    samples = CODEC.decode([4] * spans.tokens, spans)
    jumps = np.abs(np.diff(samples))[2400:-2400]
    for size in (300, 4800):
        seams = jumps[(np.arange(len(jumps)) + 2400) % size == size - 1]
        assert seams.mean() < 1.3 * jumps.mean()


def test_levels_of_tokens_and_back() -> None:
    assert CODEC.size == 9 * 12
    f0, energy = CODEC.levels([CODEC.token(3, 5), CODEC.token(0, 11)])
    assert f0.tolist() == [3, 0] and energy.tolist() == [5, 11]


def test_curves_become_tokens_of_their_levels() -> None:
    spans = Spans(np.array([0, 4]), np.array([0, 0]), np.array([32, 32]))
    f0 = np.repeat([0.0, CODEC.config.levels.f0_table[4]], 400)
    energy = np.repeat(CODEC.config.levels.energy_table[[0, 9]], 400)
    tokens = CODEC.from_curves(f0, 1000.0, energy, 1000.0, spans)
    assert tokens.tolist() == [CODEC.token(0, 0)] * 10 + [CODEC.token(4, 9)] * 10


def test_what_does_not_fit_is_named() -> None:
    spans = random_spans(5)
    tokens = random_tokens(CODEC, spans)
    for call, told in [
        (lambda: CODEC.decode(tokens), "no spans"),
        (lambda: CODEC.decode([*tokens, 1], spans), f"{len(tokens) + 1} tokens, expected {len(tokens)}"),
        (lambda: CODEC.decode(tokens[:-1], spans), f"{len(tokens) - 1} tokens, expected {len(tokens)}"),
        (lambda: CODEC.decode([CODEC.size] * len(tokens), spans), f"token {CODEC.size}, expected 0 to"),
        (lambda: CODEC.stream(Spans(np.array([20]), np.array([0]), np.array([3]))), "unit 20, expected ids below 20"),
        (lambda: CODEC.encode(np.zeros(7, np.float32), spans), rf"\[7\] samples, expected \[{spans.samples}\]"),
    ]:
        with pytest.raises(DataError, match=told):
            call()


def test_digits_of_levels_and_network_must_agree() -> None:
    from speechmtp.codec.levels import LevelConfig
    from speechmtp.codec.unit25 import Unit25Config

    with pytest.raises(ConfigError, match=r"network.digits 0, expected 2"):
        Unit25Config(levels=LevelConfig(digits=(3, 3)))
