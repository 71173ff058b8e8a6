"""The loop: skipped updates, candidates, signals, the log."""

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from toy_phase import ToyPhase, checkpoint_names, weights

from speechmtp.errors import SpeechMTPError
from speechmtp.training.checkpoint import mean_of, read_group
from speechmtp.training.loop import LoopConfig, TrainingStopped, finished, load_finished, run_phase

RARELY = LoopConfig(evaluate_every=100, save_every=100)


def rows(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "train.jsonl").read_text().splitlines()]


def test_an_update_divides_sums_by_the_weight_of_all_micro_batches(tmp_path: Path) -> None:
    phase = ToyPhase(1, accumulate=3)
    run_phase(phase, tmp_path, RARELY, 0, False)
    assert phase.seen == [0, 1, 2]
    row = rows(tmp_path)[0]
    assert row["step"] == 1 and row["twice"] == pytest.approx(2 * row["loss"])
    assert row["lr"] == pytest.approx(phase.optim.lr)


def test_random_draws_belong_to_the_micro_batch_not_to_what_came_before(tmp_path: Path) -> None:
    first, second = ToyPhase(3), ToyPhase(3)
    run_phase(first, tmp_path / "a", RARELY, 0, False)
    torch.rand(17)
    run_phase(second, tmp_path / "b", RARELY, 0, False)
    assert [r.get("loss") for r in rows(tmp_path / "a")] == [r.get("loss") for r in rows(tmp_path / "b")]
    run_phase(ToyPhase(3), tmp_path / "c", RARELY, 1, False)
    assert rows(tmp_path / "a")[0]["loss"] != rows(tmp_path / "c")[0]["loss"]


