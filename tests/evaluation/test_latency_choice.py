"""Which streams are tried, and which of them is chosen."""

from typing import Any

import pytest

from speechmtp.errors import ConfigError
from speechmtp.evaluation.latency_choice import DelayLimits, choose_stream, stream_grid
from speechmtp.streaming.config import StreamConfig


def test_steps_and_lists_make_every_combination() -> None:
    base = StreamConfig(sure=0.1)
    found = stream_grid(base, [0.5, 1.0], {"passes": ["2", "3"], "activity.min_silence_ms": ["300"]})
    assert list(found) == [
        f"step {step} s, passes={passes}, activity.min_silence_ms=300" for step in ("0.5", "1") for passes in (2, 3)
    ]
    config = found["step 1 s, passes=3, activity.min_silence_ms=300"]
    assert (config.step, config.passes, config.sure, config.activity.min_silence_ms) == (1.0, 3, 0.1, 300)
    assert list(stream_grid(StreamConfig(step=0.25))) == ["step 0.25 s"] and base.activity.min_silence_ms == 700
    assert list(stream_grid(base, [], {"step": ["0.5", "1.0"]})) == ["step=0.5", "step=1.0"]


@pytest.mark.parametrize(
    ("grid", "message"),
    [
        ({"pases": ["2"]}, "conf: pases: no such key in StreamConfig; did you mean 'passes'?"),
        ({"passes": "2"}, "conf: passes: a list of values is expected, found '2'"),
        ({"passes": []}, "conf: passes: a list of values is expected"),
        ({"passes": ["0"]}, "conf: passes=0, expected 1 to 10"),
        ({"passes": ["2", "2"]}, "conf: step 0.5 s, passes=2: given twice"),
    ],
)
def test_a_wrong_grid_is_one_line(grid: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as error:
        stream_grid(StreamConfig(), [], grid, "conf")
    assert str(error.value).startswith(message)


def row(label: str, wer: float, mean: float | None, p90: float | None) -> dict[str, Any]:
    """What matters of a row."""
    return {"label": label, "wer": wer, "delay_mean": mean, "delay_p90": p90}


def test_the_fewest_errors_within_the_limits_win() -> None:
    configs = {name: StreamConfig(passes=number) for number, name in enumerate("abcd", 1)}
    rows = [row("offline", 0.0, None, None), row("a", 3.0, 0.9, 1.3), row("b", 2.0, 0.9, 1.5), row("c", 2.5, 0.95, 1.4),
            row("d", 2.5, 0.9, 1.4)]  # fmt: skip
    assert choose_stream(rows, configs, DelayLimits()) == ("d", configs["d"]), "of equals the one that is earlier"
    assert choose_stream(rows, configs, DelayLimits(p90=1.5))[0] == "b"
    with pytest.raises(ConfigError, match=r"at most 0.5 s in the mean and 1.4 s .*, the least mean is 0.90 s"):
        choose_stream(rows, configs, DelayLimits(0.5))
    with pytest.raises(ConfigError, match="there are no delays"):
        choose_stream([row("a", 1.0, None, None)], configs, DelayLimits())
