"""The instrument that counts reads of the host sees planted ones of every kind, each once, at its place."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from host_reads import HostReads, reads_a_step
from torch import Tensor

from speechmtp.types import Prompt, Trace

X = torch.arange(6.0)
MASK = X > 2
TWO = torch.tensor(2)
COUNTS = torch.tensor([1, 2, 0, 1, 1, 1])

# name: what is planted, the kind it is called, how many reads it is
READS: dict[str, tuple[Callable[[], Any], str, int]] = {
    "item": (lambda: TWO.item(), "item", 1),
    "tolist": (lambda: X.tolist(), "tolist", 1),
    "bool": (lambda: bool(MASK[0]), "bool", 1),
    "if": (lambda: 1 if MASK[1] else 0, "bool", 1),
    "any": (lambda: any(MASK), "bool", 4),  # the fourth is true
    "max": (lambda: max(X[0], X[1]), "bool", 1),
    "in_list": (lambda: TWO in [1, 2], "bool", 2),
    "is_nonzero": (lambda: torch.is_nonzero(TWO), "bool", 1),
    "int": (lambda: int(TWO), "int", 1),
    "float": (lambda: float(TWO), "float", 1),
    "list_index": (lambda: [1, 2, 3][TWO], "index", 1),
    "range": (lambda: range(TWO), "index", 1),  # type: ignore[call-overload]
    "numpy": (lambda: X.numpy(), "numpy", 1),
    "asarray": (lambda: np.asarray(X), "numpy", 1),
    "cpu": (lambda: X.cpu(), "cpu", 1),
    "cpu_numpy": (lambda: X.numpy(force=True), "numpy", 1),
    "to": (lambda: X.to("cpu"), "cpu", 1),
    "to_by_name": (lambda: X.to(device="cpu", dtype=torch.float64), "cpu", 1),
    "nonzero": (lambda: MASK.nonzero(), "nonzero", 1),
    "nonzero_tuple": (lambda: torch.nonzero(MASK, as_tuple=True), "nonzero", 1),
    "argwhere": (lambda: torch.argwhere(MASK), "nonzero", 1),
    "where": (lambda: torch.where(MASK), "where", 1),
    "mask": (lambda: X[MASK], "getitem", 1),
    "mask_behind": (lambda: torch.ones(2, 6)[:, MASK], "getitem", 1),
    "mask_taking_values": (lambda: X.clone().__setitem__(MASK, X[:3]), "setitem", 1),
    "masked_select": (lambda: X.masked_select(MASK), "masked_select", 1),
    "unique": (lambda: torch.unique(X, return_counts=True), "unique", 1),
    "unique_consecutive": (lambda: X.unique_consecutive(), "unique", 1),
    "bincount": (lambda: torch.bincount(COUNTS), "bincount", 1),
    "repeat_interleave": (lambda: X.repeat_interleave(COUNTS), "repeat_interleave", 1),
    "repeat_interleave_function": (lambda: torch.repeat_interleave(X, COUNTS, dim=0), "repeat_interleave", 1),
    "equal": (lambda: torch.equal(X, X), "equal", 1),
    "allclose": (lambda: torch.allclose(X, X + 0), "allclose", 1),
    "format": (lambda: f"{TWO}", "format", 1),
    "format_digits": (lambda: f"{X[0]:.2f}", "format", 1),
    "repr": (lambda: repr(X), "format", 1),
    "in": (lambda: 3.0 in X, "in", 1),
    "slice": (lambda: X[:TWO], "getitem", 1),
    "index": (lambda: X[TWO], "getitem", 1),
    "size": (lambda: torch.zeros(TWO), "zeros", 1),  # type: ignore[call-overload]
    "value": (lambda: torch.full((2,), X[1]), "full", 1),  # type: ignore[call-overload]
    "arange": (lambda: torch.arange(TWO), "arange", 1),
    "narrow": (lambda: X.narrow(0, TWO, 2), "narrow", 1),
    "factor": (lambda: torch.add(X, X, alpha=TWO), "add", 1),  # type: ignore[call-overload]
    "copy": (lambda: torch.empty(6).copy_(X).tolist(), "copy", 1),
    "write": (lambda: torch.zeros(6).__setitem__(0, X[0]), "setitem", 1),
    "made_on_the_device": (lambda: torch.tensor([1, 2], device=DEVICE).tolist(), "tolist", 1),
    "sent_to_the_device": (lambda: torch.tensor([1, 2]).to(DEVICE).tolist(), "tolist", 1),
    "host_and_device": (lambda: (torch.tensor(2) + TWO).item(), "item", 1),
    "of_tensors": (lambda: torch.tensor([TWO, TWO]), "tensor", 2),
}

DEVICE = torch.device("cpu")  # stands for a GPU

FREE: dict[str, Callable[[], Any]] = {
    "arithmetic": lambda: (X * TWO + X.mean()).softmax(0).clamp(TWO) ** 2,
    "where": lambda: torch.where(MASK, X, 0.0),
    "masked_fill": lambda: X.masked_fill(MASK, 0.0),
    "mask_taking_a_number": lambda: X.clone().__setitem__(MASK, 1.0),
    "gather": lambda: X.gather(0, COUNTS),
    "places": lambda: X[COUNTS],
    "iteration": lambda: [len(X), *X, *X.unbind(), *X.split(2)],
    "known_size": lambda: X.repeat_interleave(COUNTS, output_size=6),
    "repeats": lambda: X.repeat_interleave(2),
    "dtype": lambda: X.to(torch.float64),
    "device": lambda: X.to(torch.device("cpu"), torch.float64),
    "to_device": lambda: torch.tensor([1, 2, 3]),
    "on_the_host": lambda: [torch.tensor([1]).tolist(), int(torch.arange(3).sum()), torch.ones(2)[torch.ones(2) > 0]],
    "host_mask": lambda: X[torch.tensor([True, False] * 3)],
    "host_index": lambda: X[torch.tensor(3)],
    "comparison": lambda: TWO == 2,
}


@pytest.fixture(params=["grad", "no_grad", "inference"])
def mode(request: pytest.FixtureRequest) -> Any:
    """Every way in which torch runs."""
    context = {"grad": torch.enable_grad, "no_grad": torch.no_grad, "inference": torch.inference_mode}[request.param]
    with context(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@pytest.mark.parametrize("name", READS)
def test_every_kind_is_seen_and_none_twice(name: str, mode: None) -> None:
    act, kind, count = READS[name]
    with HostReads() as reads:
        act()
    assert reads.kinds() == {kind: count}
    act()
    assert reads.total == count, "left, it counts no more"


@pytest.mark.parametrize("name", FREE)
def test_what_needs_no_value_is_not_counted(name: str, mode: None) -> None:
    with HostReads() as reads:
        FREE[name]()
    assert reads.kinds() == {}


def test_what_was_brought_to_the_host_is_read_for_nothing(mode: None) -> None:
    with HostReads() as reads:
        here = X.cpu()
        assert [here.tolist(), int(here[2]), here[here > 4].tolist()] == [[0, 1, 2, 3, 4, 5], 2, [5]]
        assert [float(x) for x in here] == [x.item() for x in here.unbind()] == here.cpu().numpy().tolist()
        assert reads.kinds() == {"cpu": 1}
        assert X.tolist()[1] == 1.0 and reads.kinds() == {"cpu": 1, "tolist": 1}, "what was copied is where it was"
        assert here.to(DEVICE).sum().item() == 15.0 and here.sum().item() == 15.0
        assert (here + X).sum().item() == 30.0
    assert reads.kinds() == {"cpu": 1, "tolist": 1, "item": 2}


def test_a_read_stands_at_the_innermost_line_of_the_package() -> None:
    prompt = Prompt(torch.zeros(2, 3, 4), torch.zeros(2, 3), torch.tensor([3, 2]), torch.zeros(2).long())
    with HostReads() as reads:
        for _ in range(2):
            prompt.row(1)
        X.tolist()
    found = {(place.file, place.function, kind): n for (place, kind), n in reads.counts.items()}
    assert found == {("types.py", "row", "int"): 2, ("test_host_reads.py", X_LINE, "tolist"): 1}
    place = next(place for place, kind in reads.counts if kind == "int")
    assert place.line > 1 and reads.report(2).splitlines()[:2] == ["    1.50  in all", f"    1.00  {place} (int)"]


X_LINE = test_a_read_stands_at_the_innermost_line_of_the_package.__name__


def test_a_read_that_fails_leaves_nothing_behind() -> None:
    with HostReads() as reads:
        with pytest.raises((RuntimeError, ValueError)):
            X.item()
        TWO.item()
    assert reads.kinds() == {"item": 2}


@dataclass
class Row:
    """A decoded row."""

    trace: Trace


def test_reads_of_a_step_are_over_the_calls_of_the_longest_row() -> None:
    runs = []

    def decode() -> list[Row]:
        for call in range(4):
            runs.append([float(X[call]), bool(MASK[call])])
        return [Row(Trace(calls=3)), Row(Trace(calls=4)), Row(Trace(calls=1))]

    reads, steps = reads_a_step(decode)
    assert steps == 4 and len(runs) == 8, "once to warm up, once counted"
    assert reads.kinds() == {"float": 4, "bool": 4} and reads.report(steps).startswith("    2.00  in all")


def test_reads_change_no_result() -> None:
    with HostReads():
        values = [X[MASK], torch.unique(COUNTS), X.repeat_interleave(COUNTS), torch.where(MASK)[0]]
    wanted: list[Tensor] = [X[3:], torch.tensor([0, 1, 2]), X[[0, 1, 1, 3, 4, 5]], torch.tensor([3, 4, 5])]
    assert all(torch.equal(a, b) for a, b in zip(values, wanted))
