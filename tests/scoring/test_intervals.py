"""Bootstrap intervals, the paired bootstrap and the matched pairs test."""

import math

import numpy as np
import pytest

from speechmtp.errors import DataError
from speechmtp.scoring.intervals import bootstrap_interval, group_units, matched_pairs, paired_bootstrap


def test_interval_covers_the_rate_and_is_seed_stable() -> None:
    rng = np.random.default_rng(0)
    words, errors = [10] * 200, rng.binomial(10, 0.1, size=200).tolist()
    first, again, other = (bootstrap_interval(errors, words, seed) for seed in (5, 5, 6))
    assert first == again
    assert first.low != other.low
    assert first.low < 100 * sum(errors) / 2000 < first.high
    # the binomial standard error of 2000 words at 10 %
    assert first.sd == pytest.approx(100 * math.sqrt(0.1 * 0.9 / 2000), rel=0.15)
    assert first.high - first.low == pytest.approx(2 * 1.96 * first.sd, rel=0.05)


def test_draws_do_not_depend_on_how_they_are_cut() -> None:
    errors, words = [0, 1, 2] * 300, [3] * 900  # 900 units: several pieces of draws
    whole = bootstrap_interval(errors, words, 1)
    assert whole == bootstrap_interval(errors, words, 1)
    assert whole.sd == pytest.approx(100 * math.sqrt(2 / 3 / 900) / 3, rel=0.05)


def test_constant_errors_have_no_width() -> None:
    interval = bootstrap_interval([1] * 40, [10] * 40)
    assert (interval.low, interval.high, interval.sd) == (10.0, 10.0, 0.0)


def test_few_units_are_unreliable() -> None:
    assert not bootstrap_interval([1] * 29, [10] * 29).reliable
    assert bootstrap_interval([1] * 30, [10] * 30).reliable


def test_draws_of_empty_references_alone_are_left_out() -> None:
    interval = bootstrap_interval([1, 1], [0, 2])
    assert interval.low == 50.0
    assert interval.high == 100.0  # one error each, two words in one
    assert bootstrap_interval([1], [0]).low is None


def test_speakers_are_drawn_whole_from_ten_on() -> None:
    ids = [f"u{i}" for i in range(200)]
    speakers = {u: f"s{i // 20}" for i, u in enumerate(ids)}
    errors = [5 if i // 20 < 3 else 0 for i in range(200)]  # three speakers make all errors
    by_speaker = bootstrap_interval(errors, [10] * 200, unit=group_units(ids, speakers))
    by_utterance = bootstrap_interval(errors, [10] * 200, unit=group_units(ids, None))
    assert (by_speaker.unit, by_speaker.units) == ("speaker", 10)
    assert by_speaker.high - by_speaker.low > 3 * (by_utterance.high - by_utterance.low)
    nine = {u: f"s{i % 9}" for i, u in enumerate(ids)}
    assert group_units(ids, nine)[0] == "utterance"


def test_an_utterance_without_a_speaker_is_named() -> None:
    with pytest.raises(DataError, match="no speaker for utterance u2"):
        group_units(["u1", "u2"], {"u1": "s"})


def test_matched_pairs_of_equal_systems() -> None:
    test = matched_pairs([1, 2, 0], [1, 2, 0])
    assert (test.z, test.p) == (0.0, 1.0)


def test_matched_pairs_undefined_is_never_zero() -> None:
    assert matched_pairs([2, 2, 2], [1, 1, 1]).p is None
    assert matched_pairs([1], [0]).p is None


def test_matched_pairs_vector() -> None:
    # 200 utterances of 10 words at 8.4 and 13.7 %: Z -5.45, p 4.9e-8 (NIST's sc_stats says p < 0.001)
    difference = [-3] * 20 + [-2] * 30 + [-1] * 44 + [0] * 63 + [1] * 28 + [2] * 15
    assert (len(difference), sum(difference)) == (200, 168 - 274)
    test = matched_pairs(difference, [0] * 200)
    assert test.z == pytest.approx(-5.45, abs=0.01)
    assert test.p == pytest.approx(4.9e-8, rel=0.02)
    assert matched_pairs([0] * 200, difference).z == pytest.approx(-test.z)


def test_paired_bootstrap_finds_the_better_system() -> None:
    rng = np.random.default_rng(1)
    first, second = rng.binomial(10, 0.137, 200).tolist(), rng.binomial(10, 0.084, 200).tolist()
    paired = paired_bootstrap(first, second, [10] * 200, seed=2)
    assert paired == paired_bootstrap(first, second, [10] * 200, seed=2)
    assert paired.delta == pytest.approx((sum(first) - sum(second)) / 20)
    assert 0 < paired.low < paired.delta < paired.high
    assert paired.improvement > 0.999
    swapped = paired_bootstrap(second, first, [10] * 200, seed=2)
    assert swapped.improvement < 0.001
    assert swapped.low == pytest.approx(-paired.high)


def test_paired_bootstrap_of_equal_systems_ties_always() -> None:
    paired = paired_bootstrap([1, 0, 2], [1, 0, 2], [5, 5, 5])
    assert (paired.delta, paired.low, paired.high, paired.improvement, paired.ties) == (0, 0, 0, 0, 1)
