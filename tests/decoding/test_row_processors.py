"""Processors of one request: they see the output index, and trunk and drafts are processed alike."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import pytest
import tiny
import torch
from families import CONFIGS
from hint_scenes import DRAWN, HintScene, hint_scene, with_draft_model
from scenes import COUPLED
from test_known_lengths import in_pieces
from torch import Tensor

from speechmtp.decoding.sampling import SamplingConfig

GREEDY = SamplingConfig()
Prefixes = Callable[[], Sequence[Sequence[int]]]


@dataclass(frozen=True)
class Allowed:
    """A table of allowed tokens: at output index i those of the same rest modulo 3 as i, or the one that holds."""

    shift: int
    reads_prefix: bool = False

    def __call__(self, logits: Tensor, index: Tensor, prefixes: Prefixes) -> Tensor:
        """Keep the tokens of the table."""
        wanted = torch.arange(logits.shape[1]) % 3 == ((index + self.shift) % 3)[:, None]
        return logits.masked_fill(~wanted, -torch.inf)


@dataclass(frozen=True)
class Falling:
    """No token above the one before, except after the three lowest: each table above has one of them."""

    reads_prefix: bool = True

    def __call__(self, logits: Tensor, index: Tensor, prefixes: Prefixes) -> Tensor:
        """Keep the tokens up to the last one."""
        found = prefixes()
        last = torch.tensor([prefix[-1] if prefix and prefix[-1] > 2 else tiny.VOCAB for prefix in found])
        return logits.masked_fill(torch.arange(logits.shape[1]) > last[:, None], -torch.inf)


def processed(scene: HintScene) -> HintScene:
    """Every row has other processors, or none."""
    kinds = [(Allowed(0),), (), (Falling(),), (Allowed(1), Falling())]
    requests = [replace(r, processors=kinds[i % 4]) for i, r in enumerate(scene.requests)]
    return HintScene(scene.runner, scene.family, requests)


def check(scene: HintScene, tokens: list[list[int]]) -> None:
    """The tokens are those of the rows' tables."""
    for i, row in enumerate(tokens):
        assert i % 4 != 0 or all(token % 3 == place % 3 for place, token in enumerate(row))
        assert i % 4 != 2 or all(b <= a or a < 3 for a, b in pairwise(row))


@pytest.mark.parametrize("seed", range(len(CONFIGS)))
def test_drafted_tokens_are_the_plain_ones(seed: int) -> None:
    scene = processed(hint_scene(200 + seed))
    for sampling in (DRAWN, GREEDY):
        plain = scene.run("ar", sampling)
        check(scene, plain)
        assert scene.run("verify:depth=3", sampling) == plain
        assert [scene.run("ar", sampling, [row])[0] for row in range(len(plain))] == plain
    assert in_pieces(scene, "verify:depth=3", DRAWN, seed) == scene.run("ar", DRAWN)


@pytest.mark.parametrize("strategy", [text for text in COUPLED if ":" not in text and "ctc" not in text])
def test_every_kind_of_drafter_is_processed(strategy: str) -> None:
    from speechmtp.decoding.presets import PRESETS
    from speechmtp.decoding.strategies import parse_strategy

    if strategy in PRESETS or not {"heads"}.issuperset(parse_strategy(strategy).needs):
        pytest.skip("needs what the scene has not")
    scene = processed(hint_scene(230, "chain-shared-ttt"))
    for sampling in (DRAWN, GREEDY):
        assert scene.run(strategy, sampling) == scene.run("ar", sampling)


def test_a_draft_is_made_of_allowed_tokens() -> None:
    """The trunk drafts for itself, and all is accepted: what was drafted had the same table at the same index."""
    scene = with_draft_model(processed(hint_scene(236, most=24)))
    for sampling in (DRAWN, GREEDY):
        tokens, traces = scene.traced("draft-model:depth=3", sampling)
        check(scene, tokens)
        assert sum(t.num_accepted_tokens for t in traces) == sum(t.num_draft_tokens for t in traces) > 10
