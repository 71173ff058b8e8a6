"""Tokens of `unit25`: ids, levels, and the curves that they are made from."""

import numpy as np
import pytest

from speechmtp.codec.contract import Spans
from speechmtp.codec.levels import LevelConfig, token_curves
from speechmtp.errors import ConfigError, DataError

FULL = LevelConfig(digits=(3, 4, 2))


def test_every_id_is_its_digits_and_back() -> None:
    ids = np.arange(FULL.size)
    digits = FULL.split(ids)
    assert [int(part.max()) + 1 for part in digits] == [17, 12, 3, 4, 2]
    assert len({tuple(row) for row in np.stack(digits, 1).tolist()}) == FULL.size == 17 * 12 * 24
    assert (FULL.join(digits) == ids).all()
    assert FULL.split([1])[0] == 1  # F0 comes first


def test_a_level_is_the_nearest_and_a_sweep_reaches_each() -> None:
    table = LevelConfig()
    assert (table.quantise_f0(table.f0_table) == np.arange(17)).all()
    assert (table.quantise_energy(table.energy_table) == np.arange(12)).all()
    hertz = np.geomspace(50, 700, 4000)
    levels = table.quantise_f0(hertz)
    assert set(levels.tolist()) == set(range(1, 17)) and (np.diff(levels) >= 0).all()
    inside = (hertz > 135) & (hertz < 310)
    step = np.log(310 / 135) / 15
    assert np.abs(np.log(table.f0_table[levels] / hertz))[inside].max() <= step / 2 + 1e-9


@pytest.mark.parametrize("ids", [[204], [-1], [0, 999, 3]])
def test_an_id_out_of_range_is_named(ids: list[int]) -> None:
    with pytest.raises(
        DataError, match=rf"token {set(ids) - set(range(204))}, expected 0 to 203".replace("{", "").replace("}", "")
    ):
        LevelConfig().split(ids)


@pytest.mark.parametrize(
    "options", [{"f0_low": 400.0}, {"energy": (1.0,)}, {"energy": (2.0, 1.0)}, {"digits": (2,) * 4}]
)
def test_ranges_that_do_not_rise_are_refused(options: dict) -> None:
    with pytest.raises(ConfigError, match=r"codec\.levels"):
        LevelConfig(**options)


def test_a_token_is_where_its_40_milliseconds_are() -> None:
    """A click of energy at every sample position, and voicing that begins there, at the rates that are measured."""
    for sample in range(0, 24000, 777):
        token = sample // 960
        energy = np.full(81, -9.3)
        at = sample / 300
        energy[int(at)], energy[int(at) + 1] = 8 - 17 * (at % 1), 8 - 17 * (1 - at % 1)
        _, loud = token_curves(np.zeros(41), 40.0, energy, 80.0, 25)
        assert abs(int(loud.argmax()) - token) <= (0 if 150 < sample % 960 < 810 else 1)
        f0 = np.where(np.arange(1001) >= sample / 24, 200.0, 0.0)
        hertz, _ = token_curves(f0, 1000.0, np.zeros(81), 80.0, 25)
        assert np.flatnonzero(hertz)[0] in (token, token + 1) and set(hertz[hertz > 0].round(6)) == {200.0}


def test_f0_is_the_mean_of_its_voiced_part_and_half_is_enough() -> None:
    f0 = np.array([0.0] * 20 + [100.0] * 20 + [0.0] * 40)
    hertz, _ = token_curves(f0, 1000.0, np.zeros(9), 80.0, 2)
    assert hertz == pytest.approx([100.0, 0.0])
    f0[15:20] = 400.0  # three quarters of the four places are voiced
    hertz, _ = token_curves(f0, 1000.0, np.zeros(9), 80.0, 2)
    assert 100 < hertz[0] < 200


@pytest.mark.parametrize("curve", [[], [np.nan, 1.0]])
def test_curves_that_are_none_are_refused(curve: list[float]) -> None:
    with pytest.raises(DataError, match="curve of finite numbers"):
        token_curves(np.array(curve), 40.0, np.zeros(3), 80.0, 2)


def test_spans_know_their_lengths() -> None:
    spans = Spans(np.array([0, 3, 0]), np.array([0, 0, 0]), np.array([4, 3, 10]))
    assert (spans.total, spans.samples, spans.tokens) == (17, 5100, 6)
    assert Spans(np.array([1]), np.array([0]), np.array([16])).tokens == 5


@pytest.mark.parametrize(
    ("ids", "words", "frames", "told"),
    [
        ([0, 1], [0, 0], [1], "one word and one number of frames"),
        ([0, 1], [0, 0], [0, 0], "no frames"),
        ([0, 1], [1, 0], [1, 1], "words fall"),
        ([0, -1], [0, 0], [1, 1], "below 0"),
        ([0, 1], [0, 0], [1.5, 1], "whole numbers"),
    ],
)
def test_spans_that_do_not_fit_are_refused(ids: list, words: list, frames: list, told: str) -> None:
    with pytest.raises(DataError, match=told):
        Spans(np.array(ids), np.array(words), np.array(frames))
