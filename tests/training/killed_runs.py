"""Run as `killed_runs.py FOLDER`: one training in one go, and the same one killed and resumed over and over.

Every run is a forked child that kills itself at a chosen moment, so that torch is imported only once.
"""

import json
import os
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

import torch
from small_speech import BATCH, ENCODER, FBANK, ctc_config, write_speech

from speechmtp.data.kaldi import read_data_dir
from speechmtp.heads.latent import LatentHeadsConfig
from speechmtp.models.encoder import Encoder
from speechmtp.models.encoder_lm import ModelConfig
from speechmtp.models.trunk import ScratchTrunkConfig
from speechmtp.text.tokenizer import train_tokenizer
from speechmtp.training.loop import LoopConfig, TrainingStopped
from speechmtp.training.optim import OptimConfig
from speechmtp.training.tasks.asr import AsrConfig, train_asr
from speechmtp.training.tasks.ctc import CtcPhase
from speechmtp.training.tasks.joint import JointPhase, JointPhaseConfig
from speechmtp.training.tasks.text import TextPhase, TextPhaseConfig, TextSource

torch.set_num_threads(1)
STOPPED = 75

# Where each run ends: class and method that is about to be called, for which time, and the signal.
ENDS: list[tuple[type, str, int, int]] = [
    (CtcPhase, "batch", 6, signal.SIGKILL),  # mid-epoch, behind the checkpoint of step 3
    (CtcPhase, "evaluate", 1, signal.SIGKILL),  # in the evaluation of step 4
    (CtcPhase, "batch", 2, signal.SIGTERM),  # saves at a step that is no multiple of save_every
    (Path, "rename", 1, signal.SIGKILL),  # a checkpoint's files are written, its folder not yet renamed
    (CtcPhase, "evaluate", 3, signal.SIGKILL),  # choosing a candidate, all steps done
    (TextPhase, "batch", 5, signal.SIGKILL),
    (TextPhase, "batch", 4, signal.SIGTERM),
    (JointPhase, "batch", 8, signal.SIGKILL),  # two micro-batches an update: behind the checkpoint of step 3
]


def small_config(folder: Path) -> AsrConfig:
    text = TextPhaseConfig(
        steps=7, rows=4, texts=(TextSource(str(folder / "train" / "text"), 1.0, True),), passes=1, strengths=(1.0,),
        optim=OptimConfig(lr=1e-3, warmup=2, schedule="cosine"),
    )  # fmt: skip
    joint = JointPhaseConfig(steps=7, optim=OptimConfig(lr=1e-3, warmup=2, accumulate=2), batch=BATCH, text=text)
    return AsrConfig(
        tokenizer=str(folder / "tokenizer.model"), precision="float32", features=FBANK,
        model=ModelConfig(ENCODER, trunk=ScratchTrunkConfig(width=16, layers=1, heads=2, ff_width=32)),
        heads=LatentHeadsConfig(depth=2), phases=(ctc_config(10), text, joint),
        loop=LoopConfig(evaluate_every=4, save_every=3, average=2),
    )  # fmt: skip


def hear_labels() -> None:
    """Start encoders with an unlikely blank, so that after few steps there still are segments for the bank."""
    real = Encoder.__init__

    def start(self: Encoder, *args: object) -> None:
        real(self, *args)  # type: ignore[arg-type]
        with torch.no_grad():
            self.ctc.bias[-1] = -4.0

    Encoder.__init__ = start  # type: ignore[assignment, method-assign]


def prepare(folder: Path) -> None:
    for name, count in (("train", 14), ("dev", 4)):
        write_speech(folder / name, count)
    lines = [line.split()[1] for line in (folder / "train" / "text").read_text().splitlines()]
    train_tokenizer(lines, 12, "bpe").save(folder / "tokenizer.model")


def end_at(owner: type, name: str, time: int, number: int) -> None:
    """Let this process send itself a signal when a method is called for the `time`th time."""
    real, seen = getattr(owner, name), [0]

    def ending(*args: object, **extra: object) -> object:
        seen[0] += 1
        if seen[0] == time:
            os.kill(os.getpid(), number)
        return real(*args, **extra)

    setattr(owner, name, ending)


def in_child(work: Callable[[], object]) -> int:
    """Run in a forked process; exit code, or the negative number of the signal that ended it."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            work()
            code = 0
        except TrainingStopped:
            code = STOPPED
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def main(folder: Path) -> None:
    prepare(folder)
    hear_labels()

    def train(name: str) -> None:
        sets = [read_data_dir(folder / which) for which in ("train", "dev")]
        train_asr(small_config(folder), sets[0], sets[1], folder / name, resume=name == "killed")

    codes = [in_child(lambda: train("whole"))]
    for end in ENDS:
        codes.append(in_child(lambda end=end: (end_at(*end), train("killed"))))  # type: ignore[misc]
    codes.append(in_child(lambda: train("killed")))
    (folder / "codes.json").write_text(json.dumps(codes))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
