"""Losses as pure functions."""

import math
from typing import get_args

import pytest
import torch
import torch.nn.functional as F
from tiny import generator
from torch import Tensor

from speechmtp.decoding.sampling import SamplingConfig
from speechmtp.errors import ConfigError
from speechmtp.training.losses import (
    Kind,
    MultiTokenConfig,
    depth_weights,
    in_chunks,
    rows_against_teacher,
    rows_ce,
)
from speechmtp.training.tasks.ctc import consistency_loss, ctc_loss

TEACHER_KINDS: list[Kind] = [kind for kind in get_args(Kind) if kind != "ce"]


@pytest.mark.parametrize(
    ("config", "depth", "expected"),
    [
        (MultiTokenConfig(), 3, [1.0, 0.4, 0.32, 0.256]),
        (MultiTokenConfig(), 0, [1.0]),
        (MultiTokenConfig(scale=0), 2, [1.0, 0.0, 0.0]),
        (MultiTokenConfig(scale=1.0), 5, [1.0, 0.8, 0.64, 0.512, 0.4096, 0.32768]),  # VocalNet, Medusa-1
        (MultiTokenConfig(scale=1.0, decay=1.0), 3, [1.0, 1.0, 1.0, 1.0]),  # Gloeckle
        (MultiTokenConfig(scale=0.3, decay=1.0, normalise=True), 3, [1.0, 0.1, 0.1, 0.1]),  # DeepSeek: lambda / D
        (MultiTokenConfig(scale=0.3, decay=1.0, normalise=True), 1, [1.0, 0.3]),
        (MultiTokenConfig(scale=1.0, decay=0.6, normalise=True, base=0), 3, [0.0, 0.5102, 0.3061, 0.1837]),  # FastMTP
        (MultiTokenConfig(scale=0.5, decay=0.0, normalise=True), 2, [1.0, 0.0, 0.0]),
    ],
)
def test_weights_of_the_depths(config: MultiTokenConfig, depth: int, expected: list[float]) -> None:
    assert depth_weights(config, depth) == pytest.approx(expected, abs=5e-5)
    if config.normalise and config.decay and depth:
        assert sum(depth_weights(config, depth)[1:]) == pytest.approx(config.scale)


def test_warm_up_raises_the_heads_and_leaves_the_base() -> None:
    config = MultiTokenConfig(scale=0.2, decay=1.0, warmup=4)  # Medusa-2
    weights = [depth_weights(config, 2, step) for step in range(6)]
    assert [w[0] for w in weights] == [1.0] * 6
    assert [w[1] for w in weights] == pytest.approx([0.05, 0.1, 0.15, 0.2, 0.2, 0.2])
    assert weights[-1] == depth_weights(config, 2)
    assert depth_weights(MultiTokenConfig(), 2, 0) == depth_weights(MultiTokenConfig(), 2)


@pytest.mark.parametrize("wrong", [{"scale": -1.0}, {"decay": -0.1}, {"base": -1.0}, {"chunk": 0}, {"warmup": -1}])
def test_wrong_settings_are_one_line(wrong: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=r"loss: .* expected, found") as caught:
        MultiTokenConfig(**wrong)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


def logits(seed: int, rows: int = 5, size: int = 6) -> Tensor:
    """Random logits [R, V]."""
    return 2 * torch.randn(rows, size, generator=generator(seed), dtype=torch.float64)


def by_hand(kind: Kind, q: list[float], p: list[float], eta: float = 3.0) -> float:
    """A loss of distributions q and p over the same tokens, in plain sums; p may lack mass."""
    inside = [x / sum(p) for x in p]
    forward = sum(a * math.log(a / b) for a, b in zip(inside, q))
    alpha = sum(map(min, p, q))
    share = math.exp(-eta * alpha)
    return {
        "kd": forward,
        "reverse_kl": sum(b * math.log(b / a) for a, b in zip(inside, q)),
        "tv": 1 - alpha,
        "lk_alpha": -math.log(alpha),
        "lk_hybrid": share * forward + (1 - share) * (1 - alpha),
    }[kind]


