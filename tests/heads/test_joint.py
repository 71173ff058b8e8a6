"""The joint family: a mixture over the whole block, its conditionals, its training and its cached drafting."""

import itertools
import math
from dataclasses import replace
from typing import Any

import pytest
import tiny
import torch
from engine_runs import generate
from torch import Tensor

from speechmtp.decoding.drafters.contract import Silent
from speechmtp.decoding.drafters.heads import HeadChain
from speechmtp.decoding.rules.greedy_match import GreedyMatch
from speechmtp.errors import ConfigError
from speechmtp.heads.contract import TrainBatch
from speechmtp.heads.joint import JointHeads, JointHeadsConfig
from speechmtp.heads.latent import LatentHeads, LatentHeadsConfig
from speechmtp.heads.table import build_heads
from speechmtp.models.trunk import Trunk
from speechmtp.types import Prompt, States

IDS = [[1, 3, 8, 5, 10, 7, 4, 9, 2], [1, 9, 9, 4, 2, 2, 2, 2, 2]]
SHORTLIST = [7, 2, 9, 4, 3, 10]  # in no order on purpose


def joint(depth: int = 3, rank: int = 3, seed: int = 0, **settings: Any) -> JointHeads:
    """A joint head set with random weights."""
    heads = tiny.heads("joint", depth, seed, rank=rank, **settings)
    assert isinstance(heads, JointHeads)
    if heads.shortlist is not None:
        heads.shortlist.copy_(torch.tensor(SHORTLIST))
    return heads


def batch(heads: JointHeads, trunk: Trunk, anchors: Tensor | None = None) -> TrainBatch:
    """Two samples, the second one short; the states are the trunk's own."""
    ids = torch.tensor(IDS)
    segments = torch.tensor([[0] * 9, [0] * 5 + [-1] * 4])
    positions = torch.arange(9).repeat(2, 1)
    inputs = trunk.embed(ids)
    states = trunk(inputs, positions, segments, heads.taps)
    return TrainBatch(states, inputs, ids, positions, segments, trunk.embed, heads.narrow(trunk), anchors=anchors)


def begun(heads: JointHeads, trunk: Trunk, hidden: Tensor) -> Any:
    """A head state whose rows' last committed entries have states [B, C]."""
    state = heads.start(len(hidden), trunk)
    keep = torch.zeros(len(hidden), 1, dtype=torch.long)
    heads.advance(state, States(hidden[:, None]), hidden[:, None], keep, keep, torch.ones(len(hidden)).long())
    return state


def table(heads: JointHeads, trunk: Trunk, hidden: Tensor) -> Tensor:
    """Probabilities [V, ..., V] of all blocks behind the state [C], written out from the definition."""
    unembed = heads.narrow(trunk)
    weight = torch.softmax(heads.gate(hidden), 0)
    distributions = [[torch.softmax(unembed(a @ hidden), 0) for a in depth] for depth in heads.weight]
    total = torch.zeros([heads.vocab_size] * heads.depth, dtype=hidden.dtype)
    for block in itertools.product(range(heads.vocab_size), repeat=heads.depth):
        for a in range(heads.rank):
            part = weight[a]
            for d, token in enumerate(block):
                part = part * distributions[d][a][token]
            total[block] += part
    return total


@torch.no_grad()
@pytest.mark.parametrize("shortlist", [0, 6])
def test_conditionals_of_a_tree_are_those_of_the_enumerated_joint_distribution(shortlist: int) -> None:
    trunk, heads = tiny.trunk(), joint(shortlist=shortlist)
    size = heads.vocab_size
    hidden = torch.randn(2, tiny.WIDTH, generator=tiny.generator(5), dtype=torch.float64)
    state = begun(heads, trunk, hidden)
    zero = torch.zeros(2, 1, dtype=torch.long)
    first = heads.logits(heads.expand(state, 1, zero + 3, zero), 1, state.unembed)
    places = torch.tensor([[0, 4, 5], [2, 1, 1]])
    second = heads.logits(heads.expand(state, 2, heads.token_ids(places), zero.expand(-1, 3)), 2, state.unembed)
    deeper, parent = torch.tensor([[3, 3, 1, 0], [5, 2, 2, 4]]), torch.tensor([[2, 0, 1, 2], [1, 0, 2, 1]])
    third = heads.logits(heads.expand(state, 3, heads.token_ids(deeper), parent), 3, state.unembed)
    assert first.shape == (2, 1, size) and second.shape == (2, 3, size) and third.shape == (2, 4, size)
    for row in range(2):
        probs = table(heads, trunk, hidden[row])
        assert abs(float(probs.sum()) - 1) < 1e-12
        pair = probs.sum(2)
        assert float((pair - pair.sum(1, keepdim=True) * pair.sum(0)).abs().sum()) > 0.02, "the words depend"
        torch.testing.assert_close(first[row, 0].exp(), probs.sum((1, 2)), rtol=0, atol=1e-12)
        paths = probs[places[row]].sum(2), probs[places[row, parent[row]], deeper[row]]
        for said, wanted in zip((second, third), paths):
            torch.testing.assert_close(said[row].exp(), wanted / wanted.sum(1, keepdim=True), rtol=0, atol=1e-12)


