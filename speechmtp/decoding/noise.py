"""Counter-based noise: every uniform and Gumbel is a pure function of (seed, noise key, output index, token, purpose).

Philox4x32-10 (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3") in integer operations, and logarithms
built from float32 operations that are each exactly rounded: the same bits on every device, for every batch and every
draft. The output index is the number of tokens that the row has emitted so far, special tokens included.

`NoiseAhead` computes the noise of many output indices at once: at batch size 1 a call of `Noise` takes as long for a
hundred as for one. Drafter and trunk need the same indices under seeded coupling, and the next call continues where
this one ended.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache

import torch
from torch import Tensor

from speechmtp.errors import ShapeError

TARGET = 0  # noise of the target distribution; the draft shares it under seeded coupling
ACCEPT = 1  # the uniform of an acceptance test
FOLLOW = 2  # the token after the accepted ones
DRAFT = 3  # the draft's own noise, where it must not share the target's

_ROUNDS = 10
# Constants are zero-dimensional: torch takes them on every device, three times as fast as Python's floats.
_WORD = torch.tensor(0xFFFFFFFF)
_HALF = torch.tensor(0.5)
_ONE = torch.tensor(1.0)
_TO_UNIT = torch.tensor(2.0**-32)
_BELOW_ONE = torch.tensor(1 - 2.0**-24)
_NEAR_ZERO = torch.tensor(0.29)  # below it 1 - x has no exponent to split, see `_gumbel`
# Bits of sqrt(1/2): a float's bits less these hold, above bit 22, its exponent for a mantissa in [sqrt 1/2, sqrt 2).
_ROOT_HALF_BITS = torch.tensor(0x3F3504F3, dtype=torch.int32)
_EXPONENT_BITS = torch.tensor(-(1 << 23), dtype=torch.int32)
# log 2 in two parts, the first short enough for an exact product; 2^-23 as exponents stay in their place.
_LOG2_HIGH = torch.tensor(0.693359375 * 2.0**-23)
_LOG2_LOW = torch.tensor(-2.12194440e-4 * 2.0**-23)
# -(log(1 + f) - f + f^2 / 2) / f^3, highest power first: the minimax polynomial of the Cephes library's logf.
_MINUS_LOG = torch.tensor(
    [
        -7.0376836292e-2,
        1.1514610310e-1,
        -1.1676998740e-1,
        1.2420140846e-1,
        -1.4249322787e-1,
        1.6668057665e-1,
        -2.0000714765e-1,
        2.4999993993e-1,
        -3.3333331174e-1,
    ]
).unbind()


@dataclass(frozen=True)
class Noise:
    """The noise of a batch: `seeds` [B] (64 bits, negative ones as two's complement) and `noise_keys` [B], both int64.

    A key identifies a request, not a row of the batch; its lower 32 bits count. ShapeError for other shapes or dtypes.
    """

    seeds: Tensor
    noise_keys: Tensor

    def __post_init__(self) -> None:
        for name, value in (("seeds", self.seeds), ("noise_keys", self.noise_keys)):
            if value.dtype != torch.int64 or value.ndim != 1 or value.shape != self.seeds.shape:
                raise ShapeError(
                    f"noise: {name} {list(value.shape)} of {value.dtype}, int64 [B] expected for both; "
                    "give one seed and one key a row"
                )

    def select(self, rows: Tensor | Sequence[int]) -> "Noise":
        """The noise of some rows (indices or a mask)."""
        return Noise(self.seeds[rows], self.noise_keys[rows])

    def join(self, other: "Noise") -> "Noise":
        """The noise of these rows, followed by that of another's rows."""
        seeds = torch.cat([self.seeds, other.seeds])
        return type(self)(seeds, torch.cat([self.noise_keys, other.noise_keys]))

    def uniform(self, position: Tensor, purpose: int = ACCEPT) -> Tensor:
        """One uniform number per row at the output indices `position` [B]: float64 [B], above 0 and below 1.

        It is 52 random bits and a half, so that neither `u < ratio` nor `u <= ratio` keeps a token of probability 0.
        """
        words = self._words(position[:, None], 1, purpose)[:, 0, 0]
        return ((words[:, 0] << 20) + (words[:, 1] >> 12)).double().add_(0.5).mul_(2.0**-52)

    def gumbel(self, position: Tensor, size: int, purpose: int, node: Tensor | None = None) -> Tensor:
        """Standard Gumbel noise float32 [B, P, size] at output indices `position` [B, P], for each token id.

        `node` [B, P], or a shape that broadcasts to it, belongs to DRAFT: the drafted node whose children are sampled,
        -1 for the base token, while `position` is the base token's output index for all nodes. Successive drafts
        overlap: the next one starts inside the refused part of this one, at a place that a rule such as block
        verification chose by looking at every drafted token, the refused ones included. Noise that is used again there
        would depend on that choice. Every pair of a base token's index and a node occurs only once, so that no noise is
        used again.
        """
        words = self._words(position, -(-size // 4), purpose, node)
        return _gumbel(words.flatten(2)[..., :size])

    def _words(self, position: Tensor, blocks: int, purpose: int, node: Tensor | None = None) -> Tensor:
        """Words of the blocks 0 .. `blocks` - 1 at `position` [B, P]: int64 [B, P, blocks, 4] below 2^32."""
        if position.ndim != 2 or position.shape[0] != self.seeds.shape[0]:
            raise ShapeError(
                f"noise: positions {list(position.shape)} for {self.seeds.shape[0]} seeds, [B, P] or [B] of as many "
                "rows expected; select the same rows of both"
            )
        # Rows 0 and 1 hold the counter's words 0 and 2, which are multiplied, as int64 below 2^32: the halves of a
        # product are then views, and writing a lower half keeps it there. Of rows 2-3 and 4-5 one pair takes the
        # products, the other holds words 3 and 1, in the order of the products that they are combined with.
        table = position.new_zeros(6, *position.shape, blocks, dtype=torch.int64)
        halves = table.view(torch.int32)
        lower = halves[..., ::2]
        low, high, lanes = lower.unbind(), halves[..., 1::2].unbind(), lower[:2]
        low[0].copy_(torch.arange(blocks, device=position.device))
        low[1].copy_(self.noise_keys[:, None, None])
        low[2].fill_(purpose)
        if node is not None:
            low[2].add_((node[..., None] + 1) << 8)
        low[3].copy_(position[..., None])
        factors, *pairs = table.split(2)
        multipliers, _ = _constants(position.device)
        for number, key in enumerate(self._keys):
            held, made = (4, 2) if number % 2 else (2, 4)
            torch.mul(factors, multipliers, out=pairs[made // 4])
            torch.bitwise_xor(high[made + 1], low[held + 1], out=low[0])
            torch.bitwise_xor(high[made], low[held], out=low[1])
            lanes.bitwise_xor_(key)
        # An even number of rounds: words 1 and 3 are back in rows 3 and 2, with a product's upper half.
        word_0, word_2, word_3, word_1 = table[:4].unbind()
        return torch.stack([word_0, word_1, word_2, word_3], -1).bitwise_and_(_WORD)

    @cached_property
    def _keys(self) -> tuple[Tensor, ...]:
        """The rounds' keys, int32 [2, B, 1, 1] each."""
        halves = self.seeds.contiguous().view(torch.int32).view(-1, 2).T
        return (halves[..., None, None] + _constants(self.seeds.device)[1]).unbind()


@lru_cache(maxsize=8)
def _constants(device: torch.device) -> tuple[Tensor, Tensor]:
    """Multipliers of the two lanes, int64 [2, 1, 1, 1], and what each round adds to the key, int32 [10, 2, 1, 1, 1]."""
    multipliers = torch.tensor([0xD2511F53, 0xCD9E8D57], device=device).view(2, 1, 1, 1)
    weyl = torch.tensor([0x9E3779B9, 0xBB67AE85], device=device) * torch.arange(_ROUNDS, device=device)[:, None]
    return multipliers, weyl.to(torch.int32).view(_ROUNDS, 2, 1, 1, 1)


def _gumbel(words: Tensor) -> Tensor:
    """-log(-log u), u = 1 - x from 32-bit words: float32, of the same shape.

    Large values come from small x, where float32 is finest; the range is -2.8 to 22.9.
    """
    x = words.float().add_(_HALF).mul_(_TO_UNIT).clamp_(max=_BELOW_ONE)
    exponent, f = _split(_ONE - x)
    f = torch.where(x < _NEAR_ZERO, -x, f)  # the exponent is 0 there, and -x has digits that 1 - x has lost
    return _minus_log(*_split(_minus_log(exponent, f)))


def _split(value: Tensor) -> tuple[Tensor, Tensor]:
    """(2^23 e, f) with value = 2^e (1 + f), sqrt(1/2) <= 1 + f < sqrt(2), for positive normal float32."""
    bits = value.view(torch.int32)
    exponent = (bits - _ROOT_HALF_BITS).bitwise_and_(_EXPONENT_BITS)
    return exponent.float(), (bits - exponent).view(torch.float32).sub_(_ONE)


def _minus_log(exponent: Tensor, f: Tensor) -> Tensor:
    """-log of the number that `_split` took apart. Every product and every sum is rounded separately, none is fused."""
    square = f * f
    y = f * _MINUS_LOG[0]
    for coefficient in _MINUS_LOG[1:-1]:
        y.add_(coefficient).mul_(f)
    y.add_(_MINUS_LOG[-1]).mul_(f).mul_(square)
    y.sub_(exponent * _LOG2_LOW).add_(square.mul_(_HALF)).sub_(f)
    return y.sub_(exponent.mul_(_LOG2_HIGH))


_AHEAD = 64  # output indices that are computed at once
_LOW = 0xFFFFFFFF
_NUMBERS = 1 << 14  # computing this many numbers takes little longer than computing one


@dataclass(frozen=True)
class _NoiseSpan:
    """Noise [B, W, ..] that has been computed for `width` output indices from `origin` [B] on."""

    origin: Tensor
    begin: list[int]
    width: int
    values: Tensor

    def covers(self, first: list[int], last: list[int]) -> bool:
        return all(b <= f and e < b + self.width for b, f, e in zip(self.begin, first, last))


@dataclass(frozen=True)
class NoiseAhead(Noise):
    """The same numbers as `Noise`, computed for many output indices at once. CPU only, as positions are read on the
    host."""

    _spans: dict[tuple[int, int], _NoiseSpan] = field(default_factory=dict, compare=False, repr=False)

    def select(self, rows: Tensor | Sequence[int]) -> "NoiseAhead":
        """The noise of some rows (indices or a mask), with what has been computed for them."""
        kept = {}
        for key, one in self._spans.items():
            origin = one.origin[rows]
            kept[key] = _NoiseSpan(origin, origin.tolist(), one.width, one.values[rows])
        return NoiseAhead(self.seeds[rows], self.noise_keys[rows], kept)

    def uniform(self, position: Tensor, purpose: int = ACCEPT) -> Tensor:
        """As `Noise.uniform`, row by row in Python's integers: a tenth of the time at batch size 1."""
        rows = zip(self.seeds.tolist(), self.noise_keys.tolist(), position.tolist())
        words = [_two_words(seed, (0, at & _LOW, key & _LOW, purpose)) for seed, key, at in rows]
        return torch.tensor([((one << 20) + (two >> 12) + 0.5) * 2.0**-52 for one, two in words], dtype=torch.float64)

    def gumbel(self, position: Tensor, size: int, purpose: int, node: Tensor | None = None) -> Tensor:
        """As `Noise.gumbel`, from what has been computed, which is renewed as needed; noise for DRAFT is computed on
        demand."""
        if purpose == DRAFT:
            return super().gumbel(position, size, purpose, node)
        wanted = position.tolist()
        first, last = list(map(min, wanted)), list(map(max, wanted))
        found = self._spans.get((purpose, size))
        if found is None or not found.covers(first, last):
            # One index more than asked for: the trunk needs noise for the token after a draft too.
            width = max(2 + max(e - f for f, e in zip(first, last)), min(_AHEAD, _NUMBERS // (size * len(first))))
            origin = torch.tensor(first)
            values = super().gumbel(origin[:, None] + torch.arange(width), size, purpose)
            found = self._spans[purpose, size] = _NoiseSpan(origin, first, width, values)
        index = position - found.origin[:, None]
        if len(index) == 1:
            return found.values.index_select(1, index[0])
        return found.values.gather(1, index[..., None].expand(-1, -1, size))


def _two_words(seed: int, counter: tuple[int, int, int, int]) -> tuple[int, int]:
    """The first two words of a Philox block, the same as those of `Noise._words`."""
    one, two, three, four = counter
    low, high = seed & _LOW, seed >> 32 & _LOW
    for _ in range(10):
        first, second = 0xD2511F53 * one, 0xCD9E8D57 * three
        one, two, three, four = second >> 32 ^ two ^ low, second & _LOW, first >> 32 ^ four ^ high, first & _LOW
        low, high = low + 0x9E3779B9 & _LOW, high + 0xBB67AE85 & _LOW
    return one, two


def noise_of(seeds: list[int], noise_keys: list[int], device: torch.device) -> Noise:
    """The noise of rows with these seeds and keys."""
    # A seed is an unsigned number of 64 bits; torch's int64 has a sign.
    signed = [(seed + 2**63) % 2**64 - 2**63 for seed in seeds]
    kind = NoiseAhead if device.type == "cpu" else Noise
    return kind(torch.tensor(signed, device=device), torch.tensor(noise_keys, device=device))
