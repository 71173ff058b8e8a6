"""Two processes on gloo equal one process that accumulates two micro-batches."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from small_speech import write_speech
from two_processes import LOOP, STEPS, STOP_AT, make_phase

from speechmtp.training import distributed
from speechmtp.training.loop import run_phase

HERE = Path(__file__).parent


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run `two` of two processes and the run `one`."""
    folder = tmp_path_factory.mktemp("ranks")
    write_speech(folder / "train", 13)
    path = os.pathsep.join([str(HERE.parents[1]), str(HERE)])
    environment = os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    command = [
        sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-addr", "127.0.0.1",
        "--master-port", str(free_port()), str(HERE / "two_processes.py"), str(folder),
    ]  # fmt: skip
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr[-3000:]
    run_phase(make_phase(folder, 2), folder / "one", LOOP, 0, False)
    return folder


def rows(folder: Path, key: str) -> list[dict[str, Any]]:
    return [r for line in (folder / "train.jsonl").read_text().splitlines() if key in (r := json.loads(line))]


def test_losses_are_those_of_one_process(folder: Path) -> None:
    two, one = rows(folder / "two", "loss"), rows(folder / "one", "loss")
    assert [r["step"] for r in two] == [r["step"] for r in one] == list(range(1, STEPS + 1))
    for a, b in zip(two, one):
        for name in ("loss", "ctc", "consistency", "grad_norm", "lr"):
            assert a[name] == pytest.approx(b[name], rel=1e-5, abs=1e-5), name
    scores = [[r["dev_loss"] for r in rows(folder / name, "candidate")] for name in ("two", "one")]
    assert scores[0] == pytest.approx(scores[1], rel=1e-4)


def test_all_ranks_end_with_the_same_weights(folder: Path) -> None:
    first, second = (torch.load(folder / f"rank-{rank}.pt", weights_only=True) for rank in (0, 1))
    assert all(torch.equal(first[key], second[key]) for key in first)
    start = make_phase(folder, 1).module.state_dict()
    assert any(not torch.equal(first[key], start[key]) for key in first)


def test_weights_without_gradient_stay_as_in_one_process(folder: Path) -> None:
    from safetensors.torch import load_file

    one, two = (load_file(folder / name / f"ckpt-{STEPS:08d}" / "model.safetensors") for name in ("one", "two"))
    for key in one:
        assert torch.allclose(one[key], two[key], atol=1e-4), key
    start = make_phase(folder, 1).module.state_dict()
    assert torch.equal(two["feedback.weight"], start["feedback.weight"])  # not even decayed


def test_a_signal_to_one_process_stops_all_after_the_same_step(folder: Path) -> None:
    for rank in (0, 1):
        assert f"step {STOP_AT}" in (folder / f"stopped-{rank}").read_text()


def test_one_process_needs_no_group(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    assert distributed.start() == (0, 1)
    assert distributed.total(2.5) == 2.5
    parameter = torch.nn.Parameter(torch.zeros(2))
    distributed.sum_gradients([parameter])
    assert parameter.grad is None
    distributed.barrier()