@pytest.mark.parametrize("kind", TEACHER_KINDS)
@pytest.mark.parametrize("ids", [None, [4, 0, 2]])
@pytest.mark.parametrize("eta", [3.0, 10.0])
def test_each_loss_equals_its_formula(kind: Kind, ids: list[int] | None, eta: float) -> None:
    """With a shortlist: acceptance of the distribution as it is, divergences of the distribution within the
    shortlist."""
    head, target = logits(0, size=len(ids) if ids else 6), logits(1)
    config = MultiTokenConfig(kind=kind, eta=eta)
    loss = rows_against_teacher(head, target, None if ids is None else torch.tensor(ids), config)
    expected = 0.0
    for q, p in zip(head.softmax(-1).tolist(), target.softmax(-1).tolist()):
        expected += by_hand(kind, q, p if ids is None else [p[i] for i in ids], eta)
    assert float(loss) == pytest.approx(expected, rel=1e-10)


def test_distributions_that_agree_cost_nothing_and_shortlists_what_they_lack() -> None:
    target = logits(2)
    for kind in TEACHER_KINDS:
        config = MultiTokenConfig(kind=kind)
        assert float(rows_against_teacher(target, target, None, config)) == pytest.approx(0, abs=1e-12)
    ids = torch.tensor([1, 3])
    lacking = float((1 - target.softmax(-1)[:, ids].sum(-1)).sum())
    inside = rows_against_teacher(target[:, ids], target, ids, MultiTokenConfig(kind="tv"))
    assert float(inside) == pytest.approx(lacking, rel=1e-10), (
        "q >= p everywhere: all the distribution's mass within is met"
    )
    assert float(rows_against_teacher(target[:, ids], target, ids, MultiTokenConfig(kind="kd"))) == pytest.approx(
        0, abs=1e-9
    )


def gradient(kind: Kind, head: Tensor, target: Tensor, ids: Tensor | None = None) -> Tensor:
    """d loss / d logits [R, V]."""
    leaf = head.clone().requires_grad_()
    rows_against_teacher(leaf, target, ids, MultiTokenConfig(kind=kind)).backward()
    assert leaf.grad is not None
    return leaf.grad


@pytest.mark.parametrize("ids", [None, [4, 0, 2]])
def test_gradients_equal_their_formulas(ids: list[int] | None) -> None:
    """tv: d alpha / d z_j = q_j (1[q_j < p_j] - sum_v q_v 1[q_v < p_v]); lk_alpha: that over -alpha."""
    index = None if ids is None else torch.tensor(ids)
    head, target = logits(3, size=len(ids) if ids else 6), logits(4)
    q, p = head.softmax(-1), target.softmax(-1)
    p = p if index is None else p[:, index]
    below = (q < p).double()
    rise = q * (below - (q * below).sum(-1, keepdim=True))
    alpha = torch.minimum(p, q).sum(-1, keepdim=True)
    torch.testing.assert_close(gradient("tv", head, target, index), -rise, rtol=0, atol=1e-12)
    torch.testing.assert_close(gradient("lk_alpha", head, target, index), -rise / alpha, rtol=0, atol=1e-12)
    kd = q - p / p.sum(-1, keepdim=True)
    torch.testing.assert_close(gradient("kd", head, target, index), kd, rtol=0, atol=1e-12)
    share = (-3.0 * alpha).exp()  # no gradient through it
    hybrid = share * kd - (1 - share) * rise
    torch.testing.assert_close(gradient("lk_hybrid", head, target, index), hybrid, rtol=0, atol=1e-12)


