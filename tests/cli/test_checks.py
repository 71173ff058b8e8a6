"""Checks of options: what is wrong is told in the words of the command line, before anything is loaded."""

import argparse
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import torch

from speechmtp.cli.checks import check_device, check_heads, check_strategies, check_text_options, prepare_run
from speechmtp.cli.main import build_parser
from speechmtp.cli.options import settings_of
from speechmtp.decoding.runner import Runner
from speechmtp.decoding.strategies import parse_strategy
from speechmtp.errors import ConfigError
from speechmtp.evaluation.settings import EvaluationSettings
from speechmtp.models.locate import locate
from tests import tiny


def arguments(*words: str) -> argparse.Namespace:
    """The options of a comparison."""
    return build_parser(["compare"]).parse_args(["compare", "DATA", "--out", "OUT", *words])


def test_settings_are_what_the_options_say() -> None:
    given = arguments("--model", "an4", "--heads", "a", "--heads", "b", "--ctc", "c", "--drafts", "int8", "--root", "r",
                      "--draft-model", "d", "--allow-stale-heads", "--allow-pipes", "--language", "de", "--task",
                      "translate", "--prompt-tokens", "3", "--max-new-tokens", "5", "--device", "cpu", "--dtype",
                      "float64")  # fmt: skip
    assert settings_of(given) == EvaluationSettings(
        "DATA", "an4", "cpu", "float64", ["a", "b"], True, "d", "c", "int8", "r", True, "de", "translate", 3, 5
    )
    assert settings_of(arguments()) == EvaluationSettings("DATA", heads=[])
    assert {field.name for field in fields(EvaluationSettings)} <= set(vars(given)), "every setting has its option"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--threads", "-1"], r"--threads -1: expected 0 \(PyTorch's choice\) to 1024"),
        (["--threads", "1025"], r"--threads 1025: expected 0 .* to 1024"),
        (["--device", "meta"], "--device meta: not available here"),
        (["--batch-size", "0"], "--batch-size 0: expected 1 to 4096"),
        (["--dtype", "int4"], "--dtype int4: expected one of float32"),
        (["--dtype", "float64", "--drafts", "int8"], "--drafts int8: needs a CPU and float32, found "),
        (["--heads", "chian"], "--heads chian: neither a head set of .* the model's own: latent"),
    ],
)
def test_a_wrong_run_option_is_named(words: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        prepare_run(arguments("--model", "an4", "--device", "cpu", *words))


def test_a_device_is_found_and_threads_are_set(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    monkeypatch.setattr(torch, "set_num_threads", asked.append)
    given = arguments("--threads", "3")
    check_device(given)
    assert given.device in ("cpu", "cuda") and asked == [3]
    check_device(arguments("--device", "cpu"))
    assert asked == [3], "PyTorch's choice unless one is made"


def test_head_sets_are_checked_by_name_and_folder(tmp_path: Path) -> None:
    check_heads("an4", [])
    check_heads("an4", ["latent"])
    own = locate("an4") / "heads" / "latent"
    with pytest.raises(ConfigError, match="has the name of"):
        check_heads("an4", ["latent", str(own)])
    with pytest.raises(ConfigError, match=r"config.yaml is missing; give a head folder"):
        check_heads("an4", [str(tmp_path)])
    (tmp_path / "model").mkdir()
    with pytest.raises(ConfigError, match="the model's own: none"):
        check_heads(str(tmp_path / "model"), ["other"])


@pytest.mark.parametrize("words", [["--prompt-tokens", "3"], ["--max-new-tokens", "3"]])
def test_limits_of_a_text_lm_are_refused_for_speech(words: list[str]) -> None:
    with pytest.raises(ConfigError, match="--prompt-tokens, --max-new-tokens: for text LMs, and an4 is a speech model"):
        check_text_options(arguments("--model", "an4", *words))


def runner(**more: Any) -> Runner:
    """A tiny trunk without heads."""
    return Runner(tiny.trunk(), more.pop("heads", {}), **more)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("oracle", "needs `ar`'s output first; use speechmtp compare"),
        ("draft-model", "needs a draft model; give one with --draft-model"),
        ("verify", "heads: the model has no heads; give a head folder with --heads"),
        ("previous", "needs a pass before over the same audio"),
    ],
)
def test_a_strategy_that_the_model_cannot_run_is_told_with_its_option(name: str, message: str) -> None:
    with pytest.raises(ConfigError, match=f"strategy {name}: {message}"):
        check_strategies([parse_strategy(name)], runner())


def test_strategies_come_back_ready_for_the_model() -> None:
    heads = {"few": tiny.heads("latent", 2)}
    [found] = check_strategies([parse_strategy("verify")], runner(heads=heads))
    assert found.options["depth"] == 2
    with pytest.raises(ConfigError, match=r"heads 'other': not among those loaded, few; .* with --heads"):
        check_strategies([parse_strategy("verify:heads=other")], runner(heads=heads))
    [reference] = check_strategies([parse_strategy("oracle:depth=2")], runner(), with_references=True)
    assert reference.name == "oracle"
