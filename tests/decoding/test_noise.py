"""Noise: Philox against its definition, Gumbels against float64 and bit for bit against separately rounded steps."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from speechmtp.decoding.noise import ACCEPT, DRAFT, FOLLOW, TARGET, Noise, _gumbel
from speechmtp.errors import ShapeError

WORD = 0xFFFFFFFF
GOLDEN_WORDS = [306377917, 1012587480, 3267435914, 1264530629]
GOLDEN_GUMBEL = [1076273526, 1067983111, -1095288010, 1065801474]
GOLDEN_DRAFT = [-1083062694, 1079153540, 1064095503, -1083884777]
GOLDEN_UNIFORM = "0x1.6f2c051b65c43p-1"


def philox(seed: int, counter: tuple[int, int, int, int]) -> list[int]:
    """Philox4x32-10 from its definition, in Python integers."""
    keys = [seed & WORD, seed >> 32 & WORD]
    words = list(counter)
    for _ in range(10):
        first, second = words[0] * 0xD2511F53, words[2] * 0xCD9E8D57
        words = [
            second >> 32 ^ words[1] ^ keys[0],
            second & WORD,
            first >> 32 ^ words[3] ^ keys[1],
            first & WORD,
        ]
        keys = [(keys[0] + 0x9E3779B9) & WORD, (keys[1] + 0xBB67AE85) & WORD]
    return words


def signed(value: int) -> int:
    """A 64-bit value as the int64 with the same bits."""
    return value - (1 << 64) if value >> 63 else value


def noise(seed: int = 7, stream: int = 0, rows: int = 1) -> Noise:
    """Rows of one seed and one stream."""
    return Noise(torch.full((rows,), signed(seed)), torch.full((rows,), stream))


def gumbel_steps(words: np.ndarray) -> np.ndarray:
    """The Gumbel of the specification in numpy float32, where no operation is fused with another; frexp splits."""
    one, real = np.float32(1), np.float32
    coefficients = (7.0376836292e-2, -1.1514610310e-1, 1.1676998740e-1, -1.2420140846e-1, 1.4249322787e-1)
    coefficients += (-1.6668057665e-1, 2.0000714765e-1, -2.4999993993e-1, 3.3333331174e-1)

    def log(value: np.ndarray, near: np.ndarray | None = None) -> np.ndarray:
        mantissa, exponent = np.frexp(value)
        small = mantissa < real(math.sqrt(0.5))
        mantissa = np.where(small, mantissa * real(2), mantissa)
        e = (exponent - small).astype(np.float32)
        f = mantissa - one
        if near is not None:
            f, e = np.where(near < real(0.29), -near, f), np.where(near < real(0.29), real(0), e)
        y = np.zeros_like(f)
        for coefficient in coefficients:
            y = y * f + real(coefficient)
        y = y * f * (f * f) + e * real(-2.12194440e-4) - real(0.5) * (f * f)
        return f + y + e * real(0.693359375)

    x = np.minimum((words.astype(np.float32) + real(0.5)) * real(2.0**-32), real(1 - 2.0**-24))
    return -log(-log(one - x, x))


def all_words() -> Tensor:
    """Both ends of the 32-bit range, the borders of the powers of two, and a million words between."""
    powers = 2 ** torch.arange(32)
    middle = torch.randint(0, 1 << 32, (1_000_000,), generator=torch.Generator().manual_seed(1))
    return torch.cat([torch.arange(2000), WORD - torch.arange(2000), powers, powers - 1, middle])


@pytest.mark.parametrize(
    ("seed", "counter", "words"),
    [
        (0, (0, 0, 0, 0), "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
        ((1 << 64) - 1, (WORD, WORD, WORD, WORD), "408f276d 41c83b0e a20bc7c6 6d5451fd"),
        (0x299F31D0A4093822, (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344), "d16cfe09 94fdcceb 5001e420 24126ea1"),
    ],
)
def test_the_reference_passes_the_published_vectors(seed: int, counter: tuple[int, int, int, int], words: str) -> None:
    """The order of key and counter words is the published one."""
    assert " ".join(f"{word:08x}" for word in philox(seed, counter)) == words


def test_words_are_philox_of_token_position_stream_purpose() -> None:
    """Every word of a ragged batch, with seeds, streams and positions up to the last bit."""
    seeds = [0, (1 << 63) + 5, (1 << 64) - 1, 0x299F31D0A4093822]
    streams = [0, 3, WORD, 0x13198A2E]
    positions = torch.tensor([[0, 1], [5, WORD], [9, 70_000], [0x85A308D3, 2]])
    node = torch.tensor([[-1, 0], [1, 2], [63, 5], [7, 1000]])
    made = Noise(torch.tensor([signed(seed) for seed in seeds]), torch.tensor(streams))
    for purpose in (TARGET, ACCEPT, FOLLOW, DRAFT):
        words = made._words(positions, 3, purpose, node)
        for row in range(4):
            for column in range(2):
                upper = purpose + 256 * (int(node[row, column]) + 1)
                for block in range(3):
                    counter = (block, int(positions[row, column]), streams[row], upper)
                    assert words[row, column, block].tolist() == philox(seeds[row], counter)
    assert torch.equal(made._words(positions, 1, DRAFT)[0, 0], made._words(positions, 1, DRAFT, node)[0, 0])


def test_gumbel_is_bitwise_the_separately_rounded_steps() -> None:
    """No product is fused with a sum, and the split by bits is that by frexp."""
    words = all_words()
    assert torch.equal(_gumbel(words), torch.from_numpy(gumbel_steps(words.numpy())))


def test_gumbel_is_within_the_bounds_of_float64() -> None:
    """Fine in the tail that wins, coarse only where nothing can win."""
    words = all_words()
    x = (words.double() + 0.5) * 2.0**-32
    made, exact = _gumbel(words).double(), -torch.log(-torch.log1p(-x))
    error = (made - exact).abs()
    assert error[(x < 0.5) & (exact < 16)].max() < 6e-7
    assert error[x < 0.5].max() < 1.0e-6  # half a bit of a Gumbel above 16
    assert error[x < 0.999].max() < 4.5e-6
    assert error.max() < 0.35 and exact[error > 1e-3].max() < -2.0
    assert made.min() > -2.82 and made.max() < 22.9 and made.max() > 22.8


def test_argmax_of_log_distribution_plus_gumbel_follows_the_distribution() -> None:
    """Chi-squared of 200 000 positions, seven degrees of freedom."""
    probs = torch.tensor([0.4, 0.25, 0.15, 0.1, 0.06, 0.03, 0.008, 0.002], dtype=torch.float64)
    for purpose in (TARGET, FOLLOW):
        gumbel = noise().gumbel(torch.arange(200_000)[None], 8, purpose)
        counts = (probs.log() + gumbel[0]).argmax(-1).bincount(minlength=8)
        assert float(((counts - 200_000 * probs) ** 2 / (200_000 * probs)).sum()) < 24.3  # p = 0.001


def test_uniforms_are_uniform_and_never_zero_or_one() -> None:
    """Chi-squared over 64 cells; the ends are open, as 52 bits and a half show at both extremes."""
    rows = 100_000
    made = noise(rows=rows).uniform(torch.arange(rows))
    counts = (made * 64).long().bincount(minlength=64)
    assert float(((counts - rows / 64) ** 2 / (rows / 64)).sum()) < 103.4  # 63 degrees of freedom, p = 0.001
    assert made.dtype == torch.float64 and made.min() > 0 and made.max() < 1


@pytest.mark.parametrize("word", [0, WORD])
def test_a_uniform_has_open_ends(monkeypatch: pytest.MonkeyPatch, word: int) -> None:
    """With all bits 0 or all 1 a uniform is inside (0, 1): a token of probability 0 is never kept."""
    monkeypatch.setattr(Noise, "_words", lambda *_: torch.full((1, 1, 1, 4), word))
    made = float(noise().uniform(torch.zeros(1, dtype=torch.long)))
    assert made == (2.0**-53 if word == 0 else 1 - 2.0**-53)


def test_seeds_streams_positions_purposes_and_nodes_are_independent() -> None:
    """Noise that differs in one coordinate only is uncorrelated."""
    positions, node = torch.arange(1000)[None], torch.full((1, 1000), 0)
    base = noise().gumbel(positions, 32, DRAFT)
    others = {
        "seed": noise(seed=8).gumbel(positions, 32, DRAFT),
        "upper half of the seed": noise(seed=7 + (1 << 32)).gumbel(positions, 32, DRAFT),
        "stream": noise(stream=1).gumbel(positions, 32, DRAFT),
        "position": noise().gumbel(positions + 1, 32, DRAFT),
        "purpose": noise().gumbel(positions, 32, TARGET),
        "node": noise().gumbel(positions, 32, DRAFT, node),
        "next node": noise().gumbel(positions, 32, DRAFT, node + 1),
        "token": base.roll(1, -1),
    }
    made = torch.stack([base, *others.values()]).flatten(1).double()
    correlation = torch.corrcoef(made).fill_diagonal_(0)
    assert correlation.abs().max() < 5 / math.sqrt(made.shape[1]), list(others)


def test_a_rows_bits_depend_on_no_other_row_and_on_no_size() -> None:
    """Alone, selected, by mask, at fewer positions or with a larger vocabulary: the same bits."""
    made = Noise(torch.tensor([4, -1, 1 << 40]), torch.tensor([2, 0, 9]))
    positions = torch.arange(12).view(3, 4)
    whole = made.gumbel(positions, 11, TARGET)
    assert whole.shape == (3, 4, 11) and whole.dtype == torch.float32
    rows = torch.tensor([2, 0, 2])
    assert torch.equal(made.select(rows).gumbel(positions[rows], 11, TARGET), whole[rows])
    assert torch.equal(made.select(rows).uniform(positions[rows, 0]), made.uniform(positions[:, 0])[rows])
    mask = torch.tensor([False, True, True])
    assert torch.equal(made.select(mask).gumbel(positions[mask], 11, TARGET), whole[mask])
    alone = Noise(made.seeds[1:2], made.noise_keys[1:2])
    assert torch.equal(alone.gumbel(positions[1:2], 11, TARGET), whole[1:2])
    assert torch.equal(made.gumbel(positions[:, 2:3], 30, TARGET)[..., :11], whole[:, 2:3])
    nodes = torch.zeros(3, 1, dtype=torch.long)
    assert torch.equal(made.gumbel(positions, 5, DRAFT, nodes), made.gumbel(positions, 5, DRAFT, nodes.expand(3, 4)))
    spread = Noise(torch.tensor([5]).expand(3), torch.tensor([1]).expand(3))  # not contiguous
    assert torch.equal(spread.gumbel(positions, 4, TARGET)[0], noise(5, 1).gumbel(positions[:1], 4, TARGET)[0])


def test_golden_values() -> None:
    """Seeded outputs never change: integers and the bits of floats as first released."""
    made = Noise(torch.tensor([signed((1 << 63) + 5)]), torch.tensor([3]))
    positions = torch.tensor([[2]])
    assert made._words(positions, 1, TARGET).flatten().tolist() == GOLDEN_WORDS
    gumbel = made.gumbel(positions, 4, TARGET).view(torch.int32).flatten().tolist()
    draft = made.gumbel(positions, 4, DRAFT, torch.tensor([[6]])).view(torch.int32).flatten().tolist()
    assert (gumbel, draft) == (GOLDEN_GUMBEL, GOLDEN_DRAFT)
    assert made.uniform(positions[0]).item().hex() == GOLDEN_UNIFORM


def test_wrong_shapes_get_one_line() -> None:
    """Rows that do not fit together are refused."""
    seeds = torch.zeros(2, dtype=torch.long)
    with pytest.raises(ShapeError, match=r"seeds .* of torch\.float32, int64"):
        Noise(seeds.float(), seeds)
    with pytest.raises(ShapeError, match=r"noise_keys \[1\]"):
        Noise(seeds, seeds[:1])
    with pytest.raises(ShapeError, match=r"positions \[3, 1\] for 2 seeds"):
        Noise(seeds, seeds).uniform(torch.zeros(3, dtype=torch.long))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_makes_the_same_bits() -> None:
    """Words, Gumbels and uniforms, bit for bit."""
    made = Noise(torch.tensor([signed((1 << 63) + 5), 1]), torch.tensor([3, 4]))
    there = Noise(made.seeds.cuda(), made.noise_keys.cuda())
    positions = torch.arange(400).view(2, 200)
    for purpose in (TARGET, DRAFT):
        gumbel = there.gumbel(positions.cuda(), 1000, purpose, positions.cuda())
        assert torch.equal(gumbel.cpu(), made.gumbel(positions, 1000, purpose, positions))
    assert torch.equal(there.uniform(positions[:, 0].cuda()).cpu(), made.uniform(positions[:, 0]))
