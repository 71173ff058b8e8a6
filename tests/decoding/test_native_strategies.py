"""Every strategy says natively what it says by the models' own modules: in batches, and when rows come and go."""

import random
from functools import cache
from typing import Any

import pytest
import scenes
import seq2seq_scenes
from mixed_runs import Run
from native_models import NATIVE
from native_runs import frozen, natively, request32
from scenes import LABELS, Priced

from speechmtp.decoding.engine import Engine
from speechmtp.decoding.presets import PRESETS
from speechmtp.decoding.strategies import parse_strategy
from speechmtp.decoding.strategy_table import STRATEGIES
from speechmtp.heads.contract import HeadSet
from speechmtp.models.trunk import Trunk
from speechmtp.types import Request, Trace

SCENES = 18  # of each kind
CLEAR = 1e-3  # the least gap between the two best tokens of an answer: float32 does not turn it around
# Without `ensemble`, which draws its tokens.
INEXACT = [text for text in (*STRATEGIES, *PRESETS) if not parse_strategy(text).exact and text != "ensemble"]
KINDS = ("text", "speech")
pytestmark = NATIVE


class Scene32:
    """A scene in float32."""

    def __init__(self, trunk: Trunk, heads: HeadSet, requests: list[Request], draft: Trunk | None) -> None:
        self.trunk, self.heads = frozen(trunk), frozen(heads)
        self.draft = None if draft is None else frozen(draft)
        self.requests = [request32(request, self.draft) for request in requests]

    @property
    def trunks(self) -> list[Trunk]:
        """The trunk, and the draft model's."""
        return [self.trunk] if self.draft is None else [self.trunk, self.draft]

    def runner(self, labels: list[str]) -> tuple[Priced, list[HeadSet]]:
        """What runs these strategies, and its heads."""
        named = [parse_strategy(text).name for text in labels]
        presets = {name: preset32(name, self.trunk.shape) for name in named if name in PRESETS and PRESETS[name].heads}
        heads: dict[str, HeadSet] = {"own": self.heads, **presets}
        return Priced(self.trunk, heads, draft=self.draft), list(heads.values())

    def run(self, label: str, native: bool) -> tuple[list[list[int]], list[Trace]]:
        """All rows in one batch by one strategy."""
        runner, heads = self.runner([label])
        strategies = [parse_strategy(label)] * len(self.requests)
        if not native:
            return runner.run(self.requests, strategies)
        with natively(self.trunks, heads):
            return runner.run(self.requests, strategies)


@cache
def preset32(name: str, shape: Any) -> HeadSet:
    """A preset's heads in float32."""
    found: HeadSet = frozen(scenes.preset_heads(name, shape))
    return found


@cache
def text_scene(seed: int) -> tuple[Scene32, list[list[int]]] | None:
    """A text LM's scene and its answers; None if they are not clear."""
    scene = scenes.make_scene(seed, 8, 10)
    if min(gap for row in scene.plain for gap in row.gaps) < CLEAR:
        return None
    return Scene32(scene.trunk, scene.heads, scene.requests, scene.draft), scene.tokens


@cache
def speech_scene(seed: int) -> tuple[Scene32, list[list[int]]] | None:
    """A speech model's scene and its answers; None if they are not clear."""
    scene = seq2seq_scenes.make_scene(seed)
    gaps = [gap for trace in scene.run(["ar"])[1] for gap in trace.gaps]
    return None if min(gaps) < CLEAR else (Scene32(scene.model.trunk, scene.heads, scene.requests, None), scene.answers)


def some(kind: str, seed: int) -> tuple[Scene32, list[list[int]]]:
    """The first clear scene from a seed on."""
    make = text_scene if kind == "text" else speech_scene
    return next(found for number in range(seed, seed + SCENES) if (found := make(number % SCENES)) is not None)


def suits(kind: str, label: str) -> bool:
    """Whether a kind of model runs a strategy."""
    strategy = parse_strategy(label)
    return strategy.drafter is not None and (
        kind == "text" or (strategy.preset is None and "model" not in strategy.needs)
    )


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("label", LABELS)
def test_exact_strategies_say_what_greedy_decoding_says(kind: str, label: str) -> None:
    if suits(kind, label):
        scene, answers = some(kind, LABELS.index(label))
        assert scene.run(label, True)[0] == answers


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("label", INEXACT)
def test_other_strategies_say_what_they_say_by_modules(kind: str, label: str) -> None:
    if suits(kind, label):
        scene, _ = some(kind, INEXACT.index(label))
        found, expected = scene.run(label, True), scene.run(label, False)
        assert found[0] == expected[0]
        assert [(trace.calls, trace.num_draft_tokens) for trace in found[1]] == [
            (trace.calls, trace.num_draft_tokens) for trace in expected[1]
        ]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", range(6))
def test_rows_of_all_strategies_come_and_go(kind: str, seed: int) -> None:
    scene, answers = some(kind, 3 * seed)
    rng = random.Random(seed)
    labels = rng.choices([label for label in LABELS if suits(kind, label)], k=2 * len(answers))
    runner, heads = scene.runner(labels)
    strategies = [runner.bind(runner.prepared(parse_strategy(label))) for label in labels]
    with natively(scene.trunks, heads):
        run = Run(Engine(scene.trunk, rng.randint(1, 4)), scene.requests * 2, strategies, rng)
        for _ in range(3 * len(labels)):
            run.act()
        run.finish()
    assert {number: tokens for number, (tokens, _) in run.said.items()} == dict(enumerate(answers * 2))


@pytest.mark.parametrize("kind", KINDS)
def test_the_native_step_is_what_runs(kind: str) -> None:
    """No layer of the model's own is called."""
    scene, answers = some(kind, 0)
    runner, heads = scene.runner(["verify"])
    layers: Any = scene.trunk._decoder.layers

    def never(*_: Any) -> None:
        raise AssertionError("a layer of the model's own")

    with natively(scene.trunks, heads):
        hooks = [layer.register_forward_pre_hook(never) for layer in layers]
        try:
            found = runner.run(scene.requests, [parse_strategy("verify")] * len(answers))[0]
        finally:
            for hook in hooks:
                hook.remove()
    assert found == answers
