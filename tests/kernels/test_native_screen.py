"""Tokens chosen by bounds are those with the largest logit, the first of equals, also among numbers made to deceive."""

from ctypes import byref

import pytest
import tiny
import torch
from native_models import NATIVE, stored
from torch import Tensor

from speechmtp.kernels.cpu.decoder import run_linear, working
from speechmtp.kernels.cpu.library import native_library
from speechmtp.kernels.cpu.structs import Builder, bind

CASES = ("random", "half", "int8", "equal", "near", "sparse")


def chosen(weight: Tensor, bias: Tensor | None, x: Tensor) -> tuple[Tensor, Tensor]:
    """The tokens [B] chosen by bounds, and all logits [B, V]."""
    native = native_library()
    assert native is not None
    library = bind(native)
    builder = Builder(library.speechmtp_cpu_panel())
    layer, screen, best = builder.linear(weight, bias), builder.screen(weight), torch.empty(len(x), dtype=torch.long)
    work = working(library.speechmtp_cpu_choose_work(byref(layer), len(x)))
    library.speechmtp_cpu_choose(
        byref(layer), byref(screen), x.data_ptr(), len(x), 1, None, None, 0, best.data_ptr(), work
    )
    return best, run_linear(library, layer, x)


@NATIVE
@pytest.mark.parametrize("case", CASES)
def test_bounds_never_hide_the_first_of_the_largest(case: str) -> None:
    rng = tiny.generator(CASES.index(case))

    def power(low: int, high: int) -> float:
        return 10.0 ** int(torch.randint(low, high, (), generator=rng))

    for trial in range(100):
        size, width, rows = (int(torch.randint(1, most, (), generator=rng)) for most in (200, 90, 10))
        weight, x = torch.randn(size, width, generator=rng) * power(-6, 4), torch.randn(rows, width, generator=rng)
        x *= power(-6, 4)
        if case in ("half", "int8"):
            weight = stored(weight, case)
        elif case == "equal":
            weight[:] = weight[torch.randint(0, 3, (size,), generator=rng).clamp(max=size - 1)]
        elif case == "near":
            weight = weight[:1] * (1 + 1e-7 * torch.randn(size, 1, generator=rng))
        elif case == "sparse":  # rows of zeros too
            x *= torch.rand(x.shape, generator=rng) < 0.1
        bias = (None, torch.randn(size, generator=rng) * power(-3, 6), torch.full((size,), -power(-3, 6)))[trial % 3]
        best, logits = chosen(weight, bias, x)
        assert best.tolist() == logits.argmax(1).tolist(), trial


@NATIVE
@pytest.mark.parametrize("odd", ["nan", "inf", "-inf", "3e38", "1e-44"])
def test_rows_with_numbers_that_have_no_bounds_do_not_touch_the_others(odd: str) -> None:
    rng = tiny.generator(0)
    weight, x = torch.randn(70, 30, generator=rng), torch.randn(5, 30, generator=rng)
    x[2] = 0.0
    x[2, 7] = float(odd)
    best, logits = chosen(weight, None, x)
    finite = logits.nan_to_num(-torch.inf, torch.inf, -torch.inf)
    assert best.tolist() == finite.argmax(1).tolist()
