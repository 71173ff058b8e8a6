"""The training loop for all phases of all tasks, in one or several processes, with exact resume.

Batches and all random numbers are functions of (seed, phase, step, micro-batch), so the state of a run consists of the
weights (and their moving average), the optimiser state and the step number.
"""

import json
import signal
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from speechmtp.errors import CheckpointError, ConfigError, SpeechMTPError
from speechmtp.models.storage import load_state
from speechmtp.training import checkpoint as store
from speechmtp.training import distributed
from speechmtp.training.log import TrainingLog
from speechmtp.training.optim import Ema, OptimConfig, clip_gradients, learning_rate, make_optimiser

MAX_BAD_STEPS = 3


class TrainingStopped(SpeechMTPError):
    """Raised when a signal stopped the run, after its state was saved."""


class Phase(Protocol):
    """One phase of training with its own data, loss and optimiser."""

    @property
    def name(self) -> str:
        """Name in the log."""

    @property
    def steps(self) -> int:
        """Number of updates."""

    @property
    def optim(self) -> OptimConfig:
        """Options of optimiser and schedule."""

    @property
    def module(self) -> nn.Module:
        """The module whose state is trained and stored."""

    def parameters(self) -> Iterable[tuple[nn.Parameter, float]]:
        """Trained parameters and their learning-rate factors."""

    def batch(self, number: int) -> Any:
        """Micro-batch `number`, a pure function of the number."""

    def weight(self, batch: Any) -> float:
        """The weight of a batch; the summed loss of an update is divided by the total weight of its batches."""

    def loss(self, batch: Any, step: int) -> tuple[Tensor, dict[str, float]]:
        """The summed loss, and sums for the log, which are divided by the weight too."""

    def evaluate(self) -> dict[str, float]:
        """Metrics on the development set, among them `score` (lower is better)."""


@dataclass(frozen=True)
class LoopConfig:
    """Options of the loop. `evaluate_every` and `save_every` are intervals in updates; `keep` is the number of
    checkpoints kept, and `average` the number of the last evaluated states whose mean is a candidate for the result."""

    evaluate_every: int = 500
    save_every: int = 250
    keep: int = 2
    average: int = 5
    tensorboard: bool = False

    def __post_init__(self) -> None:
        if min(self.evaluate_every, self.save_every, self.keep, self.average) < 1:
            raise ConfigError(f"loop: evaluate_every, save_every, keep and average must be 1 or more, found {self}")


def finished(out: Path) -> bool:
    """Whether the phase in this folder is finished."""
    return (out / "final.json").exists()


def load_finished(module: nn.Module, out: Path) -> dict[str, float]:
    """Load the result of a finished phase into `module` and return its development metrics. CheckpointError if its
    files cannot be read or do not fit the module."""
    load_state(module, store.read_group(out, "final"), out / "final.safetensors")
    try:
        return dict(json.loads((out / "final.json").read_text())["figures"])
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{out / 'final.json'}: cannot be read: {error}; remove it to train on") from error


class _Stop:
    """Records SIGTERM and SIGUSR1, so that the loop can finish its step and save."""

    def __init__(self) -> None:
        self.asked = False
        self._old: dict[int, Any] = {}

    def __enter__(self) -> "_Stop":
        for number in (signal.SIGTERM, signal.SIGUSR1):
            self._old[number] = signal.signal(number, self._note)
        return self

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.asked = True

    def __exit__(self, *_: object) -> None:
        for number, handler in self._old.items():
            signal.signal(number, handler)


def seed_step(*key: object) -> None:
    """Seed torch's generators for one micro-batch by `key`, so that random numbers do not depend on earlier steps."""
    digest = 0
    for part in repr(key).encode():
        digest = (digest * 1099511628211 + part) % (1 << 63)
    torch.manual_seed(digest)


def run_phase(phase: Phase, out: Path, config: LoopConfig, seed: int, resume: bool) -> dict[str, float]:
    """Train a phase to its end and return the development metrics of the best state, which is loaded into its module.

    With `resume` the newest checkpoint in `out` is continued; CheckpointError if it is of another module, phase, seed
    or number of processes. Candidates for the best state are the last weights, their
    moving average, and the mean of the last evaluated moving averages. TrainingStopped after a signal; SpeechMTPError
    after several updates in a row whose gradients are not finite.
    """
    out.mkdir(parents=True, exist_ok=True)
    rank, _ = distributed.start()
    figures = _Run(phase, out, config, seed, resume).go()
    if rank == 0:
        store.write_group(out / "final.safetensors", phase.module.state_dict())
        temporary = out / "final.json.tmp"
        temporary.write_text(json.dumps({"steps": phase.steps, "figures": figures}, indent=1))
        temporary.replace(out / "final.json")
    distributed.barrier()
    return figures


