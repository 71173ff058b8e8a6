"""The label table against plain loops, and what it never does."""

import pytest
import tiny
import torch
import torch.nn.functional as F

from speechmtp.heads.labels import IGNORED, shifted_labels


@pytest.mark.parametrize("seed", range(30))
def test_the_table_equals_plain_loops(seed: int) -> None:
    rng = tiny.generator(seed)
    rows, size, first, depth = torch.randint(1, 9, (4,), generator=rng).tolist()
    first = min(first - 1, size - 1)
    ids = torch.randint(0, tiny.VOCAB, (rows, size), generator=rng)
    lengths = torch.randint(0, size + 1, (rows,), generator=rng)
    labels = shifted_labels(ids, lengths, first, depth - 1)
    assert labels.shape == (rows, size, depth)
    for row in range(rows):
        for index in range(size):
            for d in range(depth):
                target = index + 1 + d
                known = index >= first and target < int(lengths[row])
                assert int(labels[row, index, d]) == (int(ids[row, target]) if known else IGNORED)


@pytest.mark.parametrize("seed", range(10))
def test_fault_17_every_target_is_asked_for_once_at_each_depth(seed: int) -> None:
    rng = tiny.generator(seed)
    ids = torch.arange(20).repeat(4, 1) + 100
    lengths = torch.randint(0, 21, (4,), generator=rng)
    first, depth = 5, 4
    labels = shifted_labels(ids, lengths, first, depth)
    for row, length in enumerate(lengths.tolist()):
        targets = max(0, length - first - 1)  # tokens behind the last entry of the prompt
        for d in range(depth + 1):
            asked = labels[row, :, d][labels[row, :, d] != IGNORED].tolist()
            assert asked == list(range(100 + first + 1 + d, 100 + length))
            assert len(asked) == max(0, targets - d)


def test_fault_16_the_prompt_is_never_a_target_nor_a_start() -> None:
    """Prompt ids perturbed: the loss stays what it is, to the bit."""
    rng = tiny.generator(0)
    ids = torch.randint(0, tiny.VOCAB, (3, 12), generator=rng)
    logits = torch.randn(3, 12, 4, tiny.VOCAB, generator=rng, dtype=torch.float64)
    lengths = torch.tensor([12, 9, 7])
    losses = []
    for change in (0, 1, 5):
        other = ids.clone()
        other[:, :5] = (other[:, :5] + change) % tiny.VOCAB
        labels = shifted_labels(other, lengths, 4, 3)
        losses.append(float(F.cross_entropy(logits.flatten(0, 2), labels.flatten(), ignore_index=IGNORED)))
    assert losses[0] == losses[1] == losses[2]


def test_fault_11_padding_changes_no_label() -> None:
    rng = tiny.generator(1)
    ids = torch.randint(0, tiny.VOCAB, (2, 9), generator=rng)
    lengths = torch.tensor([9, 6])
    labels = shifted_labels(ids, lengths, 2, 3)
    padded = shifted_labels(F.pad(ids, (0, 4), value=7), lengths, 2, 3)
    assert torch.equal(padded[:, :9], labels)
    assert bool((padded[:, 9:] == IGNORED).all()), "0 is an ordinary token and is no filling"
    alone = shifted_labels(ids[1:, :6], lengths[1:], 2, 3)
    assert torch.equal(labels[1:, :6], alone) and bool((labels[1, 6:] == IGNORED).all())


def test_depth_zero_is_next_token_prediction() -> None:
    ids = torch.tensor([[5, 6, 7]])
    assert shifted_labels(ids, torch.tensor([3]), 0, 0).tolist() == [[[6], [7], [IGNORED]]]
