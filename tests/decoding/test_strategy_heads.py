"""Strategies that name the head set which drafts, and what a model with its heads can and cannot run."""

from dataclasses import replace
from typing import Any

import pytest
import tiny
from scenes import make_scene, preset_heads

from speechmtp.decoding.drafters.tree import HeadTree
from speechmtp.decoding.presets import PRESETS, training_command
from speechmtp.decoding.runner import Runner
from speechmtp.decoding.sampling import RowSampling
from speechmtp.decoding.strategies import make_strategy, parse_strategies, parse_strategy
from speechmtp.decoding.strategy_table import STRATEGIES
from speechmtp.errors import ConfigError
from speechmtp.models.draft_prompt import DraftPrompt
from speechmtp.types import Request


@pytest.mark.parametrize(
    ("text", "label", "heads", "options"),
    [
        ("verify", "verify:depth=7", "", {"depth": 7}),
        ("verify:heads=chain", "verify:depth=7,heads=chain", "chain", {"depth": 7, "heads": "chain"}),
        ("verify:heads=chain,depth=3", "verify:depth=3,heads=chain", "chain", {"depth": 3, "heads": "chain"}),
        ("verify: heads = chain-3.b ", "verify:depth=7,heads=chain-3.b", "chain-3.b", None),
        ("verify:heads=", "verify:depth=7", "", {"depth": 7}),
        ("verify:heads=a=b:c", "verify:depth=7,heads=a=b:c", "a=b:c", None),
        ("threshold:theta=0.5,heads=latent", "threshold:depth=7,theta=0.5,measure=token,heads=latent", "latent", None),
        ("tree:heads=t,paths=0.1", "tree:paths=0.1,heads=t", "t", {"paths": "0.1", "heads": "t"}),
        ("dynamic-tree:heads=t", "dynamic-tree:depth=7,heads=t", "t", None),
        ("ctc-heads:heads=t", "ctc-heads:depth=7,theta=0.9,heads=t", "t", None),
        ("eagle:heads=e", "eagle:heads=e", "e", None),
        ("oracle", "oracle:depth=7", "", {"depth": 7}),
    ],
)
def test_labels_name_the_heads_only_when_given(text: str, label: str, heads: str, options: dict | None) -> None:
    strategy = parse_strategy(text)
    assert (strategy.label, strategy.heads) == (label, heads)
    assert options is None or strategy.options == options
    again = parse_strategy(strategy.label)
    assert (again.label, again.options, again.drafter) == (label, strategy.options, strategy.drafter)
    assert strategy.preset or make_strategy(strategy.name, strategy.options).label == label


def test_the_drafter_is_the_same_whichever_heads_draft() -> None:
    assert parse_strategy("verify:depth=3,heads=x").drafter == parse_strategy("verify:depth=3").drafter


def test_lists_keep_heads_with_their_strategy_and_round_trip() -> None:
    text = "ar,verify:depth=3,heads=chain,verify:heads=latent,threshold:theta=0.9,heads=b,depth=2,ctc"
    labels = [s.label for s in parse_strategies(text)]
    assert labels == ["ar", "verify:depth=3,heads=chain", "verify:depth=7,heads=latent",
                      "threshold:depth=2,theta=0.9,measure=token,heads=b", "ctc"]  # fmt: skip
    assert [s.label for s in parse_strategies(",".join(labels))] == labels
    assert [s.heads for s in parse_strategies("verify,heads=a,verify")] == ["a", ""]


@pytest.mark.parametrize("name", [name for name, row in STRATEGIES.items() if "heads" not in row.options])
def test_strategies_without_heads_take_none(name: str) -> None:
    with pytest.raises(ConfigError, match="no option 'heads'"):
        parse_strategy(f"{name}:heads=chain")


def test_a_name_that_a_list_could_not_hold_is_refused() -> None:
    with pytest.raises(ConfigError, match="without commas"):
        make_strategy("verify", {"heads": "a,b"})


FITTED = [n for n, row in STRATEGIES.items() if "heads" in row.options and row.options.get("depth") == 7]


@pytest.mark.parametrize("name", FITTED)
def test_only_a_depth_that_nobody_chose_is_fitted_to_the_heads(name: str) -> None:
    strategy = parse_strategy(f"{name}:heads=x")
    limited = strategy.with_max_depth(3)
    assert limited.options == strategy.options | {"depth": 3} and limited.drafter.depth == 3
    assert limited.label.startswith(f"{name}:depth=3")
    assert strategy.with_max_depth(7) is strategy is strategy.with_max_depth(9)
    for depth in (0, 5, 7):
        chosen = parse_strategy(f"{name}:depth={depth}")
        assert chosen.with_max_depth(3) is chosen
    assert make_strategy(name, strategy.given | {"depth": 7}).with_max_depth(3).options["depth"] == 7


