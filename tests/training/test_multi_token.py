"""The multi-token loss over trunk and heads: whose labels, whose distribution, whose gradients."""

from dataclasses import replace
from typing import Any, get_args

import pytest
import tiny
import torch
from small_sequences import TEXTS, by_hand, one_row, sequences, weighted
from torch import Tensor

from speechmtp.heads.contract import HeadSet
from speechmtp.heads.labels import IGNORED
from speechmtp.heads.table import FAMILIES
from speechmtp.training.losses import Kind, MultiTokenConfig, rows_against_teacher, rows_ce
from speechmtp.training.multi_token import anchors_of, multi_token_loss

KINDS = [family.kind for family in FAMILIES]  # type: ignore[attr-defined]
PLAIN = [kind for kind in KINDS if kind != "joint"]  # joint adds a term of its own
every = pytest.mark.parametrize("kind", KINDS)


def value(*arguments: Any, **options: Any) -> float:
    """The loss as a number."""
    with torch.no_grad():
        return float(multi_token_loss(*arguments, **options)[0])


@pytest.mark.parametrize("kind", PLAIN)
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_every_depth_has_its_own_mean_over_its_own_labels(kind: str, smoothing: float) -> None:
    trunk, heads = tiny.trunk(0), tiny.heads(kind, 3, 1)
    config = MultiTokenConfig(scale=1.0, smoothing=smoothing)
    rows = sequences(trunk)
    parts = by_hand(trunk, heads, rows, config)
    assert [count for _, count in parts] == [sum(max(0, len(t) + 1 - d) for t in TEXTS) for d in range(4)]
    with torch.no_grad():
        total, values = multi_token_loss(trunk, heads, rows, config)
    assert float(total) == pytest.approx(weighted(parts, config), rel=1e-6)
    base = parts[0][1]
    assert values["ce"] == pytest.approx(parts[0][0], rel=1e-9)
    for d in (1, 3):
        assert values[f"loss_{d}"] == pytest.approx(base * parts[d][0] / parts[d][1], rel=1e-6)


@pytest.mark.parametrize("heads", ["latent", "chain"])
@pytest.mark.parametrize("kind", [kind for kind in get_args(Kind) if kind != "ce"])
@pytest.mark.parametrize("shortlist", [0, 9])
def test_the_distribution_is_the_trunks_own_where_the_token_is_predicted(
    heads: str, kind: Kind, shortlist: int
) -> None:
    """Row t + d of the trunk speaks of x_{t+1+d}; its neighbours would give another loss."""
    trunk, head_set = tiny.trunk(0), tiny.heads(heads, 3, 1, shortlist=shortlist)
    config = MultiTokenConfig(kind=kind, scale=1.0)
    rows = sequences(trunk)
    drafted = lambda target, d: not shortlist or d == 0 or target < shortlist  # noqa: E731
    expected = weighted(by_hand(trunk, head_set, rows, config, asked=drafted), config)
    assert value(trunk, head_set, rows, config) == pytest.approx(expected, rel=1e-6)
    for wrong in (-1, 1):
        parts = by_hand(trunk, head_set, rows, config, wrong, drafted)
        assert abs(weighted(parts, config) - expected) > 1e-3 * expected


def test_tokens_that_cannot_be_drafted_are_not_asked_for() -> None:
    trunk, heads = tiny.trunk(0), tiny.heads("latent", 2, 1, shortlist=3)
    heads.shortlist.copy_(torch.tensor([7, 2, 4]))
    rows, config = sequences(trunk), MultiTokenConfig(scale=1.0)
    parts = by_hand(trunk, heads, rows, config, asked=lambda target, d: d == 0 or target in (7, 2, 4))
    assert 0 < parts[1][1] < parts[0][1] - 5
    assert value(trunk, heads, rows, config) == pytest.approx(weighted(parts, config), rel=1e-6)


