"""Linear maps of packed weights: the same map, whatever else is asked of the module."""

import copy
import io
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

import speechmtp
from speechmtp.errors import ConfigError
from speechmtp.kernels.cpu import packed_linear
from speechmtp.kernels.cpu.packed_linear import PackedLinear, has_packed, pack
from tests import tiny

pytestmark = pytest.mark.skipif(not has_packed(), reason="this build of PyTorch has no maps of packed weights")


def make(bias: bool = True) -> tuple[nn.Linear, PackedLinear]:
    torch.manual_seed(0)
    plain = nn.Linear(48, 96, bias)
    return plain, PackedLinear(plain)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(1,), (8,), (2, 3), (1, 1, 40), (0,)])
def test_it_is_the_map_of_the_same_parameters(bias: bool, shape: tuple[int, ...]) -> None:
    plain, packed = make(bias)
    assert packed.weight is plain.weight and packed.bias is plain.bias
    x = torch.randn(*shape, 48, generator=tiny.generator(1))
    with torch.inference_mode():
        found = packed(x)
        torch.testing.assert_close(found, plain(x), rtol=1e-5, atol=1e-5)
        assert packed._packed is not None and found.layout == torch.strided
        strided = torch.randn(48, *shape, generator=tiny.generator(2)).movedim(0, -1)
        torch.testing.assert_close(packed(strided), plain(strided), rtol=1e-5, atol=1e-5)


def test_changed_weights_are_packed_again() -> None:
    plain, packed = make()
    x = torch.randn(3, 48, generator=tiny.generator(1))
    with torch.no_grad():
        packed(x)
        packed.weight.mul_(2)
        torch.testing.assert_close(packed(x), plain(x))
        packed.load_state_dict({"weight": torch.randn(96, 48), "bias": torch.zeros(96)})
        torch.testing.assert_close(packed(x), plain(x))
        packed.weight = nn.Parameter(torch.randn(96, 48))
        torch.testing.assert_close(packed(x), nn.functional.linear(x, packed.weight, packed.bias))


def test_gradients_other_types_and_copies_are_those_of_the_plain_map() -> None:
    plain, packed = make()
    x = torch.randn(3, 48, generator=tiny.generator(1))
    with torch.no_grad():
        packed(x)
    packed(x).sum().backward()
    assert plain.weight.grad is not None and float(plain.weight.grad.abs().sum()) > 0
    copied = copy.deepcopy(packed)
    stored = io.BytesIO()
    torch.save(packed, stored)
    stored.seek(0)
    with torch.no_grad():
        for other in (copied, torch.load(stored, weights_only=False)):
            assert torch.equal(other(x), packed(x)) and other.weight is not packed.weight
        for dtype in (torch.float64, torch.bfloat16):
            assert torch.equal(copied.to(dtype)(x.to(dtype)), plain.to(dtype)(x.to(dtype)))
            plain.float()


def test_every_map_of_a_model_is_packed_once_and_what_is_tied_stays_tied(monkeypatch: pytest.MonkeyPatch) -> None:
    class Special(nn.Linear):
        """Somebody's own."""

    embedding, last, special = nn.Embedding(5, 4), nn.Linear(4, 5), Special(4, 4)
    last.weight = embedding.weight
    model = nn.ModuleDict({"a": embedding, "b": nn.Sequential(nn.SiLU(), last), "c": special})
    names = list(model.state_dict())
    monkeypatch.setattr(packed_linear, "MAX_BYTES", 10)
    pack(model)
    assert model["b"][1] is last
    monkeypatch.undo()
    pack(model)
    packed = model["b"][1]
    assert isinstance(packed, PackedLinear) and packed.weight is embedding.weight and model["c"] is special
    assert list(model.state_dict()) == names
    pack(model)
    assert model["b"][1] is packed