def test_a_tree_that_nobody_chose_is_cut_to_the_heads() -> None:
    limited = parse_strategy("tree").with_max_depth(2)
    assert isinstance(limited.drafter, HeadTree) and limited.drafter.depth == 2
    assert limited.drafter.paths == limited.options["paths"] and "000" not in limited.options["paths"]
    assert parse_strategy(limited.label).drafter == limited.drafter
    chosen = parse_strategy("tree:paths=0.00.000")
    assert chosen.with_max_depth(2) is chosen
    assert parse_strategy("tree").with_max_depth(9).options == parse_strategy("tree").options


def runner(**heads: Any) -> Runner:
    """A model with these head sets, and a draft model of another vocabulary."""
    trunk = tiny.trunk(0)
    other = tiny.trunk(1)
    other.vocab_size = 4
    return Runner(trunk, heads, "folder/an4", other)


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("verify:depth=4", ["strategy verify: depth=4, expected at most 3, the heads' depth; give depth=3"]),
        ("tree:paths=0.00.000.0000", ["strategy tree: a tree of depth 4, expected at most 3", "give shorter paths"]),
        ("typical:paths=0.00.000.0000", ["strategy typical: a tree of depth 4, expected at most 3"]),
        ("dynamic-tree:depth=5", ["strategy dynamic-tree: depth=5, expected at most 3, the heads' depth"]),
        (
            "verify:heads=chain",
            ["strategy verify: heads='chain': not among those loaded, own; name one, or load it with heads="],
        ),
        ("tree:paths=0.9", ["tree: 10 children, expected at most 7, the tokens that the heads draft"]),
        ("draft-model", ["draft model: 4 tokens, expected the trunk's 11; give one of the same tokenizer"]),
        ("tree:rule=block", ["block: a tree of drafted tokens, expected a chain; use ratio for trees"]),
        ("marginal:depth=9", ["marginal: depth=9 and top=8 make more than 4096 nodes; lower depth or top"]),
    ],
)
def test_what_a_model_cannot_run_is_one_line(text: str, parts: list[str]) -> None:
    model = runner(own=tiny.heads("latent", 3, shortlist=7))
    prompt = tiny.prompts(model.trunk, [3])
    requests = [Request(prompt, tiny.RULES, 4, noise_key=i, sources=(DraftPrompt(model.draft, prompt),))
                for i in range(9)]  # fmt: skip
    with pytest.raises(ConfigError) as caught:
        model.run(requests, [parse_strategy(text)] * 9, RowSampling(None, 1))
    assert all(part in str(caught.value) for part in parts) and "\n" not in str(caught.value)


def test_a_model_without_heads_or_draft_model_says_so() -> None:
    bare = replace(runner(), draft=None)
    with pytest.raises(ConfigError, match="strategy verify: heads: the model has no heads; load it with heads="):
        bare.prepared(parse_strategy("verify"))
    with pytest.raises(ConfigError, match="strategy mtad: needs a draft model; load one with draft_model="):
        bare.prepared(parse_strategy("mtad"))
    names = {strategy.name for strategy in bare.usable(ctc=False)}
    assert {"ar", "lookup", "prompt-lookup", "lookahead", "oracle"} <= names
    assert not names & {"verify", "tree", "eagle", "draft-model", "mtad", "ctc", "ctc-heads"}


@pytest.mark.parametrize("name", [name for name, preset in PRESETS.items() if preset.heads])
def test_a_preset_takes_heads_of_its_kind_or_says_how_to_train_them(name: str) -> None:
    depth = PRESETS[name].options.get("depth", 1)
    wrong = tiny.heads("linear", depth)
    for heads in ({}, {"own": wrong}):
        with pytest.raises(ConfigError) as caught:
            runner(**heads).prepared(parse_strategy(name))
        line = str(caught.value)
        assert f"strategy {name}: needs heads of kind {PRESETS[name].heads['kind']}" in line and "\n" not in line
        assert line.endswith(f"train them with: {training_command(name, 'folder/an4')}")
        assert f"and {'own' if heads else 'nothing'} is loaded" in line
    right = preset_heads(name, tiny.SHAPE)
    for heads in ({name: right}, {"own": wrong, "other": right}, {"other": right, "own": wrong}):
        found = runner(**heads).prepared(parse_strategy(name))
        assert found.heads == next(key for key, held in heads.items() if held is right)
        assert found.name == name and found.label == f"{name}:heads={found.heads}"
    with pytest.raises(ConfigError, match="needs heads of kind"):
        runner(own=wrong, other=right).prepared(parse_strategy(f"{name}:heads=own"))


def test_heads_that_are_too_shallow_for_a_preset_are_of_another_kind() -> None:
    with pytest.raises(ConfigError, match="depth 7 or more, and own is loaded"):
        runner(own=tiny.heads("residual", 6)).prepared(parse_strategy("blockwise"))


def test_a_fitted_depth_is_the_heads_own() -> None:
    scene = make_scene(3)
    model = Runner(scene.trunk, {"own": scene.heads})
    assert model.prepared(parse_strategy("verify")).options["depth"] == scene.heads.depth == 3
    assert model.prepared(parse_strategy("verify:depth=2")).options["depth"] == 2
