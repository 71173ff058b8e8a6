"""The interface of every kind of model, so that callers need not know the kind.

A kind is one file here with a subclass of `SpeechModel`, and one line in `table.py`; help texts use `names.py`.
"""

from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from speechmtp.audio.features import FbankConfig
from speechmtp.errors import CheckpointError, ConfigError
from speechmtp.models.alignment import AttentionAlignment, Lag
from speechmtp.models.bases.unit_settings import UnitModelSettings
from speechmtp.models.durations import Durations
from speechmtp.models.encoder_lm import EncoderLM
from speechmtp.models.storage import Storage
from speechmtp.models.trunk import Trunk
from speechmtp.models.unit_hints import UnitHints
from speechmtp.text.tokenizer import Tokenizer
from speechmtp.types import Prompt, Request, TokenRules, TokenSpelling

# What a model reads, and so what training computes once and caches. `features`: our own filterbank frames, which may be
# augmented before the encoder; `encoder_outputs`: encoder states that cross-attention reads; `prompts`: embeddings in
# front of the text, made from whole recordings; `texts`: token ids only; `units`: phones and their durations, to speak.
InputKind = Literal["features", "encoder_outputs", "prompts", "texts", "units"]


class SpeechModel(nn.Module):
    """A trunk, and all that is needed to make requests for it and to decode its tokens to text.

    `rate` is in Hz; a recording has at least `shortest` samples and at most `longest` seconds. `eos` are the tokens
    that end a text; drafters use the first of them. `name` is the model's name in error messages.
    """

    kind: ClassVar[str]  # `model.kind` in config.yaml
    title: ClassVar[str]  # its name in messages
    input_kind: ClassVar[InputKind]
    settings: ClassVar[type]  # the dataclass of `model` in config.yaml; it has a field `kind`
    model_types: ClassVar[tuple[str, ...]] = ()  # `model_type` values of transformers' config.json that this kind loads
    normalizer: ClassVar[str] = "whisper-en"  # the default, if config.yaml names none
    own_ctc: ClassVar[bool] = False  # whether its requests carry the output of its own CTC head
    ctc_lag: ClassVar[Lag] = Lag()  # how far that head's labels are off

    config: Any
    trunk: Trunk  # the decoder, on which heads are trained
    features: FbankConfig | None = None  # the filterbank features that it reads, if any
    name: str = "the model"
    rate: int = 16000
    shortest: int = 1
    longest: float = 30.0
    eos: tuple[int, ...]
    tokenizer: Any = None  # None: its tokens are not text

    # Folders

    @classmethod
    @abstractmethod
    def load(cls, folder: Path, config: Any, features: FbankConfig | None) -> "SpeechModel":
        """Load the model of a folder, on the CPU in float32; CheckpointError with one line if it cannot be read."""

    @abstractmethod
    def save(self, folder: Path, storage: Storage) -> None:
        """Write weights, tokenizer and everything else that `load` reads into an existing folder."""

    @classmethod
    def default_settings(cls) -> Any:
        """Return the configuration of a transformers folder that has no config.yaml."""
        return cls.settings()

    def stored_as(self, storage: Storage) -> Storage:
        """Return the storage that `save` really uses for the trunk's weights, if it does not support `storage`."""
        return storage

    # Parts

    def encoder_alone(self) -> nn.Module:
        """Return the encoder, for a CTC draft head on its outputs; CheckpointError for models without one."""
        raise CheckpointError(
            f"{self.name}: takes no CTC draft head, which reads an encoder-decoder's encoder outputs; leave ctc= out"
        )

    @property
    def device(self) -> torch.device:
        """The device of the weights."""
        return self.trunk.unembedding().weight.device

    @property
    def state_seconds(self) -> float | None:
        """Seconds from one encoder state, or label of its own CTC head, to the next; None if it has none."""
        return None

    def alignment(self) -> AttentionAlignment | None:
        """Return which cross-attention tells when tokens are said; None for a model without cross-attention."""
        return None

    # Text

    def encode(self, text: str) -> list[int]:
        """Return the token ids of a text, without an end token; ConfigError for a model without a tokenizer."""
        if self.tokenizer is None:
            raise ConfigError(f"{self.name}: has no tokenizer, its tokens are no text; give it token ids")
        found: list[int] = self.tokenizer.encode(text)
        return found

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of token ids; empty for a model without a tokenizer."""
        return "" if self.tokenizer is None else str(self.tokenizer.decode(list(ids)))

    def transcript(self, text: str) -> list[int]:
        """Return the token ids of a text as the model emits it at the start of an output."""
        return self.encode(text)

    @property
    def unk(self) -> int | None:
        """The id of the unknown token; None if there is none."""
        return getattr(self.tokenizer, "unk", None)

    def spelling(self) -> TokenSpelling:
        """Return the tokens' strings and an encoder, for drafters of text; ConfigError if the tokenizer has none."""
        make = getattr(self.tokenizer, "spelling", None)
        if make is None:
            raise ConfigError(f"{self.name}: its tokenizer cannot spell for drafters; leave ctc= out")
        found: TokenSpelling = make()
        return found

    # Requests

    @property
    def rules(self) -> TokenRules:
        """The token rules of its requests."""
        return TokenRules(self.eos)

    @property
    def languages(self) -> tuple[str, ...]:
        """The codes of the languages that can be chosen; none for a model that has no choice."""
        return ()

    def limit(self, seconds: float) -> int | None:
        """Return the most tokens to emit for so many seconds of audio, the end token included; None if the limit
        depends on the prompt's length."""
        return None

    @abstractmethod
    def listen(
        self, samples: Tensor, language: str = "", task: str = "", draft: "SpeechModel | None" = None
    ) -> Request:
        """Return the decoding request of samples [N], float32 at `rate` Hz; `draft` is a small draft model."""

    def silence(self, language: str = "", task: str = "") -> Request:
        """Return the request of audio in which nothing is heard: an empty text, without a prompt. ConfigError for a
        language or task that `listen` refuses."""
        self.no_choice(language, task)
        none = torch.zeros(1, 0, dtype=torch.long)
        prompt = Prompt(torch.zeros(1, 0, 0), none, none.sum(1), none.sum(1))
        return Request(prompt, self.rules, 0, empty=True)

    def no_choice(self, language: str, task: str) -> None:
        """Raise ConfigError if a language or a task is given, for a model that has none to choose."""
        for name, value in (("language", language), ("task", task)):
            if value:
                raise ConfigError(f"{self.name}: {name}={value!r}: {self.title} has no {name} to choose; leave it out")

    def check_draft(self, draft: "SpeechModel", source: object) -> None:
        """Raise CheckpointError unless `draft` can draft for this model; `draft` may then share weights with it.
        `source` is the folder or name that this model was loaded from."""
        raise CheckpointError(f"draft model {draft.name}: {self.title} takes none; leave draft_model= out")