def test_log_acceptance_of_a_certain_distribution_is_cross_entropy() -> None:
    head, labels = logits(5), torch.tensor([0, 5, 2, 2, 1])
    certain = 1000.0 * F.one_hot(labels, 6).double()
    config = MultiTokenConfig(kind="lk_alpha")
    expected = F.cross_entropy(head, labels, reduction="sum")
    assert float(rows_against_teacher(head, certain, None, config)) == pytest.approx(float(expected), rel=1e-10)
    leaf = head.clone().requires_grad_()
    rows_ce(leaf, labels).backward()
    assert leaf.grad is not None
    torch.testing.assert_close(gradient("lk_alpha", head, certain), leaf.grad, rtol=0, atol=1e-12)


def test_cross_entropy_is_summed_in_float32_at_least() -> None:
    head, labels = logits(6), torch.tensor([0, 5, 2, 2, 1])
    for smoothing in (0.0, 0.1):
        expected = F.cross_entropy(head, labels, reduction="sum", label_smoothing=smoothing)
        assert float(rows_ce(head, labels, smoothing)) == pytest.approx(float(expected), rel=1e-12)
    assert rows_ce(head.bfloat16(), labels).dtype == torch.float32
    for kind in TEACHER_KINDS:
        assert (
            rows_against_teacher(head.bfloat16(), head.bfloat16(), None, MultiTokenConfig(kind=kind)).dtype
            == torch.float32
        )


@pytest.mark.parametrize("chunk", [1, 3, 7, 100])
def test_chunks_change_neither_value_nor_gradient(chunk: int) -> None:
    weight = torch.randn(9, 4, generator=generator(7), dtype=torch.float64).requires_grad_()
    states = torch.randn(7, 4, generator=generator(8), dtype=torch.float64).requires_grad_()
    labels = torch.randint(0, 9, (7,), generator=generator(9))
    run = lambda h, y: rows_ce(h @ weight.T, y)  # noqa: E731
    whole = torch.autograd.grad(run(states, labels), (weight, states))
    value = in_chunks(run, chunk, states, labels)
    assert value.item() == pytest.approx(run(states, labels).item(), rel=1e-12)
    for part, expected in zip(torch.autograd.grad(value, (weight, states)), whole):
        torch.testing.assert_close(part, expected, rtol=0, atol=1e-12)
    with torch.no_grad():
        assert in_chunks(run, chunk, states, labels).item() == pytest.approx(value.item(), rel=1e-12)


def test_chunks_never_hold_all_logits_and_no_rows_are_zero() -> None:
    seen: list[int] = []

    def run(h: Tensor) -> Tensor:
        seen.append(len(h))
        return (h * h).sum()

    states = torch.ones(10, 2, requires_grad=True)
    in_chunks(run, 4, states).backward()
    assert seen[:3] == [4, 4, 2] and sorted(seen[3:]) == [2, 4, 4], "computed again in the backward pass"
    assert float(in_chunks(run, 4, states[:0])) == 0.0


def test_ctc_counts_every_path() -> None:
    """Three uniform steps over two labels and blank: of 27 paths 6 read "a" and one reads "a a"."""
    logits = torch.zeros(1, 3, 3)
    for targets, paths in (([0], 6), ([0, 0], 1), ([0, 1], 5)):
        loss = ctc_loss(logits, torch.tensor([3]), torch.tensor([targets]), torch.tensor([len(targets)]), 2)
        assert float(loss) == pytest.approx(-math.log(paths / 27), rel=1e-5)
    none = ctc_loss(logits, torch.tensor([3]), torch.tensor([[0, 0, 0]]), torch.tensor([3]), 2)
    assert float(none) == 0.0  # impossible: counted elsewhere, never infinite


def test_agreement_of_equal_views_is_zero_and_its_gradient_too() -> None:
    view = torch.randn(2, 5, 4, generator=generator(2))
    both = torch.cat([view, view]).requires_grad_()
    loss = consistency_loss(both, torch.tensor([5, 3, 5, 3]))
    loss.backward()
    assert loss.item() == pytest.approx(0, abs=1e-6)
    assert both.grad is not None and float(both.grad.abs().max()) < 1e-6