@torch.no_grad()
def test_rank_one_is_latent_with_the_same_matrices() -> None:
    trunk, heads = tiny.trunk(), joint(rank=1)
    latent = build_heads(LatentHeadsConfig(depth=3), trunk.shape).double()
    assert isinstance(latent, LatentHeads)
    latent.weight.copy_(heads.weight[:, 0])
    data = batch(heads, trunk)
    for d, (mine, theirs) in enumerate(zip(heads.train_depths(data), latent.train_depths(data)), 1):
        logits = heads.logits(mine, d, data.unembed), latent.logits(theirs, d, data.unembed)
        torch.testing.assert_close(logits[0], logits[1].log_softmax(-1), rtol=0, atol=1e-12)
    assert heads.regulariser(data) is None


@torch.no_grad()
def test_training_begins_at_the_base_head_with_components_in_equal_use() -> None:
    trunk = tiny.trunk()
    heads = build_heads(JointHeadsConfig(depth=3), trunk.shape).double()
    heads.start_from(trunk)
    assert isinstance(heads, JointHeads)
    data = batch(heads, trunk)
    base = trunk.unembed(data.states.hidden).log_softmax(-1)
    for d, features in enumerate(heads.train_depths(data), 1):
        torch.testing.assert_close(heads.logits(features, d, data.unembed), base, rtol=0, atol=1e-2)
        if d == 1:
            assert torch.allclose(features[..., -4:].exp(), torch.full((), 0.25).double())
    parts = heads.weight[0]
    assert all(not torch.equal(parts[a], parts[b]) for a in range(4) for b in range(a)), "equal ones would stay equal"


@torch.no_grad()
@pytest.mark.parametrize("settings", [{}, {"shortlist": 6}, {"taps": (1,)}, {"taps": (0, 1), "mix": "weighted"}])
def test_cached_drafting_has_the_features_of_training_after_every_acceptance(settings: dict[str, Any]) -> None:
    trunk, heads, lengths = tiny.trunk(), joint(depth=4, **settings), [5, 2, 1]
    prompt = tiny.prompts(trunk, lengths)
    texts = torch.randint(0, tiny.VOCAB, (3, 40), generator=tiny.generator(3))
    state, cache = heads.start(3, trunk), trunk.new_cache(3)
    done = torch.zeros(3, dtype=torch.long)
    row = torch.arange(3)[:, None]
    for step in range(7):
        if step == 0:
            inputs, positions, count = prompt.embeddings, prompt.positions, prompt.lengths
        else:
            count = 1 + torch.tensor([step % 5, (step * 2) % 5, (4 - step) % 5])  # every acceptance 0..4 in each row
            index = done[:, None] + torch.arange(5)
            inputs, positions = trunk.embed(texts[row, index]), index + 1
        keep = torch.arange(inputs.shape[1]).repeat(3, 1)
        states = trunk.extend(inputs, positions, None, cache, heads.taps)
        cache.commit(count)
        heads.advance(state, states, inputs, positions, keep, count)
        done = done if step == 0 else done + count
        depth = 2 if step == 2 else 4
        zero = torch.zeros(3, 1, dtype=torch.long)
        drafted = [heads.expand(state, d, texts[row, done[:, None] + d - 1], zero) for d in range(1, depth + 1)]
        for r, length in enumerate(lengths):
            size = int(done[r])
            wanted = uncached(heads, trunk, prompt.row(r), texts[r, : size + depth], length + size - 1)
            for d in range(depth):
                torch.testing.assert_close(drafted[d][r, 0], wanted[d], rtol=0, atol=1e-10)


