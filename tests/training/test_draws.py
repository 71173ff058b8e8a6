"""Texts that a trunk draws itself, and heads that are trained on them under hints."""

from dataclasses import replace

import families
import pytest
import tiny
import torch

from speechmtp.decoding.runner import Runner
from speechmtp.decoding.sampling import RowSampling, SamplingConfig
from speechmtp.decoding.strategies import parse_strategy as parsed
from speechmtp.heads.contract import HeadSet
from speechmtp.models.hints import hints_by_entry
from speechmtp.training.draws import draw_texts
from speechmtp.training.losses import MultiTokenConfig
from speechmtp.training.multi_token import Sequences, multi_token_loss
from speechmtp.types import Request, TokenRules

DRAWN = SamplingConfig(temperature=0.8, top_k=6, seed=5)


def requests(trunk, count: int = 7, size: int = 12) -> list[Request]:
    """Rows of `size` tokens with hints, each with a noise key of its own."""
    rng = tiny.generator(4)
    prompts = [tiny.prompts(trunk, [1 + i % 3], i) for i in range(count)]
    hints = torch.randn(count, 1, size, tiny.WIDTH, generator=rng, dtype=torch.float64)
    return [
        Request(replace(prompt, hints=hints[i]), TokenRules(()), size - i % 4, noise_key=i)
        for i, prompt in enumerate(prompts)
    ]


def test_draws_depend_on_neither_the_batch_nor_the_drafts() -> None:
    trunk = families.trunk_of("block-gru").train()
    runner, told = Runner(trunk, {"own": families.heads_of("block-gru")}), list[int]()
    asked = requests(trunk)
    plain = draw_texts(runner, asked, DRAWN, rows=3, told=told.append)
    assert trunk.training and told[-1] == len(asked) and told == sorted(told)
    assert [len(text) for text in plain] == [request.limit for request in asked]
    assert draw_texts(runner, asked, DRAWN, "verify:depth=3") == plain
    assert draw_texts(runner, asked[2:3], DRAWN) == plain[2:3]
    other = draw_texts(runner, asked, replace(DRAWN, seed=6))
    assert other != plain and draw_texts(runner, [], DRAWN) == []


def sequences_of(trunk, asked: list[Request], texts: list[list[int]]) -> Sequences:
    """The rows in one padded batch, as decoding had them."""
    size = max(int(r.prompt.lengths[0]) + len(text) for r, text in zip(asked, texts, strict=True))
    rows = len(asked)
    embeddings, added = (torch.zeros(rows, size, tiny.WIDTH, dtype=torch.float64) for _ in range(2))
    ids, segments = (torch.full((rows, size), -1) for _ in range(2))
    positions = torch.zeros(rows, size, dtype=torch.long)
    for i, (request, text) in enumerate(zip(asked, texts, strict=True)):
        prompt, length = request.prompt, int(request.prompt.lengths[0])
        end = length + len(text)
        embeddings[i, :end] = torch.cat([prompt.embeddings[0], trunk.embed(torch.tensor(text))])
        assert prompt.hints is not None
        added[i, :end] = hints_by_entry(prompt.hints[:, : len(text)], prompt.lengths, end)[0]
        ids[i, length:end], segments[i, :end] = torch.tensor(text), 0
        positions[i, :length] = prompt.positions[0]
        positions[i, length:end] = prompt.next_position[0] + torch.arange(len(text))
    return Sequences(embeddings + added, positions, ids, segments, segments >= 0, hints=added)


@pytest.mark.parametrize(("name", "kind"), [("chain-shared-ttt", "tv"), ("block-gru", "lk_alpha"), ("hydra", "tv")])
def test_training_on_them_raises_what_decoding_accepts(name: str, kind: str) -> None:
    """1 - TV of the loss falls, and the engine then accepts more of the heads' drafts."""
    torch.manual_seed(0)
    trunk = families.trunk_of(name).eval()
    trunk.requires_grad_(False)
    heads: HeadSet = families.heads_of(name)
    runner, asked = Runner(trunk, {"own": heads}), requests(trunk, 12)
    texts = draw_texts(runner, asked, DRAWN)
    rows = sequences_of(trunk, asked, texts)
    config = MultiTokenConfig(kind=kind, scale=1.0, decay=1.0, temperature=0.8, top_k=6)  # type: ignore[arg-type]

    def accepted() -> float:
        strategy = parsed("verify:depth=3")
        _, traces = runner.run(asked, [strategy] * len(asked), RowSampling.of(DRAWN))
        return sum(t.num_accepted_tokens for t in traces) / sum(t.num_drafts for t in traces)

    before, first = accepted(), None
    optimiser = torch.optim.Adam(heads.parameters(), 0.02)
    heads.train()
    for _ in range(15):
        loss, _ = multi_token_loss(trunk, heads, rows, config, frozen=True)
        first = float(loss.detach()) if first is None else first
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    heads.eval()
    assert first is not None and float(loss.detach()) < 0.9 * first
    assert accepted() > before + 0.2
