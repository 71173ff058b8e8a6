"""Training data and development sets of heads, by the way in which a model reads."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from speechmtp.bundle import Bundle
from speechmtp.data.kaldi import DataDir, read_data_dir
from speechmtp.errors import ConfigError
from speechmtp.evaluation.held_out import HeldOut, long_texts, text_dev
from speechmtp.models.bases.contract import InputKind
from speechmtp.training.tasks.head_bases import (
    heard_data,
    heard_dev,
    memory_data,
    memory_dev,
    packed_data,
)
from speechmtp.training.tasks.head_data import HeadData
from speechmtp.training.tasks.head_prompts import prompt_data, prompt_dev
from speechmtp.training.tasks.heads import HeadsTrainConfig

Note = Callable[[int, int], None]


@dataclass(frozen=True)
class HeadInputs:
    """What was asked for: Kaldi data directories (one each), or text files; `prompts` is where what was computed of the
    audio is kept."""

    bundle: Bundle
    config: HeadsTrainConfig
    train: Sequence[str]
    dev: Sequence[str]
    root: str | None = None
    prompts: Path | None = None
    allow_pipes: bool = False

    def directories(self, need_text: bool) -> tuple[DataDir, DataDir]:
        """The two data directories; a ConfigError for more."""
        if max(len(self.train), len(self.dev)) > 1:
            raise ConfigError(
                "train heads: one --train and one --dev data directory expected; join them with data combine"
            )
        train, dev = (read_data_dir(d[0], self.root, need_text, self.allow_pipes) for d in (self.train, self.dev))
        return train, dev


Made = tuple[HeadData, HeldOut]


def _features(asked: HeadInputs, note: Note) -> Made:
    train, dev = asked.directories(need_text=True)
    held_out = heard_dev(asked.bundle, dev, asked.allow_pipes)
    return heard_data(asked.bundle, train, asked.config, asked.prompts, asked.allow_pipes, note), held_out


def _memories(asked: HeadInputs, note: Note) -> Made:
    train, dev = asked.directories(need_text=asked.config.targets == "text")
    prompts = asked.prompts
    kept = None if prompts is None else prompts.with_name(f"dev_{prompts.name}")
    held_out = memory_dev(asked.bundle, [dev], kept, asked.allow_pipes, note)
    return memory_data(asked.bundle, [train], asked.config, prompts, asked.allow_pipes, note), held_out


def _prompts(asked: HeadInputs, note: Note) -> Made:
    train, dev = asked.directories(need_text=asked.config.targets == "text")
    held_out = prompt_dev(asked.bundle, dev, asked.allow_pipes)
    return prompt_data(asked.bundle, train, asked.config, asked.prompts, asked.allow_pipes, note), held_out


def _texts(asked: HeadInputs, note: Note) -> Made:
    lm, config = asked.bundle.text_model, asked.config
    if asked.prompts:
        raise ConfigError(f"--prompts {asked.prompts}: prompts are of audio, {lm.name} reads text; leave it out")
    texts = long_texts(lm, asked.dev, config.prompt_tokens)
    return packed_data(lm, asked.train, config), text_dev(lm, texts, config.prompt_tokens, config.size)


HEAD_INPUTS: Mapping[InputKind, Callable[[HeadInputs, Note], Made]] = {
    "features": _features,
    "encoder_outputs": _memories,
    "prompts": _prompts,
    "texts": _texts,
}


def head_inputs(asked: HeadInputs, note: Note) -> Made:
    """Training data and development set; `note` hears how much of the audio is done."""
    return HEAD_INPUTS[asked.bundle.model.input_kind](asked, note)