@every
def test_padding_has_neither_loss_nor_gradient(kind: str) -> None:
    trunk, heads = tiny.trunk(0), tiny.heads(kind, 3, 1)
    rows, config = sequences(trunk), MultiTokenConfig(scale=1.0, smoothing=0.1)
    padding = rows.segments < 0
    leaf = rows.embeddings.detach().requires_grad_()
    loss, _ = multi_token_loss(trunk, heads, replace(rows, embeddings=leaf), config)
    loss.backward()
    assert leaf.grad is not None and bool(padding.any())
    assert bool((leaf.grad[padding] == 0).all()) and float(leaf.grad[~padding].abs().max()) > 0
    spoiled = replace(rows, embeddings=leaf.detach().masked_fill(padding[..., None], 3.0))
    assert value(trunk, heads, spoiled, config) == pytest.approx(loss.item(), rel=1e-12)


@every
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("frozen", [False, True])
def test_a_sample_shorter_than_the_block_gives_zero_not_nan(kind: str, smoothing: float, frozen: bool) -> None:
    """Two targets: depths 2 to 4 have no label, and the weights of what lies there do not move."""
    trunk, heads = tiny.trunk(0), tiny.heads(kind, 4, 1)
    config = MultiTokenConfig(scale=1.0, smoothing=smoothing)
    total, values = multi_token_loss(trunk, heads, sequences(trunk, [[5]], [3]), config, frozen=frozen)
    total.backward()
    assert values["loss_1"] > 0 and values["loss_4"] == 0.0 and bool(total.isfinite())
    for name, parameter in heads.named_parameters():
        assert parameter.grad is None or bool(parameter.grad.isfinite().all()), name
    for length in (0, 1):  # no label for the heads; none at all
        short = sequences(trunk, [[]], [3])
        if length == 0:
            short = replace(short, starts=torch.zeros_like(short.starts))
        total, values = multi_token_loss(trunk, heads, short, config, frozen=frozen)
        assert bool(total.isfinite()) and values["loss_1"] == values["loss_4"] == 0.0
        assert (float(total.detach()) != 0) == (length == 1 and not frozen)


@every
@pytest.mark.parametrize("loss", ["ce", "tv"])
def test_fault_18_a_batch_twice_doubles_every_depth(kind: str, loss: Kind) -> None:
    trunk, heads = tiny.trunk(0), tiny.heads(kind, 3, 1)
    rows, config = sequences(trunk), MultiTokenConfig(kind=loss, scale=1.0)
    twice = replace(rows, **{k: torch.cat([v, v]) for k, v in vars(rows).items() if v is not None})
    with torch.no_grad():
        once, parts = multi_token_loss(trunk, heads, rows, config)
        total, doubled = multi_token_loss(trunk, heads, twice, config)
    assert float(total) == pytest.approx(2 * float(once), rel=1e-12)
    assert doubled == pytest.approx({name: 2 * part for name, part in parts.items()}, rel=1e-6)
    assert {"ce", "loss_1", "loss_3"} <= parts.keys()


@pytest.mark.parametrize("kind", PLAIN)
def test_a_ragged_batch_equals_its_rows_alone(kind: str) -> None:
    """Depth by depth, each row's mean with its own number of labels."""
    trunk, config = tiny.trunk(0), MultiTokenConfig(base=0, scale=1.0)
    for depth in (1, 3):
        heads, rows = tiny.heads(kind, depth, 1), sequences(trunk)
        with torch.no_grad():
            _, together = multi_token_loss(trunk, heads, rows, config)
            alone = [multi_token_loss(trunk, heads, one_row(rows, row), config)[1] for row in range(3)]
        for d in {1, depth}:
            counts = [max(0, len(text) + 1 - d) for text in TEXTS]
            bases = [len(text) + 1 for text in TEXTS]
            sums = [part[f"loss_{d}"] * n / base for part, n, base in zip(alone, counts, bases)]
            assert together[f"loss_{d}"] == pytest.approx(sum(bases) * sum(sums) / sum(counts), rel=1e-6)


