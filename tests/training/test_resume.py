"""Killed at any moment and resumed, a training gives the bits of an uninterrupted one."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

HERE = Path(__file__).parent
PHASES = {"ctc": 10, "text": 7, "joint": 7}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the run `whole` and the run `killed`."""
    folder = tmp_path_factory.mktemp("runs")
    path = os.pathsep.join([str(HERE.parents[1]), str(HERE)])
    environment = os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(HERE / "killed_runs.py"), str(folder)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=110)
    assert done.returncode == 0, done.stderr[-3000:]
    (folder / "log").write_text(done.stderr)
    return folder


def rows(folder: Path, key: str) -> list[dict[str, Any]]:
    """Rows of train.jsonl that have `key`, without times."""
    found = [json.loads(line) for line in (folder / "train.jsonl").read_text().splitlines()]
    return [{k: v for k, v in r.items() if k not in ("time", "data_wait", "step_s")} for r in found if key in r]


def test_every_run_ended_as_it_was_meant_to(runs: Path) -> None:
    kill, stopped = -signal.SIGKILL, 75
    expected = [0, kill, kill, stopped, kill, kill, kill, stopped, kill, 0]
    assert json.loads((runs / "codes.json").read_text()) == expected, (runs / "log").read_text()[-3000:]


@pytest.mark.parametrize("phase", PHASES)
def test_losses_of_every_step_are_the_same_bits(runs: Path, phase: str) -> None:
    whole, killed = (rows(runs / name / phase, "loss") for name in ("whole", "killed"))
    assert [row["step"] for row in killed] == list(range(1, PHASES[phase] + 1))
    assert killed == whole
    assert len({row["loss"] for row in whole}) == len(whole)  # they do differ from step to step


@pytest.mark.parametrize("phase", PHASES)
def test_development_figures_are_the_same(runs: Path, phase: str) -> None:
    whole, killed = (rows(runs / name / phase, "candidate") for name in ("whole", "killed"))
    assert whole[0]["step"] == 4
    assert [row for row in killed if row["step"] < PHASES[phase]] == [w for w in whole if w["step"] < PHASES[phase]]
    assert killed[-len(whole) :] == whole
    final = [json.loads((runs / name / phase / "final.json").read_text()) for name in ("whole", "killed")]
    assert final[0] == final[1]


@pytest.mark.parametrize("phase", PHASES)
def test_weights_are_the_same_bits(runs: Path, phase: str) -> None:
    last = f"ckpt-{PHASES[phase]:08d}"
    for name in ("final.safetensors", f"{last}/model.safetensors", f"{last}/ema.safetensors"):
        whole, killed = (load_file(runs / run / phase / name) for run in ("whole", "killed"))
        assert whole.keys() == killed.keys()
        for key in whole:
            assert torch.equal(whole[key], killed[key]), f"{name}: {key}"


def test_training_moved_the_weights_and_left_no_rubbish(runs: Path) -> None:
    first, last = (load_file(runs / "killed" / "ctc" / f"ckpt-{n:08d}/model.safetensors") for n in (9, 10))
    assert any(not torch.equal(first[key], last[key]) for key in first)
    for phase in PHASES:
        names = sorted(p.name for p in (runs / "killed" / phase).glob("ckpt-*"))
        assert len(names) == 2 and not any("tmp" in name for name in names)
