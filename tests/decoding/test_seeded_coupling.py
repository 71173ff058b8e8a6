"""Where tokens are drawn, the same seed gives the tokens of plain sampling, whatever drafts, in whatever batch."""

from dataclasses import replace

import pytest
import tiny
import torch
from engine_runs import RowSampling, Setup, generate_mixed
from scenes import COUPLED, Scene, make_scene

from speechmtp.decoding.drafters.contract import Silent
from speechmtp.decoding.rules.greedy_match import GreedyMatch
from speechmtp.decoding.sampling import SamplingConfig
from speechmtp.types import Trace

SEEDS = 50  # in every run of the tests; the others are slow
SAMPLING = [
    SamplingConfig(1.0), SamplingConfig(0.5), SamplingConfig(1.6, top_k=4), SamplingConfig(0.8, top_p=0.8),
    SamplingConfig(1.2, min_p=0.1), SamplingConfig(0.4, repetition_penalty=1.3),
    SamplingConfig(0.7, no_repeat_ngram_size=2), SamplingConfig(0.6, repetition_penalty=0.8, no_repeat_ngram_size=3),
    SamplingConfig(1.1, top_k=6, top_p=0.9, min_p=0.05),
    SamplingConfig(0.9, 5, 0.95, 0.02, repetition_penalty=1.2, no_repeat_ngram_size=3),
    SamplingConfig(repetition_penalty=1.3, no_repeat_ngram_size=2),  # the likeliest, after processing
]  # fmt: skip


class Draws:
    """A scene, how its tokens are drawn, and each row by plain sampling alone."""

    def __init__(self, seed: int) -> None:
        self.scene: Scene = make_scene(seed)
        self.config = replace(SAMPLING[seed % len(SAMPLING)], seed=seed)
        rng, rows = tiny.generator(7000 + seed), len(self.scene.requests)
        self.seeds = torch.randint(-(2**63), 2**63 - 1, (rows,), generator=rng).tolist()
        self.streams = torch.randint(0, 2**31, (rows,), generator=rng).tolist()
        self.order = torch.randperm(rows, generator=rng).tolist()[: 1 + rows // 2]
        self.plain = [self._alone(row) for row in range(rows)]

    def _alone(self, row: int) -> list[int]:
        request = self.scene.requests[row]
        (tokens,), _ = generate_mixed(
            self.scene.trunk, request.prompt, [Setup(Silent(), GreedyMatch())], tiny.EOS, [request.limit or 0],
            self.row_sampling([row]), [request.ids],
        )  # fmt: skip
        return tokens

    def row_sampling(self, rows: list[int]) -> RowSampling:
        """Processors and the noise of these rows."""
        seeds = [self.seeds[row] for row in rows] if self.config.temperature else None
        return RowSampling(self.config.processors(), seeds, [self.streams[row] for row in rows])

    def check(self, strategies: list[str], rows: list[int] | None = None) -> list[Trace]:
        """Tokens of plain sampling, in the order of the rows."""
        rows = list(range(len(self.plain))) if rows is None else rows
        tokens, traces = self.scene.run(strategies, rows, self.row_sampling(rows))
        for row, said, label in zip(rows, tokens, strategies * (1 if len(strategies) > 1 else len(rows)), strict=True):
            assert said == self.plain[row], f"{self.config}, row {row}: {label}"
        return traces


def run_all(seed: int) -> list[Trace]:
    """A mixed batch, some of its rows in another order under other strategies, and whole batches of one strategy."""
    draws = Draws(seed)
    scene, order = draws.scene, draws.order
    labels = [*COUPLED, scene.tree()]
    traces = draws.check(scene.some(labels, len(scene.requests), 1))
    traces += draws.check(scene.some(labels, len(order), 2), order)
    for label in (labels[2 * seed % len(labels)], labels[(2 * seed + 1) % len(labels)]):
        traces += draws.check([label])
    return traces


@pytest.mark.parametrize("seed", range(SEEDS))
def test_one_seed_one_output(seed: int) -> None:
    run_all(seed)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(SEEDS, 1000))
def test_one_seed_one_output_many_more_times(seed: int) -> None:
    run_all(seed)


@pytest.mark.parametrize("seed", range(len(SAMPLING)))
def test_a_trunk_that_drafts_for_itself_is_accepted_whole(seed: int) -> None:
    """Its drafts see the same prefixes, processors and noise."""
    draws = Draws(seed)
    draws.scene = draws.scene.drafting_itself()
    for label, block in (("draft-model", 5), ("draft-model:depth=2", 3)):
        for trace in draws.check([label]):
            assert trace.calls == -(-trace.emitted // block)


def test_drafts_are_accepted_and_outputs_are_drawn() -> None:
    """Equality is not for want of drafts, nor for want of noise."""
    assert len(COUPLED) < 2 * SEEDS, "every strategy had a batch"
    accepted = drafted = differ = rows = 0
    for seed in range(0, SEEDS, 5):
        draws = Draws(seed)
        for trace in draws.check(["verify"]) + draws.check(["draft-model"]):
            accepted, drafted = accepted + trace.num_accepted_tokens, drafted + trace.num_draft_tokens
        differ += sum(said != plain for said, plain in zip(draws.plain, draws.scene.tokens))
        rows += len(draws.plain)
    assert 0.05 * drafted < accepted < 0.9 * drafted and 0.5 * rows < differ