def uncached(heads: JointHeads, trunk: Trunk, prompt: Prompt, text: Tensor, t: int) -> list[Tensor]:
    """Features of all depths at index t by one teacher-forced pass."""
    inputs = torch.cat([prompt.embeddings, trunk.embed(text)[None]], 1)
    positions = torch.cat([prompt.positions, 1 + torch.arange(len(text))[None]], 1)
    ids = torch.cat([torch.full_like(prompt.positions, -1), text[None]], 1)
    segments = torch.zeros_like(ids)
    states = trunk(inputs, positions, segments, heads.taps)
    data = TrainBatch(states, inputs, ids, positions, segments, trunk.embed, heads.narrow(trunk))
    return [features[0, t] for features in heads.train_depths(data)]


@pytest.mark.parametrize("shortlist", [0, 6])
def test_drafting_with_joint_heads_gives_plain_decodings_tokens(shortlist: int) -> None:
    trunk = tiny.trunk()
    prompt = tiny.prompts(trunk, [4, 1, 6])
    plain, _ = generate(trunk, None, prompt, Silent(), GreedyMatch(), tiny.EOS)
    heads = joint(depth=4, shortlist=shortlist)
    drafted, traces = generate(trunk, heads, prompt, HeadChain(4), GreedyMatch(), tiny.EOS)
    assert drafted == plain and sum(trace.num_draft_tokens for trace in traces) > 20


@torch.no_grad()
def test_rows_of_a_state_are_selected_together() -> None:
    trunk, heads = tiny.trunk(), joint()
    hidden = torch.randn(3, tiny.WIDTH, generator=tiny.generator(6), dtype=torch.float64)
    zero = torch.zeros(3, 1, dtype=torch.long)
    whole, part = begun(heads, trunk, hidden), begun(heads, trunk, hidden)
    for state in (whole, part):
        heads.expand(state, 1, zero, zero)
    picked, tokens = torch.tensor([2, 0]), torch.tensor([[4], [7], [5]])
    part.select(picked)
    wanted = heads.expand(whole, 2, tokens, zero)[picked]
    assert torch.equal(heads.expand(part, 2, tokens[picked], zero[:2]), wanted)


def value(heads: JointHeads, data: TrainBatch) -> float:
    """The regulariser's."""
    loss = heads.regulariser(data)
    assert loss is not None
    return float(loss.detach())


def block_loss(heads: JointHeads, data: TrainBatch, row: int, t: int, depth: int) -> Tensor:
    """-log of the block behind index t, from the definition, over its first `depth` tokens."""
    hidden = heads.fused(data.states)[row, t]
    total = torch.log_softmax(heads.gate(hidden), 0)
    for d in range(1, depth + 1):
        logits = data.unembed(torch.einsum("rec,c->re", heads.weight[d - 1], hidden))
        total = total + logits.log_softmax(-1)[:, data.ids[row, t + 1 + d]]
    return -total.logsumexp(0)


@pytest.mark.parametrize("budget", [1 << 24, 40])
def test_summed_cross_entropies_are_the_exact_block_likelihood_with_its_gradient(
    budget: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("speechmtp.heads.joint._LOGITS", budget)
    trunk, heads = tiny.trunk().requires_grad_(False), joint()
    anchors, known = torch.tensor([[0, 2, 4], [0, 1, 2]]), torch.tensor([[3, 3, 3], [3, 2, 1]])  # depths in the sample
    data = batch(heads, trunk, anchors)
    loss = wanted = torch.zeros((), dtype=torch.float64)
    for d, features in enumerate(heads.train_depths(data), 1):
        logits = heads.logits(features, d, data.unembed)
        for row, place in (known >= d).nonzero().tolist():
            loss = loss - logits[row, place, data.ids[row, anchors[row, place] + 1 + d]]
    for row, place in itertools.product(range(2), range(3)):
        wanted = wanted + block_loss(heads, data, row, int(anchors[row, place]), int(known[row, place]))
    assert abs(float((loss - wanted).detach())) < 1e-11
    parameters = list(heads.parameters())
    for mine, theirs in zip(torch.autograd.grad(loss, parameters), torch.autograd.grad(wanted, parameters)):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-11)


