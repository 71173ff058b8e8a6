"""Learning-rate schedules, parameter groups, moving average, clipping."""

import math
from itertools import pairwise

import pytest
import torch
from torch import nn

from speechmtp.errors import ConfigError
from speechmtp.training.optim import Ema, OptimConfig, clip_gradients, learning_rate, make_optimiser


def rates(config: OptimConfig, steps: int) -> list[float]:
    return [learning_rate(config, step, steps) for step in range(steps)]


@pytest.mark.parametrize("schedule", ["wsd", "cosine"])
def test_warm_up_is_linear_and_reaches_the_peak(schedule: str) -> None:
    config = OptimConfig(lr=2.0, warmup=10, schedule=schedule)  # type: ignore[arg-type]
    got = rates(config, 1000)
    assert got[:10] == pytest.approx([0.2 * (i + 1) for i in range(10)])
    assert max(got) == pytest.approx(2.0)


def test_wsd_is_flat_and_then_falls_linearly_to_its_end() -> None:
    config = OptimConfig(lr=1.0, warmup=5, schedule="wsd", decay=0.2, final=0.1)
    got = rates(config, 100)
    assert got[5:81] == [1.0] * 76
    assert got[90] == pytest.approx(0.1 + 0.9 * 0.5)
    falls = [a - b for a, b in pairwise(got[80:])]
    assert falls == pytest.approx([0.9 / 20] * len(falls))
    assert got[99] == pytest.approx(0.1 + 0.9 / 20)
    assert learning_rate(config, 100, 100) == pytest.approx(0.1)


def test_cosine_falls_from_the_end_of_warm_up_to_its_end() -> None:
    config = OptimConfig(lr=1.0, warmup=20, schedule="cosine", final=0.1)
    got = rates(config, 120)
    assert got[20] == pytest.approx(1.0)
    assert got[70] == pytest.approx(0.55)
    assert got[95] == pytest.approx(0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * 0.75)))
    assert learning_rate(config, 120, 120) == pytest.approx(0.1)
    assert all(a >= b for a, b in pairwise(got[20:]))


@pytest.mark.parametrize("schedule", ["wsd", "cosine"])
@pytest.mark.parametrize("settings", [{"warmup": 0}, {"warmup": 50}, {"decay": 0.0}, {"decay": 1.0}])
def test_short_runs_have_finite_positive_rates(schedule: str, settings: dict[str, float]) -> None:
    config = OptimConfig(schedule=schedule, **settings)  # type: ignore[arg-type]
    for steps in (1, 2, 7):
        assert all(0 < rate <= config.lr for rate in rates(config, steps))


@pytest.mark.parametrize("wrong", [{"lr": 0.0}, {"accumulate": 0}, {"ema": 1.0}, {"decay": 2.0}, {"betas": (0.9,)}])
def test_values_that_cannot_work_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match="optim"):
        OptimConfig(**wrong)  # type: ignore[arg-type]


def test_only_matrices_decay_and_factors_make_groups() -> None:
    layers = nn.Linear(2, 3), nn.Linear(3, 3)
    pairs = [(p, factor) for layer, factor in zip(layers, (1.0, 0.1)) for p in layer.parameters()]
    optimiser = make_optimiser(pairs, OptimConfig(weight_decay=0.5))
    kinds = {(g["factor"], g["weight_decay"]): [tuple(p.shape) for p in g["params"]] for g in optimiser.param_groups}
    assert kinds == {(1.0, 0.5): [(3, 2)], (1.0, 0.0): [(3,)], (0.1, 0.5): [(3, 3)], (0.1, 0.0): [(3,)]}


def test_the_average_follows_its_definition() -> None:
    module = nn.BatchNorm1d(1)  # it has an integer in its state
    ema = Ema(module, 0.5)
    expected = 1.0
    for step, value in enumerate([3.0, -1.0, 2.0, 7.0, 0.0, 1.0, 1.0, 4.0, 9.0, 5.0]):
        with torch.no_grad():
            module.weight.fill_(value)
            module.num_batches_tracked.fill_(step)
        ema.update(module, step)
        decay = min(0.5, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * value
        assert float(ema.state["weight"]) == pytest.approx(expected, rel=1e-6)
        assert int(ema.state["num_batches_tracked"]) == step
    assert decay == 0.5
    assert module.weight.tolist() == [5.0]  # the module itself stays


def test_clipping_gives_the_norm_before() -> None:
    parameter = nn.Parameter(torch.zeros(2))
    parameter.grad = torch.tensor([3.0, 4.0])
    assert float(clip_gradients([parameter], 1.0)) == pytest.approx(5.0)
    assert float(parameter.grad.norm()) == pytest.approx(1.0, rel=1e-4)
    parameter.grad = torch.tensor([0.3, 0.4])
    clip_gradients([parameter], 1.0)
    assert parameter.grad.tolist() == pytest.approx([0.3, 0.4])