@pytest.mark.parametrize("kind", PLAIN)
def test_fault_11_a_packed_row_equals_its_samples_in_rows_of_their_own(kind: str) -> None:
    trunk, heads, config = tiny.trunk(0), tiny.heads(kind, 3, 1), MultiTokenConfig(scale=1.0)
    rows = sequences(trunk)
    first, second = one_row(rows, 1), one_row(rows, 2)
    packed: dict[str, Tensor] = {}
    for name, filling in (("embeddings", 3.0), ("positions", 5), ("ids", 4), ("segments", -1), ("starts", True)):
        a, b = getattr(first, name)[0], getattr(second, name)[0]
        if name == "segments":
            b = b + 1
        packed[name] = torch.cat([a, torch.full_like(a[:2], filling), b])[None]
    pair = sequences(trunk)
    pair = replace(pair, **{k: v[1:] for k, v in vars(pair).items() if v is not None})
    assert value(trunk, heads, replace(rows, **packed), config) == pytest.approx(
        value(trunk, heads, pair, config), rel=1e-12
    )


@every
@pytest.mark.parametrize("loss", ["ce", "kd", "lk_hybrid"])
@pytest.mark.parametrize("options", [{}, {"taps": (0, 1), "shortlist": 9}])
def test_fault_19_frozen_moves_the_heads_alone(kind: str, loss: Kind, options: dict[str, Any]) -> None:
    """No gradient for any weight of the trunk, embedding and unembedding included, though all of them ask for one."""
    trunk, heads = tiny.trunk(0), tiny.heads(kind, 3, 1, **options)
    config = MultiTokenConfig(kind=loss, scale=1.0)
    assert all(p.requires_grad for p in trunk.parameters())
    total, values = multi_token_loss(trunk, heads, sequences(trunk), config, frozen=True)
    total.backward()
    assert all(p.grad is None for p in trunk.parameters())
    for name, parameter in heads.named_parameters():
        assert parameter.grad is not None and float(parameter.grad.abs().max()) > 0, name
    assert "ce" not in values, "and the trunk's own loss is not in it"
    moving, _ = multi_token_loss(trunk, heads, sequences(trunk), config)
    moving.backward()
    assert all(p.grad is not None and float(p.grad.abs().max()) > 0 for p in trunk.parameters())


def test_the_trunk_learns_from_the_heads_as_far_as_their_weights_say() -> None:
    """Joint training: the gradient is the base's plus the weighted heads', warm-up included."""
    trunk, heads, rows = tiny.trunk(0), tiny.heads("latent", 2, 1), None
    found = {}
    for name, config, step in (
        ("base", MultiTokenConfig(scale=0), None), ("heads", MultiTokenConfig(base=0, scale=1.0), None),
        ("both", MultiTokenConfig(base=2.0, scale=0.5), None), ("start", MultiTokenConfig(scale=1.0, warmup=4), 0),
    ):  # fmt: skip
        trunk.zero_grad(set_to_none=True)
        rows = sequences(trunk)
        multi_token_loss(trunk, heads, rows, config, step)[0].backward()
        weight = trunk.unembedding().weight.grad
        assert weight is not None
        found[name] = weight.clone()
    for name, expected in (
        ("both", 2 * found["base"] + 0.5 * found["heads"]), ("start", found["base"] + 0.25 * found["heads"]),
    ):  # fmt: skip
        # The trunk's norms take their mean in float32.
        assert float((found[name] - expected).norm() / expected.norm()) < 1e-6


@every
def test_no_heads_leave_the_trunks_own_loss(kind: str) -> None:
    trunk, heads = tiny.trunk(0), tiny.heads(kind, 0)
    rows, config = sequences(trunk), MultiTokenConfig()
    with torch.no_grad():
        total, values = multi_token_loss(trunk, heads, rows, config)
    assert float(total) == pytest.approx(by_hand(trunk, heads, rows, config)[0][0], rel=1e-12)
    assert list(values) == ["ce"]


def test_wanted_masks_targets_at_every_depth() -> None:
    trunk, heads, config = tiny.trunk(0), tiny.heads("chain", 3, 1), MultiTokenConfig(scale=1.0)
    rows = sequences(trunk)
    wanted = (rows.ids != 8) & (rows.ids != 3)
    parts = by_hand(trunk, heads, rows, config, asked=lambda target, d: target not in (8, 3))
    masked = replace(rows, wanted=wanted)
    assert value(trunk, heads, masked, config) == pytest.approx(weighted(parts, config), rel=1e-6)
    assert value(trunk, heads, rows, config) != pytest.approx(weighted(parts, config), rel=1e-3)


