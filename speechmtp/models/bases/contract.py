"""What every kind of model offers, so that no caller asks which kind it is: the one face.

A kind is one file here with a class below `SpeechModel`, and one line in `table.py`; help texts name it by `names.py`.
"""

from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from speechmtp.audio.features import FbankConfig
from speechmtp.errors import CheckpointError, ConfigError
from speechmtp.models.encoder_lm import EncoderLM
from speechmtp.models.storage import Storage
from speechmtp.models.trunk import Trunk
from speechmtp.text.tokenizer import Tokenizer
from speechmtp.types import Prompt, Request, TokenRules, TokenSpelling

# What a model reads, and with it what a training computes once and keeps. `features`: frames of ours, which may be
# changed before the encoder; `encoder_outputs`: encoder states beside the text; `prompts`: entries in front of the
# text, made of whole recordings; `texts`: token ids alone.
InputKind = Literal["features", "encoder_outputs", "prompts", "texts"]


class SpeechModel(nn.Module):
    """A trunk with all that makes requests for it and text of its tokens.

    `rate` in Hz; a recording has at least `shortest` samples and at most `longest` seconds. `eos` are the tokens that
    end a text, the one that drafters say first. `name` is what errors call it.
    """

    kind: ClassVar[str]  # `model.kind` in config.yaml
    title: ClassVar[str]  # what people call it
    input_kind: ClassVar[InputKind]
    settings: ClassVar[type]  # the dataclass of `model` in config.yaml, with a field `kind`
    model_types: ClassVar[tuple[str, ...]] = ()  # of transformers' config.json, whose folders it claims
    normalizer: ClassVar[str] = "whisper-en"  # where config.yaml names none
    own_ctc: ClassVar[bool] = False  # whether its requests come with the labels of a CTC head

    config: Any
    trunk: Trunk  # what decodes, and what heads stand on
    features: FbankConfig | None = None  # frames of ours that it reads
    name: str = "the model"
    rate: int = 16000
    shortest: int = 1
    longest: float = 30.0
    eos: tuple[int, ...]
    tokenizer: Any = None  # None: tokens are no text

    # Folders

    @classmethod
    @abstractmethod
    def load(cls, folder: Path, config: Any, features: FbankConfig | None) -> "SpeechModel":
        """The model of a folder, on the CPU in float32; a CheckpointError of one line where it cannot be read."""

    @abstractmethod
    def save(self, folder: Path, storage: Storage) -> None:
        """Write weights, tokenizer and all else that `load` reads into a folder that is there."""

    @classmethod
    def default_settings(cls) -> Any:
        """The configuration of a folder of transformers without one of ours."""
        return cls.settings()

    def stored_as(self, storage: Storage) -> Storage:
        """How `save` really rounds the trunk's weights, where it cannot do as it is told."""
        return storage

    # Parts

    def encoder_alone(self) -> nn.Module:
        """What computes memories, for a CTC head that spells on it; a CheckpointError for models without."""
        raise CheckpointError(
            f"{self.name}: takes no CTC draft head, which reads an encoder-decoder's encoder outputs; leave ctc= out"
        )

    @property
    def device(self) -> torch.device:
        """Where its weights are."""
        return self.trunk.unembedding().weight.device

    # Text

    def encode(self, text: str) -> list[int]:
        """Token ids of a text, without an end token; a ConfigError for a model whose tokens are no text."""
        if self.tokenizer is None:
            raise ConfigError(f"{self.name}: has no tokenizer, its tokens are no text; give it token ids")
        found: list[int] = self.tokenizer.encode(text)
        return found

    def decode(self, ids: Sequence[int]) -> str:
        """The text of token ids; empty for a model whose tokens are no text."""
        return "" if self.tokenizer is None else str(self.tokenizer.decode(list(ids)))

    def transcript(self, text: str) -> list[int]:
        """Token ids of a text in the way that the model says it at the beginning of its output."""
        return self.encode(text)

    @property
    def unk(self) -> int | None:
        """The id of what the vocabulary cannot spell; None where it spells everything."""
        return getattr(self.tokenizer, "unk", None)

    def spelling(self) -> TokenSpelling:
        """What drafters of text need; a ConfigError where tokens are no text."""
        make = getattr(self.tokenizer, "spelling", None)
        if make is None:
            raise ConfigError(f"{self.name}: its tokenizer cannot spell for drafters; leave ctc= out")
        found: TokenSpelling = make()
        return found

    # Requests

    @property
    def rules(self) -> TokenRules:
        """What it may say."""
        return TokenRules(self.eos)

    def limit(self, seconds: float) -> int | None:
        """The most tokens, an end token among them, that it says of so many seconds; None where the prompt's length
        decides."""
        return None

    @abstractmethod
    def listen(
        self, samples: Tensor, language: str = "", task: str = "", draft: "SpeechModel | None" = None
    ) -> Request:
        """What is asked of the decoder for samples [N], float32 at `rate` Hz; `draft` is a small model that drafts."""

    def no_choice(self, language: str, task: str) -> None:
        """ConfigError where somebody chose a language or a task of a model that has none to choose."""
        for name, value in (("language", language), ("task", task)):
            if value:
                raise ConfigError(f"{self.name}: {name}={value!r}: {self.title} has no {name} to choose; leave it out")

    def check_draft(self, draft: "SpeechModel", source: object) -> None:
        """A CheckpointError unless `draft` can draft for it, on whose weights it may then stand; `source` is where this
        model was read."""
        raise CheckpointError(f"draft model {draft.name}: {self.title} takes none; leave draft_model= out")


