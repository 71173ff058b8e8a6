"""Every family: where training starts, which tokens a depth reads, samples packed into rows, and no depth at all."""

from dataclasses import replace

import pytest
import tiny
import torch
from families import CONFIGS, NAMES, D, batch_of, features_of, heads_of, kind_of, tokens_read, trunk_of
from torch import Tensor

from speechmtp.heads.table import FAMILIES, build_heads

every = pytest.mark.parametrize("name", NAMES)
SIZE = 9


def row(name: str, seed: int = 0, size: int = SIZE, rows: int = 1) -> tuple[Tensor, Tensor, Tensor]:
    """Embeddings, ids and positions of random tokens, every entry one of them."""
    ids = torch.randint(0, tiny.VOCAB, (rows, size), generator=tiny.generator(seed))
    return trunk_of(name).embed(ids).detach(), ids, torch.arange(size).repeat(rows, 1)


def test_every_family_of_the_table_is_tested_here() -> None:
    assert {type(config) for config in CONFIGS.values()} == set(FAMILIES)
    assert {config.kind for config in FAMILIES} == {kind_of(name) for name in NAMES}  # type: ignore[attr-defined]
    for kind in {kind_of(name) for name in NAMES}:
        variants = [config for name, config in CONFIGS.items() if kind_of(name) == kind]
        assert {bool(config.taps) for config in variants} == {False, True}, "each with and without taps"


@torch.no_grad()
@every
def test_training_starts_at_the_base_head(name: str) -> None:
    """Every depth says at every index what the trunk says next. `block` cannot: its masks say nothing until a layer
    has read the context, so it starts from the trunk's own last layer. `joint` is near it: its components differ by
    a little noise, since equal ones would stay equal."""
    trunk = tiny.trunk(0, gain=1.0)
    with torch.random.fork_rng():
        heads = build_heads(CONFIGS[name], trunk.shape).double().eval()
    heads.start_from(trunk)
    _, ids, positions = row(name, rows=2)
    inputs = trunk.embed(ids)
    batch = batch_of(trunk, heads, inputs, ids, positions)
    base = trunk.unembed(batch.states.hidden)
    if heads.shortlist is not None:
        base = base[..., heads.shortlist]
    off = []
    for d, features in enumerate(heads.train_depths(batch), 1):
        logits = heads.logits(features, d, batch.unembed)
        assert logits.shape == (2, SIZE, heads.vocab_size)
        known = slice(0, SIZE - d + 1)  # behind it the tokens to read are of no sample
        difference = logits[:, known].log_softmax(-1) - base[:, known].log_softmax(-1)
        off.append(float(difference.abs().max()))
    assert len(off) == D
    if kind_of(name) == "block":
        assert min(off) > 1e-2, "if it could, it would be held to it as the others are"
    else:
        assert max(off) < (1e-2 if kind_of(name) == "joint" else 1e-5)


@torch.no_grad()
@every
def test_a_token_changes_just_the_depths_that_read_it(name: str) -> None:
    """Token x_j changed, in its id, its embedding and the trunk's states: features of depth d at t move if j <= t, or
    if the family reads x_j; otherwise they stay what they were."""
    trunk, heads = trunk_of(name), heads_of(name)
    inputs, ids, positions = row(name)
    before = features_of(heads, batch_of(trunk, heads, inputs, ids, positions))[0]
    for j in range(SIZE):
        other = ids.clone()
        other[0, j] = (other[0, j] + 4) % heads.vocab_size  # one that can be drafted
        changed = inputs.clone()
        changed[0, j] = trunk.embed(other[0, j])
        after = features_of(heads, batch_of(trunk, heads, changed, other, positions))[0]
        moved = (after - before).abs().amax(-1)
        for t in range(SIZE):
            for d in range(1, D + 1):
                if t + d >= SIZE:
                    continue  # its label is of no sample
                reads = j <= t or j - t in tokens_read(name, d)
                assert (float(moved[t, d - 1]) > 1e-6) == reads, (j, t, d)
                assert reads or float(moved[t, d - 1]) < 1e-12, (j, t, d)


