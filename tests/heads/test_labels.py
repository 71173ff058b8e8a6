"""The label table against plain loops and written-out tables, and what it never does."""

import pytest
import tiny
import torch
import torch.nn.functional as F
from torch import Tensor

from speechmtp.heads.labels import IGNORED, shifted_labels

X = IGNORED


def one_sample(lengths: Tensor, size: int) -> Tensor:
    """Segments [B, L] of one sample a row, padding behind it."""
    return torch.where(torch.arange(size) < lengths[:, None], 0, -1)


def from_entry(first: int, size: int) -> Tensor:
    """Starts [1, L]: from index `first`, the last entry of the prompt, on."""
    return (torch.arange(size) >= first)[None]


@pytest.mark.parametrize("seed", range(30))
def test_the_table_equals_plain_loops(seed: int) -> None:
    """Random packings with padding anywhere, masks and starts."""
    rng = tiny.generator(seed)
    rows, size, depth = torch.randint(1, 9, (3,), generator=rng).tolist()
    ids = torch.randint(-1, tiny.VOCAB, (rows, size), generator=rng)
    segments = torch.randint(-1, 3, (rows, size), generator=rng).sort(1).values
    if seed % 3 == 0:  # padding between samples
        segments = segments.where(torch.rand(rows, size, generator=rng) > 0.2, -1)
    wanted = torch.rand(rows, size, generator=rng) > 0.2 if seed % 2 else None
    starts = torch.rand(rows, size, generator=rng) > 0.2 if seed % 5 else None
    labels = shifted_labels(ids, segments, depth - 1, wanted, starts)
    assert labels.shape == (rows, size, depth)
    for row in range(rows):
        for t in range(size):
            for d in range(depth):
                target = t + 1 + d
                known = target < size and int(segments[row, t]) == int(segments[row, target]) != -1
                known = known and int(ids[row, target]) >= 0
                known = known and (wanted is None or bool(wanted[row, target]))
                known = known and (starts is None or bool(starts[row, t]))
                assert int(labels[row, t, d]) == (int(ids[row, target]) if known else IGNORED)


ONE_TO_SEVEN = torch.arange(1, 8)[None]


# Tables are columns a depth: what depth d is asked for at each index.
WHOLE = [
    [2, 3, 4, 5, 6, 7, X],
    [3, 4, 5, 6, 7, X, X],
    [4, 5, 6, 7, X, X, X],
    [5, 6, 7, X, X, X, X],
]
PACKED = [
    [2, 3, 4, X, 6, 7, X],
    [3, 4, X, X, 7, X, X],
    [4, X, X, X, X, X, X],
    [X, X, X, X, X, X, X],
]
# Entries 1, 2, 3 are the prompt; calls start from its last one on.
STARTS = [
    [X, X, 4, 5, 6, 7, X],
    [X, X, 5, 6, 7, X, X],
    [X, X, 6, 7, X, X, X],
    [X, X, 7, X, X, X, X],
]
# The same prompt masked as targets only: earlier entries are still asked for what stands behind the prompt.
WANTED = [
    [X, X, 4, 5, 6, 7, X],
    [X, 4, 5, 6, 7, X, X],
    [4, 5, 6, 7, X, X, X],
    [5, 6, 7, X, X, X, X],
]
BOTH = STARTS
# Prompts 1, 2 and 5 of the samples 1..4 and 5..7.
PACKED_STARTS = [
    [X, 3, 4, X, 6, 7, X],
    [X, 4, X, X, 7, X, X],
    [X, X, X, X, X, X, X],
    [X, X, X, X, X, X, X],
]
PACKED_WANTED = [
    [X, 3, 4, X, 6, 7, X],
    [3, 4, X, X, 7, X, X],
    [4, X, X, X, X, X, X],
    [X, X, X, X, X, X, X],
]


def masked(prompt: list[int]) -> Tensor:
    """True at the tokens 1..7 that are not in the prompt."""
    return torch.tensor([[token not in prompt for token in range(1, 8)]])