class FeatureModel(EncoderLM, SpeechModel):
    """Frames of ours go through encoder and adapter of ours to the prompt of a trunk; `bos` opens the text."""

    input_kind: ClassVar[InputKind] = "features"
    own_ctc: ClassVar[bool] = True
    features: FbankConfig
    tokenizer: Tokenizer


class EncoderDecoderModel(SpeechModel):
    """Audio becomes a memory [S, E], which the trunk's layers look at beside a text that a few tokens open."""

    input_kind: ClassVar[InputKind] = "encoder_outputs"

    @abstractmethod
    def start_tokens(self, language: str = "", task: str = "") -> tuple[int, ...]:
        """Token ids in front of every output."""

    @abstractmethod
    def inputs(self, samples: Tensor) -> Tensor:
        """What the encoder reads of samples [N]: [1, ..]."""

    @abstractmethod
    def encode_audio(self, inputs: Tensor) -> Tensor:
        """Encoder states [B, S, E] of `inputs` of rows of one length."""

    def memory(self, samples: Tensor) -> Tensor:
        """Encoder states [1, S, E] of samples [N]: one recording, unpadded."""
        return self.encode_audio(self.inputs(samples))

    def prompt(self, memory: Tensor, lengths: Tensor | None = None, start_tokens: Sequence[int] = ()) -> Prompt:
        """The tokens that open a text (default: `opening()`) before memory [B, S, E]."""
        rows, device = len(memory), memory.device
        ids = torch.tensor(tuple(start_tokens) or self.start_tokens(), device=device).expand(rows, -1)
        size = torch.full((rows,), ids.shape[1], device=device)
        lengths = torch.full((rows,), memory.shape[1], device=device) if lengths is None else lengths
        positions = torch.arange(ids.shape[1], device=device).expand(rows, -1)
        return Prompt(self.trunk.embed(ids).to(memory.dtype), positions, size, size, memory, lengths)

    @abstractmethod
    def limit(self, seconds: float) -> int:
        """The most tokens, an end token among them, that it says of so many seconds."""

    def encoder_alone(self) -> nn.Module:
        """The encoder."""
        encoder: nn.Module = self.trunk.model.get_encoder()
        return encoder

    def listen(self, samples: Tensor, language: str = "", task: str = "", draft: SpeechModel | None = None) -> Request:
        """Start tokens beside the memory."""
        start_tokens = self.start_tokens(language, task)
        prompt = self.prompt(self.memory(samples), None, start_tokens)
        return Request(prompt, self.rules, self.limit(len(samples) / self.rate), start_tokens=start_tokens)


class TextModel(SpeechModel):
    """Goes on with token ids; hears nothing."""

    input_kind: ClassVar[InputKind] = "texts"

    def listen(self, samples: Tensor, language: str = "", task: str = "", draft: SpeechModel | None = None) -> Request:
        """A ConfigError."""
        raise ConfigError(f"{self.name}: {self.title}, which hears no audio; give a speech model")

    @abstractmethod
    def read(self, ids: Sequence[int], limit: int | None = None, draft: SpeechModel | None = None) -> Request:
        """What is asked of the decoder to go on behind token ids with at most `limit` tokens."""