@torch.no_grad()
@every
def test_fault_11_packed_samples_are_what_they_are_alone(name: str) -> None:
    """Three samples in a row with padding between and behind, positions counted anew; and the same in another order."""
    trunk, heads = trunk_of(name), heads_of(name)
    sizes = [5, 1, 6]
    samples = [row(name, seed, size) for seed, size in enumerate(sizes)]
    alone = [features_of(heads, batch_of(trunk, heads, *sample))[0] for sample in samples]
    for order, gaps in (((0, 1, 2), (2, 0, 3)), ((2, 0, 1), (0, 1, 0))):
        parts: list[tuple[Tensor, Tensor, Tensor]] = []
        segments: list[int] = []
        for number, (index, gap) in enumerate(zip(order, gaps)):
            padding = row(name, 10 + number, gap) if gap else None
            parts += [samples[index], *([] if padding is None else [padding])]
            segments += [number] * sizes[index] + [-1] * gap
        inputs, ids, positions = (torch.cat(column, 1) for column in zip(*parts))
        packed = batch_of(trunk, heads, inputs, ids, positions, torch.tensor([segments]))
        found = features_of(heads, packed)[0]
        start = 0
        for index, gap in zip(order, gaps):
            for d in range(1, D + 1):
                known = max(0, sizes[index] - d)  # depth d reads tokens up to t + d
                wanted = alone[index][:known, d - 1]
                torch.testing.assert_close(found[start : start + known, d - 1], wanted, rtol=0, atol=1e-9)
            start += sizes[index] + gap
        assert bool(found.isfinite().all())


@torch.no_grad()
@every
def test_padding_behind_ragged_rows_is_never_read(name: str) -> None:
    trunk, heads = trunk_of(name), heads_of(name)
    inputs, ids, positions = row(name, rows=3)
    lengths = [4, SIZE, 1]
    segments = torch.where(torch.arange(SIZE) < torch.tensor(lengths)[:, None], 0, -1)
    together = features_of(heads, batch_of(trunk, heads, inputs, ids, positions, segments))
    for place, size in enumerate(lengths):
        one = slice(place, place + 1)
        alone = batch_of(trunk, heads, inputs[one, :size], ids[one, :size], positions[one, :size])
        for d, wanted in enumerate(heads.train_depths(alone), 1):
            known = max(0, size - d)
            torch.testing.assert_close(together[place, :known, d - 1], wanted[0, :known], rtol=0, atol=1e-9)


@torch.no_grad()
@every
def test_anchors_pick_indices_and_change_nothing(name: str) -> None:
    trunk, heads = trunk_of(name), heads_of(name)
    batch = batch_of(trunk, heads, *row(name, rows=2))
    anchors = torch.tensor([[1, 4, 5], [0, 2, 5]])
    whole = features_of(heads, batch)
    picked = features_of(heads, replace(batch, anchors=anchors))
    wanted = whole[torch.arange(2)[:, None], anchors]
    torch.testing.assert_close(picked, wanted, rtol=0, atol=1e-12)


@torch.no_grad()
@every
def test_depth_d_reads_its_own_weights_or_shares_them_all(name: str) -> None:
    """Each parameter moves some depth; what depth d alone owns moves no depth before it."""
    trunk, heads = trunk_of(name), heads_of(name)
    batch = batch_of(trunk, heads, *row(name))
    unembed = batch.unembed

    def said() -> Tensor:
        features = list(heads.train_depths(batch))
        return torch.stack([heads.logits(f, d, unembed) for d, f in enumerate(features, 1)])[:, :, : SIZE - D]

    before = said()
    for key, parameter in heads.named_parameters():
        kept = parameter.clone()
        parameter.add_(0.3 * torch.randn(parameter.shape, generator=tiny.generator(3), dtype=torch.float64))
        moved = (said() - before).abs().amax((1, 2, 3)) > 1e-9
        assert bool(moved.any()), key
        numbered = key.split(".")[1] if key.startswith("modules_.") else "0"
        assert not bool(moved[: int(numbered)].any()), key
        parameter.copy_(kept)
    assert torch.equal(said(), before)


@every
def test_depth_zero_is_no_depth(name: str) -> None:
    trunk = trunk_of(name)
    heads = build_heads(replace(CONFIGS[name], depth=0), trunk.shape).double()
    heads.start_from(trunk)
    assert list(heads.train_depths(batch_of(trunk, heads, *row(name)))) == []
    assert heads.depth == 0 and heads.taps[: len(CONFIGS[name].taps)] == CONFIGS[name].taps
