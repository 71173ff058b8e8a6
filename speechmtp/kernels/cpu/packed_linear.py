"""Linear layers on a CPU in float32 that use PyTorch's plain weights or weights packed for oneDNN, whichever is faster
on this machine.

Which one is faster depends on processor, size and number of input rows: packed weights take half the time for an
unembedding at 8 rows, and three times as long for one row of a small layer. So both are timed at the first call of each
shape and class of row numbers (`CLASSES`), once per process. The two differ in their last bits, so the choice stays:
every strategy of a run has the same one. `SPEECHMTP_LINEAR=plain` or `packed` fixes it.

PyTorch's own module, `torch.utils.mkldnn.MkldnnLinear`, converts inputs and outputs at every call and hides its
weights, which embeddings share."""

import os
from collections.abc import Callable
from functools import cache
from time import perf_counter, thread_time
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from speechmtp.errors import ConfigError

MAX_BYTES = 2 << 30  # of weights per model: packed ones are kept in both layouts
SETTING, SETTINGS = "SPEECHMTP_LINEAR", ("measured", "plain", "packed")
CLASSES = ("1 row", "2 to 32 rows", "more rows")  # of a call: plain decoding; verification; encoders, large batches
SEVERAL = 32
TIMED_ROWS = (1, 6, 64)  # input rows with which each class is timed
MIN_ROUNDS, MAX_ROUNDS, MAX_SECONDS = 3, 15, 0.002  # of a timing; the fewest rounds are made in any case
MARGIN = 0.8  # share of the plain time that packed weights must stay below, since they take memory

_packed_is_faster: dict[tuple[int, int, int, int], bool] = {}  # by widths, class and number of threads


@cache
def has_packed() -> bool:
    """Whether this PyTorch has oneDNN's linear layer with packed weights, which its compiled models use. Tried once on
    a small layer, since it depends on build and processor."""
    if not torch.backends.mkldnn.is_available():
        return False
    try:
        with torch.inference_mode(False), torch.no_grad():
            x, weight = torch.linspace(-1, 1, 24).view(3, 8), torch.linspace(-1, 1, 128).view(16, 8)
            bias = torch.zeros(16)
            return torch.allclose(_product(x, _reordered(weight), bias), F.linear(x, weight, bias), atol=1e-5)
    except (AttributeError, RuntimeError):
        return False


def _reordered(weight: Tensor) -> Tensor:
    packed: Tensor = torch.ops.mkldnn._reorder_linear_weight(weight, None)
    return packed


def _product(x: Tensor, packed: Tensor, bias: Tensor | None) -> Tensor:
    out: Tensor = torch.ops.mkldnn._linear_pointwise(x, packed, bias, "none", [], "")
    return out


