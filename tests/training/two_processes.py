"""Run by torchrun as `two_processes.py FOLDER`: a short ctc phase, stopped by a signal to one process, resumed."""

import os
import signal
import sys
from pathlib import Path

import torch
from small_speech import ctc_config, letter_data, small_encoder

from speechmtp.training import distributed
from speechmtp.training.loop import LoopConfig, TrainingStopped, run_phase
from speechmtp.training.tasks.ctc import AudioBatch, CtcPhase

LOOP = LoopConfig(evaluate_every=4, save_every=3)
STEPS = 8
STOP_AT = 5  # steps done when the signal comes


def make_phase(folder: Path, accumulate: int) -> CtcPhase:
    """An encoder without intermediate CTC, so that its feedback weights have no gradient."""
    data = letter_data(folder / "train")
    encoder = small_encoder(inter_ctc=())
    return CtcPhase(ctc_config(STEPS, accumulate=accumulate, weight_decay=0.5), encoder, data, data, 0, torch.float32)


class Interrupted(CtcPhase):
    """Signals its own process, and no other, in the middle of an update."""

    def batch(self, number: int) -> AudioBatch:
        if number // 2 == STOP_AT - 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return super().batch(number)


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    signal.alarm(90)  # a process that waits for another for ever ends by itself
    rank, _ = distributed.start()
    first = make_phase(folder, 1)
    if rank == 1:
        first.__class__ = Interrupted
    try:
        run_phase(first, folder / "two", LOOP, 0, False)
    except TrainingStopped as stop:
        (folder / f"stopped-{rank}").write_text(str(stop))
    second = make_phase(folder, 1)
    run_phase(second, folder / "two", LOOP, 0, True)
    torch.save(second.module.state_dict(), folder / f"rank-{rank}.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
