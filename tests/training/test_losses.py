"""Losses as pure functions."""

import math

import pytest
import torch
import torch.nn.functional as F
from tiny import generator

from speechmtp.heads.labels import IGNORED, shifted_labels
from speechmtp.training.losses import depth_weights, multi_token_loss
from speechmtp.training.tasks.ctc import consistency_loss, ctc_loss, greedy_labels


def test_weights_fall_geometrically_behind_the_next_token() -> None:
    assert depth_weights(3, 0.5, 0.8) == pytest.approx([1.0, 0.4, 0.32, 0.256])
    assert depth_weights(0, 0.5, 0.8) == [1.0]


def ragged(depth: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits and labels of texts of 7, 3 and 5 entries."""
    rng = generator(0)
    ids = torch.randint(0, 6, (3, 7), generator=rng)
    labels = shifted_labels(ids, torch.tensor([7, 3, 5]), 0, depth)
    return torch.randn(3, 7, depth + 1, 6, generator=rng, dtype=torch.float64).requires_grad_(), labels


def test_every_depth_has_its_own_mean_over_its_own_labels() -> None:
    logits, labels = ragged()
    total, parts = multi_token_loss(logits.detach(), labels, [1.0, 0.5, 0.25, 0.125])
    base = int((labels[..., 0] != IGNORED).sum())
    assert base == 6 + 2 + 4
    means = []
    for d in range(4):
        kept = [
            F.cross_entropy(logits[b, t, d].float(), labels[b, t, d]).item()
            for b in range(3) for t in range(7) if labels[b, t, d] != IGNORED
        ]  # fmt: skip
        assert len(kept) == sum(max(0, n - 1 - d) for n in (7, 3, 5))
        means.append(sum(kept) / len(kept))
    assert [p.item() / base for p in parts] == pytest.approx(means, rel=1e-5)
    assert float(total) / base == pytest.approx(sum(w * m for w, m in zip([1, 0.5, 0.25, 0.125], means)), rel=1e-5)


def test_ignored_labels_have_neither_loss_nor_gradient() -> None:
    logits, labels = ragged()
    total, _ = multi_token_loss(logits, labels, [1.0] * 4, smoothing=0.1)
    total.backward()
    assert logits.grad is not None
    ignored = labels == IGNORED
    assert bool((logits.grad[ignored] == 0).all()) and bool((logits.grad[~ignored] != 0).any(-1).all())
    spoiled = logits.detach().masked_fill(ignored[..., None], 1e4)
    assert float(multi_token_loss(spoiled, labels, [1.0] * 4, smoothing=0.1)[0]) == total.item()


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_a_depth_without_labels_gives_zero_not_nan(smoothing: float) -> None:
    ids = torch.tensor([[1, 4, 2]])
    labels = shifted_labels(ids, torch.tensor([3]), 0, 4)
    logits = torch.randn(1, 3, 5, 6, generator=generator(1)).requires_grad_()
    total, parts = multi_token_loss(logits, labels, [1.0] * 5, smoothing)
    total.backward()
    assert [p.item() > 0 for p in parts] == [True, True, False, False, False]
    assert [p.item() for p in parts[2:]] == [0.0] * 3
    assert logits.grad is not None and bool(logits.grad.isfinite().all())
    nothing, _ = multi_token_loss(logits, torch.full_like(labels, IGNORED), [1.0] * 5, smoothing)
    assert nothing.item() == 0.0


def test_repeating_a_batch_doubles_every_part() -> None:
    logits, labels = ragged()
    logits = logits.detach()
    once, parts = multi_token_loss(logits, labels, [1.0] * 4)
    twice, double = multi_token_loss(torch.cat([logits] * 2), torch.cat([labels] * 2), [1.0] * 4)
    assert float(twice) == pytest.approx(2 * float(once))
    assert [float(p) for p in double] == pytest.approx([2 * float(p) for p in parts])


@pytest.mark.parametrize(
    ("best", "expected"),
    [
        ([3, 9, 3], [3, 3]),
        ([3, 3], [3]),
        ([9, 9], []),
        ([3, 3, 9, 9, 3, 4, 4, 9], [3, 3, 4]),
        ([9, 0, 9, 0, 0], [0, 0]),
    ],
)
def test_runs_are_merged_before_blanks_are_removed(best: list[int], expected: list[int]) -> None:
    logits = F.one_hot(torch.tensor([best + [5] * 3]), 10).float()  # class 9 is the blank
    assert greedy_labels(logits, torch.tensor([len(best)])) == [expected]


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