class PackedLinear(nn.Linear):
    """A linear layer that shares the parameters of another and runs on packed weights; if `measured`, only where they
    are faster. With gradients, other dtypes or devices it is a plain `nn.Linear`. Weights are packed at the first call
    that uses them, and again after a change (changes through `.data` go unseen)."""

    def __init__(self, like: nn.Linear, measured: bool = False) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features = like.in_features, like.out_features
        self.weight, self.bias = like.weight, like.bias
        self.training, self.measured = like.training, measured
        self._packed: tuple[Any, Tensor] | None = None  # with the weights' address and version when packed
        self._chosen: list[bool | None] = [None if measured else True] * len(CLASSES)  # packed or not; None: not called

    def forward(self, input: Tensor) -> Tensor:
        """Map `input` [..., in] to [..., out]."""
        rows = input.numel() // self.in_features
        number = 0 if rows <= 1 else 1 if rows <= SEVERAL else 2
        weight = self.weight
        if self._chosen[number] is False:
            return F.linear(input, weight, self.bias)
        plain = input.dtype != torch.float32 or weight.dtype != torch.float32 or not input.is_cpu
        if plain or torch.is_grad_enabled() or weight.is_inference():  # inference tensors have no version counter
            return F.linear(input, weight, self.bias)
        if self._chosen[number] is None and not self._choose(number):
            return F.linear(input, weight, self.bias)
        return self._run_packed(input)

    def _run_packed(self, input: Tensor) -> Tensor:
        weight = self.weight
        version = (weight.data_ptr(), weight._version)
        kept = self._packed  # as it is now: other threads may pack weights too, or drop them
        if kept is None or kept[0] != version:
            kept = self._packed = version, _reordered(weight.detach())
        return _product(input, kept[1], self.bias)

    def _choose(self, number: int) -> bool:
        """Choose for a class of row numbers, from the process's earlier choice for this shape or by timing both."""
        key = self.in_features, self.out_features, number, torch.get_num_threads()
        if key not in _packed_is_faster:
            x = self.weight.new_ones(TIMED_ROWS[number], self.in_features)
            faster = is_faster(lambda: self._run_packed(x), lambda: F.linear(x, self.weight, self.bias))
            _packed_is_faster.setdefault(key, faster)  # of two threads, the first one's choice holds
        self._chosen[number] = _packed_is_faster[key]
        if self._chosen == [False] * len(CLASSES):
            self._packed = None
        return _packed_is_faster[key]

    def __getstate__(self) -> dict[str, Any]:
        """Return the state without the packed weights, which cannot be copied or stored, and without choices, which
        hold for one process."""
        chosen = [None if self.measured else True] * len(CLASSES)
        return self.__dict__ | {"_packed": None, "_chosen": chosen}


def is_faster(packed: Callable[[], Tensor], plain: Callable[[], Tensor]) -> bool:
    """Whether `packed` takes less than `MARGIN` of the time of `plain`. They take turns, and the shortest time of each
    counts: other work on the machine can only make it longer. With one thread it is that thread's processor time."""
    now = thread_time if torch.get_num_threads() == 1 else perf_counter
    best = [float("inf"), float("inf")]
    packed()  # the first call packs the weights
    spent = 0.0
    for number in range(MAX_ROUNDS):
        for place, call in enumerate((packed, plain)):
            began = now()
            call()
            seconds = now() - began
            best[place], spent = min(best[place], seconds), spent + seconds
        if spent > MAX_SECONDS and number + 1 >= MIN_ROUNDS:
            break
    return best[0] < MARGIN * best[1]


def pack(*models: nn.Module | None) -> None:
    """Let every `nn.Linear` of models in float32 on a CPU use packed weights where they are faster, if this PyTorch
    supports it and a model's weights take at most `MAX_BYTES`. ConfigError for an unknown value of `SPEECHMTP_LINEAR`.
    """
    setting = os.environ.get(SETTING) or "measured"
    if setting not in SETTINGS:
        raise ConfigError(f"{SETTING}={setting!r}: expected one of {', '.join(SETTINGS)}; correct or unset it")
    for model in filter(None, models):
        weights = list(model.parameters())
        fits = all(p.is_cpu and p.dtype == torch.float32 for p in weights)
        if fits and 4 * sum(p.numel() for p in weights) <= MAX_BYTES and setting != "plain" and has_packed():
            _pack(model, setting == "measured")


def _pack(module: nn.Module, measured: bool) -> None:
    for name, child in module.named_children():
        if type(child) is nn.Linear:
            setattr(module, name, PackedLinear(child, measured))
        else:
            _pack(child, measured)


def describe_packed(model: nn.Module) -> str:
    """Where a model's linear layers have used packed weights: `plain`, `packed`, or by class of row numbers, such as
    `packed at 2 to 32 rows for 288x32768, else plain`, with input and output width."""
    layers = [layer for layer in model.modules() if isinstance(layer, PackedLinear)]
    if layers and not any(layer.measured for layer in layers):
        return "packed"
    found = []
    for number, name in enumerate(CLASSES):
        sizes = {(layer.in_features, layer.out_features) for layer in layers if layer._chosen[number]}
        if sizes:
            found.append(f"packed at {name} for " + ", ".join(f"{size[0]}x{size[1]}" for size in sorted(sizes)))
    return "; ".join(found) + ", else plain" if found else "plain"
