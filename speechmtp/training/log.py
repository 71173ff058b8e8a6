"""Training log: progress on the terminal, and the record of a run in `train.jsonl`."""

import json
import sys
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from speechmtp.errors import ConfigError

LINE_SECONDS = 30.0


class TrainingLog:
    """Writes a row of values per update and per evaluation to `train.jsonl`, and progress to the terminal.

    Rows after step `start`, from which a run resumes, are removed. A log that is not `active` writes nothing.
    ConfigError if `tensorboard` is asked for but not installed.
    """

    def __init__(self, out: Path, name: str, steps: int, start: int, active: bool, tensorboard: bool) -> None:
        self._name, self._steps, self._active = name, steps, active
        self._path = out / "train.jsonl"
        self._last_line = 0.0
        self._progress: Progress | None = None
        self._writer: Any = None
        if not active:
            return
        rows = self._path.read_text().splitlines() if self._path.exists() else []
        kept = [row for row in rows if _step_of(row) <= start]
        temporary = self._path.with_name("train.jsonl.tmp")  # if the process is killed here, the log is not lost
        temporary.write_text("".join(row + "\n" for row in kept))
        temporary.replace(self._path)
        self._file = self._path.open("a")
        if tensorboard:
            try:
                from torch.utils.tensorboard import SummaryWriter
            except ImportError as error:
                raise ConfigError("loop.tensorboard: needs tensorboard; pip install 'speechmtp[train]'") from error

            self._writer = SummaryWriter(str(out / "tensorboard"), purge_step=start + 1)
        if sys.stderr.isatty():
            self._progress = Progress(
                TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(),
                TextColumn("{task.fields[figures]}"), console=Console(stderr=True),
            )  # fmt: skip
            self._task = self._progress.add_task(name, total=steps, completed=start, figures="")

    def __enter__(self) -> "TrainingLog":
        if self._progress:
            self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._progress:
            self._progress.stop()
        if self._active:
            self._file.close()
        if self._writer:
            self._writer.close()

    def step(self, step: int, figures: dict[str, float], waited: float, seconds: float) -> None:
        """Log one update. `step` counts from 1; `waited` (for data) and `seconds` (in total) are durations."""
        if not self._active:
            return
        self._write({"step": step, **figures, "data_wait": round(waited, 4), "step_s": round(seconds, 4)})
        if self._progress:
            self._progress.update(self._task, completed=step, figures=f"loss {figures['loss']:.3f}")
        elif (now := time.monotonic()) - self._last_line > LINE_SECONDS or step == self._steps:
            self._last_line = now
            shown = " ".join(f"{k} {v:.4g}" for k, v in figures.items())
            print(f"{self._name} {step}/{self._steps} {shown} step_s {seconds:.2f}", file=sys.stderr, flush=True)

    def evaluation(self, step: int, figures: dict[str, float], candidate: str = "ema") -> None:
        """Log the development metrics of one candidate state."""
        if not self._active:
            return
        self._write({"step": step, "candidate": candidate, **{f"dev_{k}": v for k, v in figures.items()}})
        shown = " ".join(f"{k} {v:.4g}" for k, v in figures.items())
        self.note(f"{self._name} {step}/{self._steps} dev ({candidate}) {shown}")

    def note(self, line: str) -> None:
        """Print one line to the terminal; it is not written to `train.jsonl`."""
        if not self._active:
            return
        if self._progress:
            self._progress.console.print(line)
        else:
            print(line, file=sys.stderr, flush=True)

    def _write(self, row: dict[str, Any]) -> None:
        self._file.write(json.dumps(row | {"time": round(time.time(), 2)}) + "\n")
        self._file.flush()
        if self._writer:
            for key, value in row.items():
                if isinstance(value, float):
                    self._writer.add_scalar(f"{self._name}/{key}", value, row["step"])


def _step_of(row: str) -> int:
    try:
        return int(json.loads(row)["step"])
    except (ValueError, KeyError):
        return sys.maxsize
