"""Positions are the prompt's to say: under a distribution of any stride or table, every exact label says what plain
decoding under the same distribution says; layout, pending entries, drafters and heads ask the one distribution."""

from dataclasses import replace
from functools import lru_cache

import oracle
import pytest
import tiny
import torch
from families import CONFIGS
from scenes import LABELS, Scene, make_scene
from test_engine import check, plans_of

from speechmtp.decoding.bound import BoundStrategy
from speechmtp.decoding.drafters.heads import HeadChain
from speechmtp.decoding.drafters.model import DraftPrompt
from speechmtp.decoding.engine import generate
from speechmtp.decoding.rules.greedy_match import GreedyMatch
from speechmtp.evaluation.teacher_forced import teacher_forced
from speechmtp.heads.contract import HeadSet
from speechmtp.outputs import OutputPositions
from speechmtp.types import Prompt, Reference, TokenRules

POSITIONS = {
    "stride": OutputPositions(2),
    "table": OutputPositions(3, (0, 0, 1, 5, 5, 4, 9)),  # tokens share positions, skip some, and go back
    "still": OutputPositions(0),
    "one": OutputPositions(1),
}


def positioned(prompt: Prompt, output_positions: OutputPositions) -> Prompt:
    """The prompt with its output under a distribution."""
    return replace(prompt, output_positions=output_positions)


@lru_cache(maxsize=64)
def scene_under(seed: int, name: str) -> Scene:
    """A scene whose rows stand by a distribution, draft prompts too, and what plain decoding says there."""
    scene, output_positions = make_scene(seed, 6, 10), POSITIONS[name]
    requests, answers = [], []
    for request in scene.requests:
        prompt = positioned(request.prompt, output_positions)
        plain = oracle.plain_greedy(scene.trunk, prompt, tiny.EOS, request.limit or 0)
        draft = request.source(DraftPrompt)
        assert draft is not None
        known = (Reference(tuple(plain.tokens)), DraftPrompt(draft.trunk, positioned(draft.prompt, output_positions)))
        requests.append(replace(request, prompt=prompt).knowing(*known))
        answers.append(plain)
    return replace(scene, requests=requests, plain=answers)


def test_a_distribution_says_where_each_token_stands() -> None:
    assert [POSITIONS["stride"].offset(i) for i in range(4)] == [0, 2, 4, 6]
    assert [POSITIONS["table"].offset(i) for i in range(9)] == [0, 0, 1, 5, 5, 4, 9, 12, 15]


@pytest.mark.parametrize("name", POSITIONS)
@pytest.mark.parametrize("label", LABELS)
def test_every_exact_label_is_plain_decoding_under_the_same_distribution(label: str, name: str) -> None:
    scene = scene_under(LABELS.index(label) % 30, name)
    assert scene.run([label])[0] == scene.tokens


def test_the_distribution_matters() -> None:
    said = {name: [scene_under(seed, name).tokens for seed in range(8)] for name in POSITIONS}
    plain = [make_scene(seed, 6, 10).tokens for seed in range(8)]
    assert len({str(tokens) for tokens in (*said.values(), plain)}) == 4


def test_rows_under_different_distributions_go_along_together() -> None:
    for seed in range(6):
        scenes = [make_scene(seed, 6, 10), *(scene_under(seed, name) for name in POSITIONS)]
        requests, wanted = [r for s in scenes for r in s.requests], [t for s in scenes for t in s.tokens]
        for label in ("verify", "ctc:mode=tree", "jacobi", "marginal"):
            bound = plans_of(scenes[0], [label])[label]
            check(requests, wanted, [bound] * len(requests), scenes[0].trunk, seed)


@torch.no_grad()
@pytest.mark.parametrize("family", CONFIGS)
@pytest.mark.parametrize("name", ["stride", "table", "one"])
def test_heads_draft_where_the_distribution_puts_them(family: str, name: str) -> None:
    """What heads draft in the loop is what one teacher-forced pass over the output, laid out by the distribution,
    says."""
    judged = 0
    for seed in range(6):
        trunk = tiny.trunk(seed)
        heads: HeadSet = tiny.random_heads(CONFIGS[family], seed, trunk.shape)
        prompt = positioned(tiny.prompts(trunk, [1 + seed], seed), POSITIONS[name])
        plain = oracle.plain_greedy(trunk, prompt, -1, 16).tokens
        request = replace(make_scene(0).requests[0], prompt=prompt, limit=16, rules=TokenRules(()))
        drafts = Noted(heads.depth)
        said, _ = generate(trunk, [request], BoundStrategy(drafts, GreedyMatch(), heads))
        assert said[0] == plain
        [forced] = teacher_forced(trunk, heads, [prompt], [plain])
        for start, tokens in drafts.found:
            if start + heads.depth >= len(plain):
                continue  # a block may look at places behind the output, where the pass knows of no distribution
            for d, token in enumerate(tokens[: len(plain) - start]):
                if d and tokens[:d] != plain[start : start + d]:
                    break  # behind a wrong token the pass knows of another one
                assert (token == plain[start + d]) == bool(forced.right[start - 1, d])
                judged += 1
    assert judged > 9 or heads.depth == 0


class Noted(HeadChain):
    """Remembers what was drafted behind how many tokens."""

    def propose(self, state):  # type: ignore[no-untyped-def]
        draft = super().propose(state)
        self.found.append((len(state.rows[0].tokens), draft.tokens[0].tolist()))
        return draft

    @property
    def found(self) -> list[tuple[int, list[int]]]:
        """(tokens said before, tokens drafted), a call each."""
        known: list[tuple[int, list[int]]] = self.__dict__.setdefault("_found", [])
        return known