def test_an_update_without_finite_gradient_is_skipped_and_noted(tmp_path: Path) -> None:
    steps: dict[int, dict[str, Tensor]] = {}

    class Watched(ToyPhase):
        def batch(self, number: int) -> tuple[int, Tensor]:
            steps[number // 2] = weights(self)
            return super().batch(number)

    phase = Watched(6, spoil=[5, 6, 10], accumulate=2)  # steps 2, 3 and 5
    run_phase(phase, tmp_path, LoopConfig(evaluate_every=100, save_every=100), 0, False)
    noted = [json.loads(line) for line in (tmp_path / "bad_batches.jsonl").read_text().splitlines()]
    assert noted == [{"step": 2, "batches": [4, 5]}, {"step": 3, "batches": [6, 7]}, {"step": 5, "batches": [10, 11]}]
    moved = {s: any(not torch.equal(steps[s][k], steps[s + 1][k]) for k in steps[s]) for s in range(5)}
    assert moved == {0: True, 1: True, 2: False, 3: False, 4: True}
    assert all(bool(v.isfinite().all()) for v in weights(phase).values())
    assert finished(tmp_path)


def test_the_third_in_a_row_ends_the_run(tmp_path: Path) -> None:
    phase = ToyPhase(9, spoil=[4, 5, 6])
    with pytest.raises(SpeechMTPError, match=r"3 updates in a row.*step 6") as caught:
        run_phase(phase, tmp_path, LoopConfig(evaluate_every=100, save_every=2), 0, False)
    assert "\n" not in str(caught.value)
    assert checkpoint_names(tmp_path) == ["ckpt-00000004", "ckpt-00000006"]
    assert not finished(tmp_path)
    good = read_group(tmp_path / "ckpt-00000004", "model")
    assert all(bool(v.isfinite().all()) for v in good.values())


def test_the_count_in_a_row_survives_a_resume(tmp_path: Path) -> None:
    config = LoopConfig(evaluate_every=100, save_every=1)
    with pytest.raises(SpeechMTPError, match="in a row"):
        run_phase(ToyPhase(9, spoil=[4, 5, 6]), tmp_path, config, 0, False)
    with pytest.raises(SpeechMTPError, match=r"in a row.*step 6"):
        run_phase(ToyPhase(9, spoil=[6]), tmp_path, config, 0, True)


@pytest.mark.parametrize("best", ["last", "ema", "mean"])
def test_the_candidate_with_the_best_score_is_left(tmp_path: Path, best: str) -> None:
    phase = ToyPhase(9, ema=0.6)
    config = LoopConfig(evaluate_every=2, save_every=3, average=3)
    dry = ToyPhase(9, ema=0.6)
    run_phase(dry, tmp_path / "dry", config, 0, False)
    ema = read_group(tmp_path / "dry" / "ckpt-00000009", "ema")
    recent = [load_file(p) for p in sorted((tmp_path / "dry").glob("recent-*.safetensors"))]
    assert len(recent) == 3  # of four evaluations
    states = {
        "last": read_group(tmp_path / "dry" / "ckpt-00000009", "model"), "ema": ema, "mean": mean_of([*recent, ema])
    }  # fmt: skip
    target = states[best]["line.weight"]
    phase.score = lambda module: float((module["line"].weight - target).abs().sum())  # type: ignore[index, operator]
    figures = run_phase(phase, tmp_path / "run", config, 0, False)
    assert figures["score"] == pytest.approx(0, abs=1e-6)
    for key, value in weights(phase).items():
        assert torch.allclose(value, states[best][key], atol=1e-7), key
    assert not phase.module.training
    scores = {r["candidate"]: r["dev_score"] for r in rows(tmp_path / "run") if r["step"] == 9 and "candidate" in r}
    assert scores.keys() == {"last", "ema", "mean"}
    assert min(scores, key=lambda name: scores[name]) == best
    fresh = ToyPhase(9)
    assert load_finished(fresh.module, tmp_path / "run") == figures
    assert all(torch.equal(value, weights(phase)[key]) for key, value in weights(fresh).items())


def test_evaluation_sees_the_average_and_puts_the_module_back(tmp_path: Path) -> None:
    plain, watched = ToyPhase(5), ToyPhase(5)
    run_phase(plain, tmp_path / "a", RARELY, 0, False)
    run_phase(watched, tmp_path / "b", LoopConfig(evaluate_every=1, save_every=100), 0, False)
    losses = [[r["loss"] for r in rows(tmp_path / name) if "loss" in r] for name in "ab"]
    assert losses[0] == losses[1]
    assert [r["step"] for r in rows(tmp_path / "b") if r.get("candidate") == "ema"] == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("at", [2, 5])
def test_a_signal_saves_and_the_run_goes_on_later(tmp_path: Path, at: int) -> None:
    class Signalled(ToyPhase):
        def batch(self, number: int) -> tuple[int, Tensor]:
            if number == at:
                os.kill(os.getpid(), signal.SIGUSR1)
            return super().batch(number)

    whole = ToyPhase(6)
    run_phase(whole, tmp_path / "whole", RARELY, 0, False)
    before = signal.getsignal(signal.SIGUSR1)
    with pytest.raises(TrainingStopped, match=f"step {at + 1}"):
        run_phase(Signalled(6), tmp_path / "run", RARELY, 0, False)
    assert signal.getsignal(signal.SIGUSR1) is before
    assert checkpoint_names(tmp_path / "run") == [f"ckpt-{at + 1:08d}"]
    assert not finished(tmp_path / "run")
    resumed = ToyPhase(6)
    run_phase(resumed, tmp_path / "run", RARELY, 0, True)
    assert resumed.seen == list(range(at + 1, 6))
    assert all(torch.equal(value, weights(whole)[key]) for key, value in weights(resumed).items())
    losses = [[r["loss"] for r in rows(tmp_path / name) if "loss" in r] for name in ("whole", "run")]
    assert losses[0] == losses[1]


def test_the_log_is_cut_to_the_step_that_a_run_goes_on_from(tmp_path: Path) -> None:
    with pytest.raises(SpeechMTPError):
        run_phase(ToyPhase(9, spoil=[3, 4, 5]), tmp_path, LoopConfig(evaluate_every=100, save_every=3), 0, False)
    with (tmp_path / "train.jsonl").open("a") as file:
        file.write('{"step": 7, "lo')  # what a kill leaves
    for path in tmp_path.glob("ckpt-00000006"):
        (path / "COMMITTED").unlink()
    run_phase(ToyPhase(9), tmp_path, LoopConfig(evaluate_every=100, save_every=3), 0, True)
    assert [r["step"] for r in rows(tmp_path) if "loss" in r] == list(range(1, 10))


def test_without_resume_an_old_checkpoint_is_not_read(tmp_path: Path) -> None:
    run_phase(ToyPhase(4), tmp_path, RARELY, 0, False)
    again = ToyPhase(4)
    run_phase(again, tmp_path, RARELY, 0, False)
    assert again.seen == [0, 1, 2, 3]