class FeatureModel(EncoderLM, SpeechModel):
    """A model with its own encoder and adapter, which turn frames into a prompt; `bos` starts the text."""

    input_kind: ClassVar[InputKind] = "features"
    own_ctc: ClassVar[bool] = True
    features: FbankConfig
    tokenizer: Tokenizer


class EncoderDecoderModel(SpeechModel):
    """A model whose trunk cross-attends to encoder outputs [S, E]; its text begins with a few start tokens."""

    input_kind: ClassVar[InputKind] = "encoder_outputs"

    @abstractmethod
    def start_tokens(self, language: str = "", task: str = "") -> tuple[int, ...]:
        """Return the token ids in front of every output."""

    @abstractmethod
    def inputs(self, samples: Tensor) -> Tensor:
        """Return the encoder's input [1, ..] of samples [N]."""

    @abstractmethod
    def encode_audio(self, inputs: Tensor) -> Tensor:
        """Return the encoder states [B, S, E] of `inputs` [B, ..], whose rows have one length."""

    def memory(self, samples: Tensor) -> Tensor:
        """Return the encoder states [1, S, E] of one recording: samples [N], not padded here."""
        return self.encode_audio(self.inputs(samples))

    def prompt(self, memory: Tensor, lengths: Tensor | None = None, start_tokens: Sequence[int] = ()) -> Prompt:
        """Return the prompt of start tokens (default: `start_tokens()`) with encoder outputs `memory` [B, S, E]."""
        rows, device = len(memory), memory.device
        ids = torch.tensor(tuple(start_tokens) or self.start_tokens(), device=device).expand(rows, -1)
        size = torch.full((rows,), ids.shape[1], device=device)
        lengths = torch.full((rows,), memory.shape[1], device=device) if lengths is None else lengths
        positions = torch.arange(ids.shape[1], device=device).expand(rows, -1)
        return Prompt(self.trunk.embed(ids).to(memory.dtype), positions, size, size, memory, lengths)

    @abstractmethod
    def limit(self, seconds: float) -> int:
        """Return the most tokens to emit for so many seconds of audio, the end token included."""

    def encoder_alone(self) -> nn.Module:
        """Return the encoder."""
        encoder: nn.Module = self.trunk.model.get_encoder()
        return encoder

    def listen(self, samples: Tensor, language: str = "", task: str = "", draft: SpeechModel | None = None) -> Request:
        """Return the request: start tokens with the encoder outputs of the samples."""
        start_tokens = self.start_tokens(language, task)
        prompt = self.prompt(self.memory(samples), None, start_tokens)
        return Request(prompt, self.rules, self.limit(len(samples) / self.rate), start_tokens=start_tokens)


class TextModel(SpeechModel):
    """A model that continues token ids and reads no audio."""

    input_kind: ClassVar[InputKind] = "texts"

    def listen(self, samples: Tensor, language: str = "", task: str = "", draft: SpeechModel | None = None) -> Request:
        """Raise ConfigError, since the model reads no audio."""
        raise ConfigError(f"{self.name}: {self.title}, which hears no audio; give a speech model")

    def silence(self, language: str = "", task: str = "") -> Request:
        """Raise ConfigError as `listen` does."""
        return self.listen(torch.zeros(0), language, task)

    @abstractmethod
    def read(self, ids: Sequence[int], limit: int | None = None, draft: SpeechModel | None = None) -> Request:
        """Return the request to continue token ids by at most `limit` tokens."""


class UnitModel(SpeechModel):
    """A model that turns units and their durations into speech tokens, and hears no audio. `durations` and `hints` are
    computed from units; `start` [C] is the entry in front of the first token."""

    input_kind: ClassVar[InputKind] = "units"
    config: UnitModelSettings
    durations: Durations
    hints: UnitHints
    start: nn.Parameter

    @abstractmethod
    def tokens_in(self, frames: int) -> int:
        """Return the number of tokens of so many frames; the last one may be cut."""

    @abstractmethod
    def read(self, ids: Tensor, words: Tensor, frames: Tensor, rules: TokenRules | None = None) -> Request:
        """Return the request for units `ids`, `words` and their durations `frames` [P], int64."""

    def listen(self, samples: Tensor, language: str = "", task: str = "", draft: SpeechModel | None = None) -> Request:
        """Raise ConfigError, since the model hears no audio."""
        raise ConfigError(f"{self.name}: {self.title}, which hears no audio; use it with `speechmtp speak`")

    def silence(self, language: str = "", task: str = "") -> Request:
        """Raise ConfigError as `listen` does."""
        return self.listen(torch.zeros(0), language, task)