def starting(entries: list[int]) -> Tensor:
    """True at the tokens 1..7 from which calls start."""
    return torch.tensor([[token in entries for token in range(1, 8)]])


@pytest.mark.parametrize("depth", range(4))
@pytest.mark.parametrize(
    ("segments", "wanted", "starts", "table"),
    [
        ([0] * 7, None, None, WHOLE),
        ([5] * 7, None, None, WHOLE),
        ([0, 0, 0, 0, 1, 1, 1], None, None, PACKED),
        ([0] * 7, None, starting([3, 4, 5, 6, 7]), STARTS),
        ([0] * 7, masked([1, 2, 3]), None, WANTED),
        ([0] * 7, masked([1, 2, 3]), starting([3, 4, 5, 6, 7]), BOTH),
        ([0, 0, 0, 0, 1, 1, 1], None, starting([2, 3, 4, 5, 6, 7]), PACKED_STARTS),
        ([0, 0, 0, 0, 1, 1, 1], masked([1, 2, 5]), None, PACKED_WANTED),
    ],
    ids=["whole", "numbered", "packed", "starts", "wanted", "both", "packed-starts", "packed-wanted"],
)
def test_tokens_1_to_7(
    depth: int, segments: list[int], wanted: Tensor | None, starts: Tensor | None, table: list[list[int]]
) -> None:
    labels = shifted_labels(ONE_TO_SEVEN, torch.tensor([segments]), depth, wanted, starts)
    assert labels[0].T.tolist() == table[: depth + 1]


@pytest.mark.parametrize("depth", range(4))
def test_fault_11_samples_are_cut_where_they_stand_in_the_padded_row(depth: int) -> None:
    """1..4, two of padding, 5..7, one of padding; ids under the padding are ordinary tokens, 0 among them."""
    ids = torch.tensor([[1, 2, 3, 4, 0, 9, 5, 6, 7, 8]])
    segments = torch.tensor([[0, 0, 0, 0, -1, -1, 1, 1, 1, -1]])
    table = [
        [2, 3, 4, X, X, X, 6, 7, X, X],
        [3, 4, X, X, X, X, 7, X, X, X],
        [4, X, X, X, X, X, X, X, X, X],
        [X, X, X, X, X, X, X, X, X, X],
    ]
    assert shifted_labels(ids, segments, depth)[0].T.tolist() == table[: depth + 1]


def test_fault_11_padding_changes_no_label() -> None:
    rng = tiny.generator(1)
    ids = torch.randint(0, tiny.VOCAB, (2, 9), generator=rng)
    lengths, starts = torch.tensor([9, 6]), from_entry(2, 9)
    labels = shifted_labels(ids, one_sample(lengths, 9), 3, starts=starts)
    padded = shifted_labels(F.pad(ids, (0, 4), value=7), one_sample(lengths, 13), 3, starts=from_entry(2, 13))
    assert torch.equal(padded[:, :9], labels)
    assert bool((padded[:, 9:] == IGNORED).all()), "0 is an ordinary token and is no filling"
    alone = shifted_labels(ids[1:, :6], one_sample(lengths[1:], 6), 3, starts=from_entry(2, 6))
    assert torch.equal(labels[1:, :6], alone) and bool((labels[1, 6:] == IGNORED).all())


def test_fault_11_moving_a_sample_inside_its_pack_moves_its_labels_with_it() -> None:
    ids = torch.arange(100, 112)[None]
    first, second = ids[:, :5], ids[:, 5:]
    labels = shifted_labels(ids, torch.tensor([[3] * 5 + [8] * 7]), 3)
    turned = shifted_labels(torch.cat([second, first], 1), torch.tensor([[1] * 7 + [0] * 5]), 3)
    assert torch.equal(turned[:, 7:], labels[:, :5]) and torch.equal(turned[:, :7], labels[:, 5:])


