"""Batches are a pure function of (utterances, seed, epoch, limits)."""

import numpy as np
import pytest

from speechmtp.data.batch import BatchConfig, BatchPlan, Item, feasible, seeded
from speechmtp.errors import ConfigError, DataError

CONFIG = BatchConfig(seconds=20.0, rows=6)


def durations(count: int = 101, seed: int = 0) -> dict[str, float]:
    random = np.random.default_rng(seed)
    return {f"u{i:03d}": float(random.uniform(0.4, 6.0)) for i in range(count)}


def epoch(plan: BatchPlan, number: int) -> list[tuple[Item, ...]]:
    batches, n = [], 0
    while plan.epoch_of(n) <= number:
        if plan.epoch_of(n) == number:
            batches.append(plan.batch(n))
        n += 1
    return batches


def test_the_plan_depends_on_utterances_seed_and_limits_alone() -> None:
    lengths = durations()
    backwards = dict(reversed(lengths.items()))
    first = [BatchPlan(lengths, CONFIG, 3).batch(n) for n in range(60)]
    np.random.default_rng(9).random(10)
    assert [BatchPlan(backwards, CONFIG, 3).batch(n) for n in range(60)] == first
    assert [BatchPlan(lengths, CONFIG, 4).batch(n) for n in range(60)] != first
    assert [BatchPlan(lengths, BatchConfig(10.0, 6), 3).batch(n) for n in range(60)] != first


def test_a_batch_is_found_by_its_number_alone() -> None:
    one = BatchPlan(durations(), CONFIG, 0)
    in_order = [one.batch(n) for n in range(90)]
    assert one.epoch_of(89) >= 2
    for number in (89, 0, 45, 17, 88):
        assert BatchPlan(durations(), CONFIG, 0).batch(number) == in_order[number]
        assert one.batch(number) == in_order[number]  # going back too


def test_every_utterance_comes_once_an_epoch_and_epochs_differ() -> None:
    plan = BatchPlan(durations(), CONFIG, 0)
    epochs = [epoch(plan, number) for number in range(3)]
    for batches in epochs:
        assert sorted(name for batch in batches for name, _ in batch) == sorted(durations())
    assert epochs[0] != epochs[1] != epochs[2]
    assert {frozenset(batch) for batch in epochs[0]} != {frozenset(batch) for batch in epochs[1]}


def test_batches_keep_their_limits_at_the_drawn_speed() -> None:
    lengths = durations()
    for number in range(3):
        for batch in epoch(BatchPlan(lengths, CONFIG, 0), number):
            longest = max(lengths[name] / speed for name, speed in batch)
            assert len(batch) <= CONFIG.rows
            assert longest * len(batch) <= CONFIG.seconds
            assert {speed for _, speed in batch} <= set(CONFIG.speeds)


def test_an_utterance_above_the_limit_stands_alone() -> None:
    plan = BatchPlan({"a": 1.0, "b": 50.0, "c": 1.0}, BatchConfig(10.0, 8, (1.0,)), 0)
    assert sorted(sorted(name for name, _ in batch) for batch in epoch(plan, 0)) == [["a", "c"], ["b"]]


def test_batches_hold_utterances_of_one_length() -> None:
    lengths = durations(400)
    used = padded = 0.0
    for batch in epoch(BatchPlan(lengths, BatchConfig(60.0, 16, (1.0,)), 0), 0):
        seconds = [lengths[name] for name, _ in batch]
        used, padded = used + sum(seconds), padded + max(seconds) * len(seconds)
    assert used / padded > 0.85


def test_all_speeds_are_drawn_anew_each_epoch() -> None:
    plan = BatchPlan(durations(300), CONFIG, 0)
    first, second = (dict(item for batch in epoch(plan, n) for item in batch) for n in range(2))
    counts = [list(first.values()).count(speed) for speed in CONFIG.speeds]
    assert min(counts) > 60
    assert sum(first[name] != second[name] for name in first) > 100


def test_nothing_to_train_on_and_empty_limits_are_errors() -> None:
    with pytest.raises(DataError, match="no utterance"):
        BatchPlan({}, CONFIG, 0)
    for wrong in ({"seconds": 0.0}, {"rows": 0}, {"speeds": ()}, {"speeds": (0.0, 1.0)}):
        with pytest.raises(ConfigError, match="batch"):
            BatchConfig(**wrong)  # type: ignore[arg-type]


def test_seeded_generators_depend_on_the_whole_key() -> None:
    draws = {key: seeded(*key).random() for key in [("a", 1), ("a", 2), ("b", 1), ("a", 1, 0), ("a", "1")]}
    assert len(set(draws.values())) == len(draws)
    assert seeded("a", 1).random() == draws["a", 1]


def test_a_repeat_needs_a_blank_between() -> None:
    assert feasible(3, [1, 2, 3]) and not feasible(2, [1, 2, 3])
    assert feasible(3, [1, 1]) and not feasible(2, [1, 1])
    assert feasible(5, [1, 1, 1]) and not feasible(4, [1, 1, 1])
    assert feasible(0, []) and not feasible(0, [1])
