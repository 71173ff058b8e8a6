"""Counts the points where the host needs a value of a tensor: each would make a GPU wait, on a CPU each is seen too.

    with HostReads() as reads:
        decode()
    print(reads.report())

A read called from Python is seen by its function (`item`, `bool`, `tolist`, `numpy`, ..), one inside torch by the
operator that needs it (`_local_scalar_dense`, `nonzero`, ..), and none by both. Tensors are taken to live on a device,
but for those that `.cpu()`, `.to("cpu")` or `copy_` brought to the host, those made without a `device`, and what is
made of such alone: the host may look at them as it likes. `.to(device)` with a torch.device goes to the device.
Branches for a CPU are those that run. Only the thread that entered is looked at.
"""

import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakIdKeyDictionary

import speechmtp

OURS = str(Path(speechmtp.__file__).parent) + "/"
TORCH = str(Path(torch.__file__).parent)

# Functions that read whatever they are given, named as the report says them. What they call is a part of the one read.
_READS: dict[Any, str] = {
    Tensor.item: "item", Tensor.tolist: "tolist", Tensor.numpy: "numpy", Tensor.__array__: "numpy",
    Tensor.__bool__: "bool", Tensor.__int__: "int", Tensor.__float__: "float", Tensor.__index__: "index",
    Tensor.__complex__: "complex", Tensor.__contains__: "in", Tensor.__repr__: "format", Tensor.__format__: "format",
    Tensor.cpu: "cpu", Tensor.is_nonzero: "bool", torch.is_nonzero: "bool",
    Tensor.equal: "equal", torch.equal: "equal", Tensor.allclose: "allclose", torch.allclose: "allclose",
    Tensor.nonzero: "nonzero", torch.nonzero: "nonzero", torch.argwhere: "nonzero", Tensor.argwhere: "nonzero",
    Tensor.masked_select: "masked_select", torch.masked_select: "masked_select",
    Tensor.unique: "unique", torch.unique: "unique",
    Tensor.unique_consecutive: "unique", torch.unique_consecutive: "unique",
    Tensor.bincount: "bincount", torch.bincount: "bincount",
}  # fmt: skip
_MAKES = (torch.tensor, torch.as_tensor, Tensor.new_tensor)  # of numbers: a tensor among them is asked for its own
_WRITES = (Tensor.copy_, Tensor.__setitem__)

# Operators that read; composite ones are here since they are not taken apart under inference mode.
_OPERATORS = {
    "aten::_local_scalar_dense", "aten::item", "aten::is_nonzero", "aten::equal", "aten::allclose", "aten::nonzero",
    "aten::nonzero_numpy", "aten::argwhere", "aten::masked_select", "aten::_unique", "aten::_unique2",
    "aten::unique_dim", "aten::unique_consecutive", "aten::unique_dim_consecutive", "aten::bincount",
}  # fmt: skip


@dataclass(frozen=True)
class Place:
    """Where a read was asked for."""

    file: str
    line: int
    function: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line} {self.function}"


@dataclass
class ReadCounts:
    """Reads by place and kind."""

    counts: Counter[tuple[Place, str]] = field(default_factory=Counter)

    @property
    def total(self) -> int:
        """All of them."""
        return sum(self.counts.values())

    def kinds(self) -> dict[str, int]:
        """How many of each kind."""
        found: Counter[str] = Counter()
        for (_, kind), count in self.counts.items():
            found[kind] += count
        return dict(found)

    def report(self, steps: int = 1) -> str:
        """A line a place, most reads first, as reads over `steps`."""
        lines = [f"{self.total / steps:8.2f}  in all"]
        for (place, kind), count in sorted(self.counts.items(), key=lambda each: (-each[1], str(each[0]))):
            lines.append(f"{count / steps:8.2f}  {place} ({kind})")
        return "\n".join(lines)


class HostReads:
    """Counts while it is entered; `reads` can be looked at at any time."""

    def __init__(self) -> None:
        self.reads = ReadCounts()
        self._functions, self._operators = _Functions(self), _Operators(self)
        self.inside = 0  # a counted function is running: what it calls is its own
        self.name = ""  # of the Python function that is running
        self.host = WeakIdKeyDictionary()  # tensors that are on the host

    def on_host(self, tensor: Tensor) -> bool:
        """Whether the host may look at a tensor for nothing."""
        return tensor in self.host

    def __enter__(self) -> ReadCounts:
        self._operators.__enter__()
        self._functions.__enter__()
        return self.reads

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._functions.__exit__(kind, error, trace)
        self._operators.__exit__(kind, error, trace)

    def note(self, kind: str, count: int = 1) -> None:
        """Count reads, unless a function that was counted does them."""
        if count and not self.inside:
            self.reads.counts[_caller(), kind] += count