class Times:
    """A clock that plain and packed maps move by what is given for each number of rows; how often each has run."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, seconds: dict[int, tuple[float, float]]) -> None:
        self.now, self.runs = 0.0, {"plain": 0, "packed": 0}
        plain, packed = torch.nn.functional.linear, PackedLinear._run_packed

        def timed(kind: str, place: int, function: Any) -> Any:
            def run(*given: Any) -> Any:
                x = given[1] if kind == "packed" else given[0]
                self.now += seconds.get(x.numel() // x.shape[-1], (0.0, 0.0))[place]
                self.runs[kind] += 1
                return function(*given)

            return run

        monkeypatch.setattr(packed_linear, "F", SimpleNamespace(linear=timed("plain", 0, plain)))
        monkeypatch.setattr(PackedLinear, "_run_packed", timed("packed", 1, packed))
        for clock in ("perf_counter", "thread_time"):
            monkeypatch.setattr(packed_linear, clock, lambda: self.now)
        monkeypatch.setattr(packed_linear, "_packed_is_faster", {})

    def kind(self, layer: nn.Linear, rows: int) -> str:
        """What one call of the layer runs, besides what is timed in it."""
        with torch.inference_mode():
            layer(torch.ones(rows, layer.in_features))
            self.runs = {"plain": 0, "packed": 0}
            x = torch.randn(rows, layer.in_features, generator=tiny.generator(rows))
            torch.testing.assert_close(layer(x), x @ layer.weight.T + layer.bias)
        assert sum(self.runs.values()) == 1
        return "packed" if self.runs["packed"] else "plain"


# Seconds of the plain and the packed map at the rows that stand for one row, 2 to 32 rows, and more.
AT_ROWS = {1: (1.0, 2.0), 6: (2.0, 1.0), 64: (1.0, 1.0)}


def test_each_class_of_row_numbers_runs_the_map_that_is_faster_in_it(monkeypatch: pytest.MonkeyPatch) -> None:
    times = Times(monkeypatch, AT_ROWS)
    model = nn.ModuleDict({"one": nn.Linear(8, 16), "two": nn.Linear(8, 16), "out": nn.Linear(8, 5)})
    pack(model)
    kinds = {rows: times.kind(model["one"], rows) for rows in (0, 1, 2, 6, 32, 33, 64)}
    assert kinds == {0: "plain", 1: "plain", 2: "packed", 6: "packed", 32: "packed", 33: "plain", 64: "plain"}
    assert packed_linear.describe_packed(model) == "packed at 2 to 32 rows for 8x16, else plain"
    with torch.inference_mode():
        times.runs = {"plain": 0, "packed": 0}
        model["two"](torch.ones(6, 8))
    assert times.runs == {"plain": 0, "packed": 1}, "the choice holds for every layer of the shape, none is timed again"
    assert model["two"]._packed is not None and times.kind(model["out"], 6) == "packed"
    assert packed_linear.describe_packed(model) == "packed at 2 to 32 rows for 8x5, 8x16, else plain"


@pytest.mark.parametrize(("packed", "kind"), [(3.5, "packed"), (4.0, "plain"), (5.0, "plain")])
def test_packed_maps_must_be_clearly_faster(packed: float, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    times = Times(monkeypatch, {1: (5.0, packed), 6: (1.0, 9.0), 64: (1.0, 9.0)})
    model = nn.Sequential(nn.Linear(8, 16))
    pack(model)
    assert times.kind(model[0], 1) == kind and model[0]._packed is not None
    for rows in (6, 64):
        times.kind(model[0], rows)
    assert (model[0]._packed is not None) == (kind == "packed"), "weights that no class uses are let go"
    assert packed_linear.describe_packed(model) == (
        "plain" if kind == "plain" else "packed at 1 row for 8x16, else plain"
    )


def test_the_shortest_of_some_rounds_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    now, rounds = [0.0], [0, 0]
    for clock in ("perf_counter", "thread_time"):
        monkeypatch.setattr(packed_linear, clock, lambda: now[0])

    def takes(place: int, seconds: Sequence[float]) -> Callable[[], torch.Tensor]:
        def call() -> torch.Tensor:
            now[0] += seconds[rounds[place] % len(seconds)]
            rounds[place] += 1
            return torch.zeros(0)

        return call

    # The first call packs; then the two take turns until the time is up, three times at least and at most fifteen.
    assert packed_linear.is_faster(takes(0, [9.0, 5.0, 1.0, 5.0]), takes(1, [2.0, 2.0, 7.0])) and rounds == [4, 3]
    rounds[:] = [0, 0]
    assert not packed_linear.is_faster(takes(0, [1.0, 5.0, 5.0, 5.0]), takes(1, [2.0])) and rounds == [4, 3]
    rounds[:] = [0, 0]
    assert packed_linear.is_faster(takes(0, [1e-5]), takes(1, [2e-5])) and rounds == [16, 15]


@pytest.mark.parametrize(("setting", "kind"), [("plain", "plain"), ("packed", "packed"), ("measured", ""), ("", "")])
def test_the_setting_fixes_the_choice(setting: str, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPEECHMTP_LINEAR", setting)
    times = Times(monkeypatch, AT_ROWS)
    model = nn.Sequential(nn.Linear(8, 16))
    pack(None, model)
    assert type(model[0]) is (nn.Linear if setting == "plain" else PackedLinear)
    if kind == "packed":
        assert [times.kind(model[0], rows) for rows in (1, 6, 64)] == ["packed"] * 3
        assert times.now == 2 * (2.0 + 1.0 + 1.0), "two calls at each number of rows, and none to time them"
    assert packed_linear.describe_packed(model) == (kind or "plain")
    assert packed_linear.describe_packed(nn.Sequential(PackedLinear(nn.Linear(8, 16), measured=True))) == "plain"


def test_an_unknown_setting_is_an_error_when_a_model_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPEECHMTP_LINEAR", "fast")
    with pytest.raises(ConfigError, match="SPEECHMTP_LINEAR='fast': expected one of measured, plain, packed; correct"):
        speechmtp.load("an4", device="cpu")


def test_copies_choose_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    times = Times(monkeypatch, AT_ROWS)
    layer = PackedLinear(nn.Linear(8, 16), measured=True)
    assert times.kind(layer, 6) == "packed"
    copied = copy.deepcopy(layer)
    assert copied._chosen == [None] * 3 and copied._packed is None
    assert times.kind(copied, 6) == "packed" and PackedLinear(nn.Linear(8, 16))._chosen == [True] * 3


def test_a_recogniser_in_float32_has_them_and_in_float64_has_not() -> None:
    for dtype in ("float32", "float64"):
        for name in ("default", "an4"):
            model = speechmtp.load(name, dtype=dtype).bundle.model
            kinds = {type(m) for m in model.modules() if isinstance(m, nn.Linear)}
            assert kinds == {PackedLinear if dtype == "float32" else nn.Linear}
