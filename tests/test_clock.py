"""The clock waits for a GPU and for nothing else."""

import time

import pytest
import torch

from speechmtp.clock import clock


def test_it_is_the_performance_counter() -> None:
    before = time.perf_counter()
    assert before <= clock(torch.device("cpu")) <= time.perf_counter()


@pytest.mark.parametrize(("device", "waited"), [("cpu", []), ("cuda:1", [torch.device("cuda:1")])])
def test_it_waits_for_a_gpu_alone(monkeypatch: pytest.MonkeyPatch, device: str, waited: list[torch.device]) -> None:
    found: list[torch.device] = []
    monkeypatch.setattr(torch.cuda, "synchronize", found.append)
    clock(torch.device(device))
    assert found == waited


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_it_counts_what_a_gpu_still_does() -> None:
    device = torch.device("cuda")
    matrix = torch.randn(4096, 4096, device=device)
    began = clock(device)
    for _ in range(20):
        matrix = (matrix @ matrix).clamp(-1, 1)
    queued = time.perf_counter() - began
    assert clock(device) - began > queued