class _Functions(TorchFunctionMode):
    def __init__(self, reads: HostReads) -> None:
        super().__init__()
        self.reads = reads

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs, reads = kwargs or {}, self.reads
        name = getattr(func, "__name__", "").strip("_")
        tensors = [x for x in tree_leaves([list(args), kwargs]) if isinstance(x, Tensor)]
        at_home = all(reads.on_host(x) for x in tensors) if tensors else kwargs.get("device") is None
        count = 0 if tensors and at_home else self._asked(func, args, kwargs, tensors)
        reads.note(_READS.get(func, "cpu" if func is Tensor.to else name), count)
        quiet = bool(count) or (at_home and bool(tensors))
        before, reads.name = reads.name, name
        reads.inside += quiet
        try:
            made = func(*args, **kwargs)
        finally:
            reads.inside -= quiet
            reads.name = before
        moves = _moves(func, args, kwargs)
        if isinstance(made, Tensor) and (moves or func is Tensor.copy_):
            if moves and any(made is x for x in tensors):
                made = torch.ops.aten.alias(made)  # another tensor, as it would be on a GPU
            at_home = reads.on_host(args[0]) if func is Tensor.copy_ else moves == "host"
        for x in tree_leaves(made) if at_home else ():
            if isinstance(x, Tensor):
                reads.host[x] = True
        return made

    def _asked(self, func: Any, args: Sequence[Any], kwargs: dict[str, Any], tensors: Sequence[Tensor]) -> int:
        """Reads that a function asks for by itself; what it asks of operators is counted there."""
        if func is Tensor.to:
            return int(_moves(func, args, kwargs) == "host")
        if func in _MAKES and not isinstance(kwargs.get("data", args[-1] if args else None), Tensor):
            return sum(not self.reads.on_host(x) for x in tensors) - (func is Tensor.new_tensor)
        if func in _WRITES:  # into the host's memory; what a mask asks for is counted below
            into, values = args[0], args[-1]
            return int(self.reads.on_host(into) and isinstance(values, Tensor) and not self.reads.on_host(values))
        return int(func in _READS)


class _Operators(TorchDispatchMode):
    def __init__(self, reads: HostReads) -> None:
        super().__init__()
        self.reads = reads

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        name = func._schema.name
        count = self._count(name, func._schema, args, kwargs)
        if count:
            self.reads.note(self.reads.name or name.removeprefix("aten::"), count)
            return func(*args, **kwargs)  # what it calls is its own: this mode does not see it
        if torch.is_inference_mode_enabled() and func._can_decompose():
            with self:  # elsewhere it comes in parts by itself
                parts = func.decompose(*args, **kwargs)
            if parts is not NotImplemented:
                return parts
        return func(*args, **kwargs)

    def _count(self, name: str, schema: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> int:
        """Reads of one operator."""
        given = {argument.name: value for argument, value in zip(schema.arguments, args)} | kwargs
        if name in _OPERATORS:
            return int(not self.reads.on_host(args[0]))
        if name == "aten::where" and "self" not in given:  # a condition alone
            return 1
        if name == "aten::repeat_interleave":
            return int(isinstance(given.get("repeats"), Tensor) and given.get("output_size") is None)
        if name in ("aten::index", "aten::index_put", "aten::index_put_", "aten::_index_put_impl_"):
            asked = [x for x in given["indices"] if x is not None and not self.reads.on_host(x)]
            values = given.get("values")
            if values is not None and values.numel() == 1 and not given.get("accumulate"):
                return 0  # a mask that takes one number is a masked fill
            return sum(x.dtype in (torch.bool, torch.uint8) for x in asked)
        return _crossings(name, given) if name in ("aten::_to_copy", "aten::copy_") else 0


def _crossings(name: str, given: dict[str, Any]) -> int:
    """Copies from a device to the host, where there is a device."""
    if name == "aten::copy_":
        return int(given["src"].device.type != "cpu" and given["self"].device.type == "cpu")
    target = given.get("device")
    return int(given["self"].device.type != "cpu" and target is not None and torch.device(target).type == "cpu")


def _moves(func: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> str:
    """Where a function takes a tensor: `host`, `device`, or nowhere."""
    if func is Tensor.cpu:
        return "host"
    if func is not Tensor.to:
        return ""
    given = [*args[1:], *kwargs.values()]
    if any(isinstance(x, str) for x in given):
        return "host"
    return "device" if any(isinstance(x, torch.device) for x in given) else ""


def _caller() -> Place:
    """The innermost line of the package that led here; without one, the innermost that is neither torch's nor of this
    file."""
    frame: FrameType | None = sys._getframe(1)
    outside: Place | None = None
    while frame is not None:
        file = frame.f_code.co_filename
        place = Place(file, frame.f_lineno, frame.f_code.co_name)
        if file.startswith(OURS):
            return replace(place, file=file.removeprefix(OURS))
        if outside is None and file != __file__ and not file.startswith(TORCH):
            outside = replace(place, file=Path(file).name)
        frame = frame.f_back
    assert outside is not None
    return outside


class Counted(Protocol):
    """A decoded row, as far as it is looked at here."""

    @property
    def trace(self) -> Any:
        """Counts of calls."""


def reads_a_step(decode: Callable[[], Sequence[Counted]]) -> tuple[ReadCounts, int]:
    """Reads of one batch that `decode` decodes, and the steps of its loop: the calls of the row with most of them. What
    the loop measures or keeps at its first use is left out: `decode` runs twice, and the second time counts."""
    decode()
    with HostReads() as reads:
        results = decode()
    return reads, max(result.trace.calls for result in results)
