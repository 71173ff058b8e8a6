"""The limits of a text LM in the settings of an evaluation."""

import pytest

from speechmtp.errors import ConfigError
from speechmtp.evaluation.settings import EvaluationSettings


@pytest.mark.parametrize(("given", "limits"), [({}, (32, 32)), ({"prompt_tokens": 1}, (1, 32)), (
    {"max_new_tokens": 1}, (32, 1)), ({"prompt_tokens": 4, "max_new_tokens": 5}, (4, 5))])  # fmt: skip
def test_limits_of_a_text_lm(given: dict[str, int], limits: tuple[int, int]) -> None:
    assert EvaluationSettings("lines.txt", **given).text_limits() == limits  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["prompt_tokens", "max_new_tokens"])
def test_a_limit_below_1_and_a_limit_of_a_speech_model(name: str) -> None:
    with pytest.raises(ConfigError, match=f"{name}=0, expected 1 to"):
        EvaluationSettings("lines.txt", **{name: 0}).text_limits()  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="for text LMs, and an4 is a speech model"):
        EvaluationSettings("data", "an4", **{name: 3}).check_speech()  # type: ignore[arg-type]


def test_the_default_is_the_embedded_speech_model_in_float32() -> None:
    settings = EvaluationSettings("data")
    settings.check_speech()
    assert (settings.model, settings.device, settings.dtype) == ("default", "auto", "float32")
    assert not (settings.allow_stale_heads or settings.allow_pipes)