def test_agreement_is_symmetric_and_ignores_padding() -> None:
    first, second = (torch.randn(2, 5, 4, generator=generator(seed)) for seed in (3, 4))
    lengths = torch.tensor([5, 3])
    loss = float(consistency_loss(torch.cat([first, second]), lengths.repeat(2)))
    assert loss > 0.1
    assert float(consistency_loss(torch.cat([second, first]), lengths.repeat(2))) == pytest.approx(loss, rel=1e-5)
    p, q = first.log_softmax(-1), second.log_softmax(-1)
    expected = ((p.exp() - q.exp()) * (p - q)).sum(-1)
    assert loss == pytest.approx(float(expected[0].sum() + expected[1, :3].sum()), rel=1e-5)
    spoiled = torch.cat([first, second])
    spoiled[1, 3:] = 50.0
    assert float(consistency_loss(spoiled, lengths.repeat(2))) == pytest.approx(loss, rel=1e-5)


def test_each_view_is_drawn_towards_the_other_held_fixed() -> None:
    both = torch.randn(2, 1, 4, generator=generator(5)).requires_grad_()
    consistency_loss(both, torch.tensor([1, 1])).backward()
    p, q = both.detach().softmax(-1)
    assert both.grad is not None
    # d/dz KL(q || softmax(z)) = softmax(z) - q, whatever else z is in.
    assert torch.allclose(both.grad[0], p - q, atol=1e-6) and torch.allclose(both.grad[1], q - p, atol=1e-6)


@pytest.mark.parametrize("kind", [kind for kind in TEACHER_KINDS if kind != "reverse_kl"])
def test_the_target_is_the_law_that_tokens_are_drawn_from(kind: Kind) -> None:
    """Temperature and top-k as transformers' processors have them, against losses computed a row at a time."""
    rng = generator(3)
    heads, trunk = (torch.randn(6, 9, generator=rng, dtype=torch.float64) for _ in range(2))
    heads.requires_grad_()
    config = MultiTokenConfig(kind=kind, temperature=0.7, top_k=4)
    drawn = SamplingConfig(temperature=0.7, top_k=4).processors()
    assert drawn is not None
    law = drawn(trunk[None], lambda: [])[0].softmax(-1)
    expected = torch.zeros((), dtype=torch.float64)
    for p, logits in zip(law, heads):
        q = (logits / 0.7).softmax(-1)
        alpha = torch.minimum(p, q).sum()
        divergence = sum(a * (a / b).log() for a, b in zip(p, q) if a > 0)
        share = math.exp(-3.0 * float(alpha.detach()))
        whole = {"kd": divergence, "tv": 1 - alpha, "lk_alpha": -alpha.log()}
        expected = expected + whole.get(kind, share * divergence + (1 - share) * (1 - alpha))
    found = rows_against_teacher(heads, trunk, None, config)
    torch.testing.assert_close(found, expected)
    gradients = [torch.autograd.grad(loss, heads, retain_graph=True)[0] for loss in (found, expected)]
    torch.testing.assert_close(*gradients)


def test_a_shortlist_that_holds_none_of_the_drawn_tokens_has_a_finite_loss() -> None:
    trunk = torch.arange(8.0).repeat(2, 1)
    heads = torch.zeros(2, 3, requires_grad=True)
    for kind in ("kd", "tv", "lk_alpha", "lk_hybrid"):
        config = MultiTokenConfig(kind=kind, top_k=2)  # type: ignore[arg-type]
        loss = rows_against_teacher(heads, trunk, torch.tensor([0, 1, 2]), config)
        assert torch.isfinite(loss) and torch.isfinite(torch.autograd.grad(loss, heads)[0]).all()


def test_sampling_that_no_loss_can_have_is_one_line() -> None:
    with pytest.raises(ConfigError, match=r"loss: temperature 0, top_k 0, expected a temperature above 0"):
        MultiTokenConfig(temperature=0)
    with pytest.raises(ConfigError, match=r"loss: reverse_kl with top_k is infinite; take tv"):
        MultiTokenConfig(kind="reverse_kl", top_k=5)