def test_anchors_are_labelled_starts_and_no_more_than_asked_for() -> None:
    labels = torch.full((3, 9, 2), IGNORED)
    labels[0, 2:8, 0], labels[0, 2:7, 1], labels[1, 4, 0] = 5, 6, 7
    assert anchors_of(labels).shape == (3, 6) and anchors_of(labels, 6).shape == (3, 6)
    assert anchors_of(labels)[0].tolist() == [2, 3, 4, 5, 6, 7] and anchors_of(labels)[1, 0] == 4
    torch.manual_seed(0)
    drawn: set[tuple[int, ...]] = set()
    for _ in range(200):
        chosen = anchors_of(labels, 3)
        assert chosen.shape == (3, 3) and set(chosen[0].tolist()) <= {2, 3, 4, 5, 6, 7}
        assert chosen[0].tolist() == sorted(set(chosen[0].tolist())) and 4 in chosen[1].tolist()
        drawn.add(tuple(chosen[0].tolist()))
    assert len(drawn) == 20, "every choice of 3 among 6 comes up"
    assert anchors_of(torch.full((2, 4, 3), IGNORED), 2).shape == (2, 1), "a batch without labels has a row of one"


@every
def test_few_anchors_estimate_the_loss_of_all(kind: str) -> None:
    trunk, heads = tiny.trunk(0), tiny.heads(kind, 3, 1)
    rows, config = sequences(trunk, TEXTS[:1], [4]), MultiTokenConfig(base=0, scale=1.0, decay=1.0)
    whole = value(trunk, heads, rows, config)
    torch.manual_seed(0)
    assert value(trunk, heads, rows, config, anchors=100) == pytest.approx(whole, rel=1e-12)
    few = [value(trunk, heads, rows, config, anchors=2) for _ in range(60)]
    assert len(set(few)) > 5 and sum(few) / len(few) == pytest.approx(whole, rel=0.15)


@pytest.mark.parametrize("kind", ["latent", "chain"])
def test_a_distribution_given_takes_the_place_of_depth_zeros_labels(kind: str) -> None:
    """Self-distillation: nothing is lost where the trunk's distribution is as it was, and the heads' loss stays."""
    trunk, heads = tiny.trunk(0), tiny.heads(kind, 2, 1)
    rows, config = sequences(trunk), MultiTokenConfig(scale=1.0)
    with torch.no_grad():
        before = trunk(rows.embeddings, rows.positions, rows.segments).hidden
        other = torch.randn(before.shape, generator=tiny.generator(1), dtype=torch.float64)
        with_labels, plain = multi_token_loss(trunk, heads, rows, config)
        kept, values = multi_token_loss(trunk, heads, rows, config, teacher=before)
        moved, far = multi_token_loss(trunk, heads, rows, config, teacher=other)
        asked = rows.starts & (rows.ids != tiny.EOS)  # from the start token to the last, whose target ends the text
        distributions = trunk.unembed(before[asked]), trunk.unembed(other[asked])
        expected = rows_against_teacher(*distributions, None, MultiTokenConfig(kind="kd"))
        labelled = rows_ce(distributions[0], rows.ids.roll(-1, 1)[asked])
    assert values["ce"] == pytest.approx(0, abs=1e-9)
    assert far["ce"] == pytest.approx(float(expected), rel=1e-9) and plain["ce"] == pytest.approx(float(labelled))
    assert float(with_labels - kept) == pytest.approx(plain["ce"], rel=1e-9)
    assert float(moved - kept) == pytest.approx(far["ce"], rel=1e-9)
    assert values["loss_1"] == far["loss_1"] == plain["loss_1"]


def test_a_distribution_is_held_fixed() -> None:
    trunk = tiny.trunk(0)
    heads: HeadSet = tiny.heads("latent", 1, 1)
    teacher = torch.randn(3, 14, tiny.WIDTH, generator=tiny.generator(1), dtype=torch.float64).requires_grad_()
    rows = sequences(trunk)
    teacher_rows = teacher[:, : rows.ids.shape[1]]
    multi_token_loss(trunk, heads, rows, MultiTokenConfig(scale=0), teacher=teacher_rows)[0].backward()
    assert teacher.grad is None or not bool(teacher.grad.any())