class _Run:
    """State of one phase in training."""

    def __init__(self, phase: Phase, out: Path, config: LoopConfig, seed: int, resume: bool) -> None:
        self.phase, self.out, self.config, self.seed = phase, out, config, seed
        self.rank, self.world = distributed.start()
        pairs = list(phase.parameters())
        self.parameters = [p for p, _ in pairs]
        self.optimiser = make_optimiser(pairs, phase.optim)
        self.ema = Ema(phase.module, phase.optim.ema)
        self.step, self.bad = 0, 0
        self.scores: list[float] = []
        newest = store.newest_checkpoint(out) if resume else None
        if newest is not None:
            self._restore(newest)
        self.log = TrainingLog(out, phase.name, phase.steps, self.step, self.rank == 0, config.tensorboard)
        torn = [p.name for p in store.checkpoints(out) if int(p.name[5:]) > self.step] if resume else []
        if torn:
            self.log.note(f"{out}: {', '.join(torn)} cannot be used (not whole); going on from step {self.step}")

    def _restore(self, folder: Path) -> None:
        state = json.loads((folder / "state.json").read_text())
        for name, own in self._identity().items():
            if state.get(name, own) != own:  # checkpoints of earlier versions lack some
                raise CheckpointError(
                    f"{folder}: {name} was {state[name]}, is {own}; resume with the same, or train in another folder"
                )
        load_state(self.phase.module, store.read_group(folder, "model"), folder / "model.safetensors")
        for name, value in store.read_group(folder, "ema").items():
            self.ema.state[name].copy_(value)  # in place, so that it stays on the module's device
        self.optimiser.load_state_dict(torch.load(folder / "optim.pt", weights_only=True))
        self.step, self.bad, self.scores = state["step"], state["bad"], state["scores"]

    def _identity(self) -> dict[str, object]:
        """What batches and random numbers depend on, besides the data."""
        return {"phase": self.phase.name, "seed": self.seed, "processes": self.world}

    def go(self) -> dict[str, float]:
        with _Stop() as stop, self.log:
            while self.step < self.phase.steps:
                self._update()
                done = self.step == self.phase.steps
                # Signals reach processes at different times, but all processes must stop after the same step.
                asked = distributed.total(float(stop.asked)) > 0
                if self.step % self.config.evaluate_every == 0 and not done:
                    self._evaluate()
                if self.step % self.config.save_every == 0 or asked or done:
                    self._save()
                if asked:
                    raise TrainingStopped(
                        f"{self.out}: stopped at step {self.step}, its state is saved; resume it to go on"
                    )
            return self._choose()

    def _update(self) -> None:
        began = time.perf_counter()
        phase, accumulate = self.phase, self.phase.optim.accumulate
        numbers = [(self.step * accumulate + i) * self.world + self.rank for i in range(accumulate)]
        batches = [phase.batch(n) for n in numbers]
        waited = time.perf_counter() - began
        weight = max(1e-9, distributed.total(sum(phase.weight(b) for b in batches)))
        rate = learning_rate(phase.optim, self.step, phase.steps)
        for group in self.optimiser.param_groups:
            group["lr"] = rate * group["factor"]
        self.optimiser.zero_grad(set_to_none=True)
        sums: dict[str, float] = {}
        for number, batch in zip(numbers, batches):
            seed_step(self.seed, phase.name, number)
            loss, parts = phase.loss(batch, self.step)
            (loss / weight).backward()
            for name, value in (parts | {"loss": float(loss.detach())}).items():
                sums[name] = sums.get(name, 0.0) + value
        distributed.sum_gradients(self.parameters)
        norm = clip_gradients(self.parameters, phase.optim.clip)
        values = {name: distributed.total(value) / weight for name, value in sums.items()}
        if torch.isfinite(norm):
            self.optimiser.step()
            self.bad = 0
        else:
            self._note_bad()
        self.ema.update(phase.module, self.step)
        self.step += 1
        row = values | {"lr": rate, "grad_norm": float(norm)}
        self.log.step(self.step, row, waited, time.perf_counter() - began)

    def _note_bad(self) -> None:
        """Skip an update whose gradient is not finite; give up after several in a row."""
        self.bad += 1
        size = self.phase.optim.accumulate * self.world
        numbers = list(range(self.step * size, (self.step + 1) * size))  # those of all processes
        if self.rank == 0:
            with (self.out / "bad_batches.jsonl").open("a") as file:
                file.write(json.dumps({"step": self.step, "batches": numbers}) + "\n")
        if self.bad >= MAX_BAD_STEPS:
            raise SpeechMTPError(
                f"{self.out}: {self.bad} updates in a row without a finite gradient, the last at step {self.step}; "
                f"lower optim.lr and train anew in another folder"
            )

    def _figures(self, state: dict[str, Tensor]) -> dict[str, float]:
        """Development metrics of another state of the module, whose own state is restored afterwards."""
        own = {k: v.detach().clone() for k, v in self.phase.module.state_dict().items()}
        self.phase.module.load_state_dict(state)
        self.phase.module.eval()
        with torch.no_grad():
            figures = self.phase.evaluate()
        self.phase.module.load_state_dict(own)
        self.phase.module.train()
        return figures

    def _evaluate(self) -> None:
        figures = self._figures(self.ema.state)
        self.scores.append(figures["score"])
        self.log.evaluation(self.step, figures)
        if self.rank == 0:
            number = len(self.scores) % self.config.average
            store.write_group(self.out / f"recent-{number}.safetensors", self.ema.state)

    def _save(self) -> None:
        if self.rank == 0:
            groups = {"model": self.phase.module.state_dict(), "ema": self.ema.state}
            state = {**self._identity(), "bad": self.bad, "scores": self.scores}
            store.save_checkpoint(self.out, self.step, groups, self.optimiser.state_dict(), state)
            store.prune(self.out, self.config.keep, self.step)
        distributed.barrier()

    def _choose(self) -> dict[str, float]:
        """Load the candidate with the best development score and return its metrics."""
        candidates = {"last": dict(self.phase.module.state_dict()), "ema": self.ema.state}
        recent = [store.read_group(self.out, p.stem) for p in sorted(self.out.glob("recent-*.safetensors"))]
        if len(recent) > 1:
            candidates["mean"] = store.mean_of([*recent, {k: v.cpu() for k, v in self.ema.state.items()}])
        candidates = {n: {k: v.clone() for k, v in c.items()} for n, c in candidates.items()}
        results = {name: self._figures(state) for name, state in candidates.items()}
        for name, figures in results.items():
            self.log.evaluation(self.step, figures, name)
        best = min(results, key=lambda name: results[name]["score"])
        self.phase.module.load_state_dict(candidates[best])
        self.phase.module.eval()
        return results[best]
