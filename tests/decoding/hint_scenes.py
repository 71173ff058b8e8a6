"""Ragged batches of rows that have hints and end at a known length, as speech tokens do."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import tiny
import torch
from families import CONFIGS
from torch import Tensor

from speechmtp.decoding.engine import Engine
from speechmtp.decoding.runner import Runner
from speechmtp.decoding.sampling import RowSampling, SamplingConfig
from speechmtp.decoding.strategies import parse_strategy
from speechmtp.models.draft_prompt import DraftPrompt
from speechmtp.types import Request, TokenRules, Trace

RULES = TokenRules(())
DRAWN = SamplingConfig(temperature=0.7, top_k=5, seed=3)


@dataclass(frozen=True)
class HintScene:
    """A model with heads of one family, and requests."""

    runner: Runner
    family: str
    requests: list[Request]

    def run(self, strategy: str, sampling: SamplingConfig, rows: Sequence[int] | None = None) -> list[list[int]]:
        """The tokens of some rows (all) in one batch."""
        return self.traced(strategy, sampling, rows)[0]

    def traced(
        self, strategy: str, sampling: SamplingConfig, rows: Sequence[int] | None = None
    ) -> tuple[list[list[int]], list[Trace]]:
        """The same with traces."""
        chosen = [self.requests[row] for row in (range(len(self.requests)) if rows is None else rows)]
        return self.runner.run(chosen, [parse_strategy(strategy)] * len(chosen), RowSampling.of(sampling))


def hint_scene(seed: int, family: str = "", most: int = 16) -> HintScene:
    """1 to 8 rows of 1 to `most` tokens; heads of every family in turn."""
    rng = tiny.generator(7000 + seed)
    family = family or list(CONFIGS)[seed % len(CONFIGS)]
    trunk = tiny.trunk(seed, tiny.TRUNKS[seed % 2])
    heads = tiny.random_heads(CONFIGS[family], seed, trunk.shape)
    if seed % 3 == 0:
        heads.start_from(trunk)
    requests = []
    for row in range(int(torch.randint(1, 9, (), generator=rng))):
        length, size = (int(torch.randint(1, high, (), generator=rng)) for high in (most + 1, 6))
        prompt = tiny.prompts(trunk, [size], int(torch.randint(0, 10**6, (), generator=rng)))
        hints = 2 * torch.randn(1, length, tiny.WIDTH, generator=rng, dtype=torch.float64)
        requests.append(Request(replace(prompt, hints=hints), RULES, length, noise_key=row))
    return HintScene(Runner(trunk, {"own": heads}), family, requests)


@torch.no_grad()
def full_forward(scene: HintScene, request: Request) -> list[int]:
    """Greedy decoding without a cache, from whole rows with the hints written in by hand."""
    trunk, prompt, tokens = scene.runner.trunk, request.prompt, list[int]()
    assert request.limit is not None and prompt.hints is not None
    for _ in range(request.limit):
        rows: list[Tensor] = [*prompt.embeddings[0], *trunk.embed(torch.tensor(tokens, dtype=torch.long))]
        for i in range(len(tokens) + 1):
            at = len(rows) - 1 - len(tokens) + i
            rows[at] = rows[at] + prompt.hints[0, i]
        steps = prompt.next_position[0] + torch.arange(len(tokens))
        positions = torch.cat([prompt.positions[0], steps])[None]
        hidden = trunk(torch.stack(rows)[None], positions, torch.zeros_like(positions)).hidden
        tokens.append(int(trunk.unembed(hidden[0, -1]).argmax()))
    return tokens


def engine_run(scene: HintScene, strategy: str, sampling: SamplingConfig, seed: int) -> list[list[int]]:
    """The tokens of all rows, which join, pause and resume at random steps."""
    rng = tiny.generator(seed)
    engine: Engine = scene.runner.engine(len(scene.requests))
    one, drawn = parse_strategy(strategy), RowSampling.of(sampling)
    slots, paused = dict[int, int](), set[int]()
    while len(slots) < len(scene.requests) or engine.busy or paused:
        if len(slots) < len(scene.requests) and torch.rand((), generator=rng) < 0.6:
            slots[len(slots)] = engine.join(scene.requests[len(slots)], one, drawn)
        for slot in slots.values():
            chance = float(torch.rand((), generator=rng))
            if slot in paused and chance < 0.5:
                engine.resume(slot)
                paused.discard(slot)
            elif slot not in paused and chance < 0.15:
                engine.pause(slot)
                paused.add(slot)
        engine.step()
    return [engine.leave(slots[row])[0] for row in range(len(scene.requests))]


def with_draft_model(scene: HintScene) -> HintScene:
    """The same with the trunk as its own draft model, hints included."""
    requests = [r.knowing(DraftPrompt(scene.runner.trunk, r.prompt)) for r in scene.requests]
    scene.runner.draft = scene.runner.trunk
    return HintScene(scene.runner, scene.family, requests)