def test_no_logits_are_kept_for_the_posterior() -> None:
    trunk, heads = tiny.trunk(), joint()
    data = batch(heads, trunk)
    widths: set[int] = set()

    def note(tensor: Tensor) -> Tensor:
        widths.update(tensor.shape[-1:])
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        features = list(heads.train_depths(data))
    assert features[-1].requires_grad and tiny.WIDTH in widths and tiny.VOCAB not in widths


@torch.no_grad()
def test_tokens_out_of_sight_leave_the_posterior_as_it_is() -> None:
    """Beyond the sample's end, in another sample, and tokens that cannot be drafted."""
    trunk, heads = tiny.trunk(), joint(depth=4, shortlist=6)
    data = batch(heads, trunk)
    posterior = torch.stack([features[..., -3:] for features in heads.train_depths(data)], 2)
    drafted = set(SHORTLIST)
    for row, size in enumerate((9, 5)):
        for t, d in itertools.product(range(size), range(2, 5)):
            heard = t + d < size and IDS[row][t + d] in drafted
            moved = not torch.allclose(posterior[row, t, d - 1], posterior[row, t, d - 2], rtol=0, atol=1e-12)
            assert moved == heard
    other = data.ids.clone()
    other[0, 4:] = torch.tensor([3, 4, 2, 2, 10])
    packed = replace(data, segments=torch.tensor([[0] * 4 + [1] * 5, [0] * 5 + [-1] * 4]))
    for mine, theirs in zip(heads.train_depths(packed), heads.train_depths(replace(packed, ids=other))):
        assert torch.equal(mine[0, :4], theirs[0, :4]), "a packed neighbour's tokens are not heard"


def test_regulariser_is_zero_just_where_components_are_in_equal_use_on_average() -> None:
    trunk, heads = tiny.trunk(), joint(rank=2, balance=0.1)
    data = batch(heads, trunk, torch.tensor([[0, 1], [1, 2]]))
    gate, hidden = heads.gate, data.at_anchors(data.states.hidden).flatten(0, 1).detach()
    gate.weight.data.zero_()
    gate.bias.data.zero_()
    assert abs(value(heads, data)) < 1e-12
    wanted = torch.tensor([[0.8, -0.8], [-0.8, 0.8], [0.3, -0.3], [-0.3, 0.3]], dtype=torch.float64)
    gate.weight.data = torch.linalg.lstsq(hidden, wanted).solution.T
    assert float(heads.prior(hidden).detach().exp().std()) > 0.1, (
        "each anchor prefers a component, both are preferred alike"
    )
    assert abs(value(heads, data)) < 1e-12
    gate.weight.data.zero_()
    gate.bias.data = torch.tensor([0.9, 0.1], dtype=torch.float64).log()
    assert abs(value(heads, data) - 0.05 * (math.log(0.5 / 0.9) + math.log(0.5 / 0.1))) < 1e-12
    loss = heads.regulariser(data)
    assert loss is not None
    (slope,) = torch.autograd.grad(loss, gate.bias)
    assert float(slope[0]) > 0 > float(slope[1])


def test_regulariser_counts_labelled_anchors_only() -> None:
    trunk, heads = tiny.trunk(), joint(rank=2)
    anchors = torch.tensor([[0, 1, 2, 3, 4, 5, 6], [0, 1, 2, 4, 5, 6, 7]])
    every, chosen = batch(heads, trunk), batch(heads, trunk, anchors)
    prior = heads.prior(every.states.hidden).exp().detach()
    mean = torch.cat([prior[0, :7], prior[1, :3]]).mean(0)
    assert abs(value(heads, every) + 0.05 * float((2 * mean).log().sum())) < 1e-12
    assert abs(value(heads, chosen) - value(heads, every)) < 1e-12
    assert value(heads, batch(heads, trunk, torch.tensor([[8], [4]]))) == 0
    assert joint(balance=0.0).regulariser(every) is None and joint(depth=0).regulariser(every) is None
    assert list(joint(depth=0).train_depths(every)) == []


@pytest.mark.parametrize(("settings", "said"), [({"rank": 0}, "rank=0"), ({"balance": -1.0}, "balance=-1.0")])
def test_wrong_options_are_named(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=f"heads: {said}, expected"):
        JointHeadsConfig(**settings)