def test_fault_16_the_prompt_is_never_a_target_nor_a_start() -> None:
    """Prompt ids perturbed: the loss stays what it is, to the bit."""
    rng = tiny.generator(0)
    ids = torch.randint(0, tiny.VOCAB, (3, 12), generator=rng)
    logits = torch.randn(3, 12, 4, tiny.VOCAB, generator=rng, dtype=torch.float64)
    segments = one_sample(torch.tensor([12, 9, 7]), 12)
    losses = []
    for change in (0, 1, 5):
        other = ids.clone()
        other[:, :5] = (other[:, :5] + change) % tiny.VOCAB
        labels = shifted_labels(other, segments, 3, starts=from_entry(4, 12))
        losses.append(float(F.cross_entropy(logits.flatten(0, 2), labels.flatten(), ignore_index=IGNORED)))
    assert losses[0] == losses[1] == losses[2]


def test_fault_16_entries_without_an_id_are_never_labels() -> None:
    """Audio has no ids: -1 would be read as a class, or as the last token by an index."""
    ids = torch.tensor([[-1, -1, 1, 4, -1, 5]])
    labels = shifted_labels(ids, torch.zeros_like(ids), 2)
    assert labels[0].T.tolist() == [[X, 1, 4, X, 5, X], [1, 4, X, 5, X, X], [4, X, 5, X, X, X]]


@pytest.mark.parametrize("seed", range(10))
def test_fault_17_every_target_is_asked_for_once_at_each_depth(seed: int) -> None:
    rng = tiny.generator(seed)
    ids = torch.arange(20).repeat(4, 1) + 100
    lengths = torch.randint(0, 21, (4,), generator=rng)
    first, depth = 5, 4
    labels = shifted_labels(ids, one_sample(lengths, 20), depth, starts=from_entry(first, 20))
    for row, length in enumerate(lengths.tolist()):
        targets = max(0, length - first - 1)  # tokens behind the last entry of the prompt
        for d in range(depth + 1):
            asked = labels[row, :, d][labels[row, :, d] != IGNORED].tolist()
            assert asked == list(range(100 + first + 1 + d, 100 + length))
            assert len(asked) == max(0, targets - d)


@pytest.mark.parametrize("depth", range(4))
def test_fault_17_the_mask_is_shifted_once_with_its_label(depth: int) -> None:
    """Prompt 1..3, answer 4..7: no depth is asked for 3 (the mask shifted twice would), every depth for 7."""
    labels = shifted_labels(ONE_TO_SEVEN, torch.zeros(1, 7), depth, masked([1, 2, 3]))[0]
    for d in range(depth + 1):
        asked = labels[:, d][labels[:, d] != IGNORED].tolist()
        assert asked == [token for token in (4, 5, 6, 7) if token - 1 - d >= 1]
        hole = shifted_labels(ONE_TO_SEVEN, torch.zeros(1, 7), depth, masked([5]))[0, :, d].tolist()
        assert 5 not in hole and hole.count(X) == 1 + d + (1 if 5 - 1 - d >= 1 else 0)


@pytest.mark.parametrize("depth", range(4))
def test_fault_18_a_batch_twice_asks_for_everything_twice(depth: int) -> None:
    rng = tiny.generator(2)
    ids = torch.randint(0, tiny.VOCAB, (2, 9), generator=rng)
    segments = one_sample(torch.tensor([9, 4]), 9)
    once = shifted_labels(ids, segments, depth, starts=from_entry(2, 9))
    twice = shifted_labels(ids.repeat(2, 1), segments.repeat(2, 1), depth, starts=from_entry(2, 9))
    assert torch.equal(twice, once.repeat(2, 1, 1))
    counts = [(once[..., d] != IGNORED).sum() for d in range(depth + 1)]
    assert [int((twice[..., d] != IGNORED).sum()) for d in range(depth + 1)] == [2 * int(n) for n in counts]
    if depth:
        assert counts[0] > counts[depth], "depths have counts of their own, so that one count for all would show"


def test_depth_zero_is_next_token_prediction() -> None:
    ids = torch.tensor([[5, 6, 7]])
    assert shifted_labels(ids, torch.zeros_like(ids), 0).tolist() == [[[6], [7], [IGNORED]]]
