"""The interface of the kinds of training input for heads."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from speechmtp.bundle import Bundle
from speechmtp.data.kaldi import DataDir, read_data_dir
from speechmtp.errors import ConfigError
from speechmtp.evaluation.held_out import HeldOut
from speechmtp.training.tasks.head_data import HeadData
from speechmtp.training.tasks.heads import HeadsTrainConfig

Note = Callable[[int, int], None]


@dataclass(frozen=True)
class HeadInputs:
    """Model, options and data of a training of heads: Kaldi data directories (one for `train`, one for `dev`) or, for a
    text LM, text files. `cache` is the file in which encoder outputs of the training audio are stored."""

    bundle: Bundle
    config: HeadsTrainConfig
    train: Sequence[str]
    dev: Sequence[str]
    root: str | None = None
    cache: Path | None = None
    allow_pipes: bool = False

    def directories(self, need_text: bool) -> tuple[DataDir, DataDir]:
        """Read the directories of `train` and `dev`. ConfigError if either is not exactly one directory."""
        for name, given in (("train", self.train), ("dev", self.dev)):
            if len(given) != 1:
                raise ConfigError(f"heads: {name}= has {len(given)} data directories, expected one; combine them")
        train, dev = (read_data_dir(d[0], self.root, need_text, self.allow_pipes) for d in (self.train, self.dev))
        return train, dev


HeadInput = tuple[HeadData, HeldOut]  # training data and development set
MakeHeadInput = Callable[[HeadInputs, Note], HeadInput]
