"""Moonshine of transformers (arXiv 2410.15608): English speech, encoded from raw samples."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from torch import Tensor

from speechmtp.config import Range
from speechmtp.errors import CheckpointError, ConfigError
from speechmtp.models.alignment import Lag
from speechmtp.models.bases.encoder_decoder import EncoderDecoder
from speechmtp.models.bases.generation_settings import FILE, end_tokens, plain_settings
from speechmtp.models.bases.moonshine_model import LeanMoonshine
from speechmtp.models.bases.moonshine_sizes import read_sizes
from speechmtp.text.hub_tokenizer import HubTokenizer


@dataclass(frozen=True)
class MoonshineSettings:
    """`model` in config.yaml: the limits of the output length; everything else is in transformers' own files."""

    kind: Literal["moonshine"] = "moonshine"
    tokens_per_second: Annotated[float, Range(0, 1000, above=True)] = 6.5
    extra: Annotated[int, Range(0, 1 << 16)] = 2


class Moonshine(EncoderDecoder):
    """Moonshine; a recording has at least the samples that its convolutions need."""

    kind: ClassVar[str] = "moonshine"
    title: ClassVar[str] = "Moonshine"
    settings: ClassVar[type] = MoonshineSettings
    model_types: ClassVar[tuple[str, ...]] = ("moonshine",)
    model_class: ClassVar[str] = "MoonshineForConditionalGeneration"
    attention_lag: ClassVar[Lag] = Lag(0.104, 0.059)
    shortest: int = 895

    @property
    def state_seconds(self) -> float:
        """Seconds between states: the strides of the three convolutions."""
        return 64 * 3 * 2 / self.rate

    @classmethod
    def parts(cls, folder: Path) -> tuple[Any, Callable[[Any], Any], Any]:
        """See `EncoderDecoder.parts`; a plain folder needs nothing of transformers."""
        sizes, generation = read_sizes(folder), plain_settings(folder)
        if sizes is None or generation is None:
            return super().parts(folder)
        return sizes, LeanMoonshine, generation

    @classmethod
    def check(cls, folder: Path, sizes: Any, generation: Any, tokenizer: HubTokenizer) -> None:
        """See `EncoderDecoder.check`."""
        super().check(folder, sizes, generation, tokenizer)
        heads, groups = sizes.encoder_num_attention_heads, sizes.encoder_num_key_value_heads
        if heads != groups:  # the decoder is built with the encoder's numbers, whatever its own
            raise CheckpointError(
                f"{folder}: encoder_num_key_value_heads={groups}, expected the {heads} attention heads; transformers' "
                f"own Moonshine cannot run grouped key heads"
            )
        forced = generation.forced_bos_token_id
        if forced is not None and (forced in end_tokens(folder, generation, sizes) or tokenizer.decode([forced])):
            raise ConfigError(
                f"{folder}: forced_bos_token_id={forced} in its generation settings, expected a token without text "
                f"that ends none; remove it from {FILE}"
            )

    @staticmethod
    def first_token(generation: Any, sizes: Any) -> int:
        """Return the first token of every output: without one, `generate` takes that of a text."""
        found = generation.decoder_start_token_id
        found = generation.bos_token_id if found is None else found
        return int(sizes.decoder_start_token_id if found is None else found)

    def start_tokens(self, language: str = "", task: str = "") -> tuple[int, ...]:
        """Return the start token, and the token that is forced behind it, if any; ConfigError if a language or a task
        is given."""
        self.no_choice(language, task)
        forced = self.generation.forced_bos_token_id
        return (self.start,) if forced is None else (self.start, int(forced))

    @property
    def num_start_tokens(self) -> int:
        """The number of start tokens."""
        return len(self.start_tokens())

    def inputs(self, samples: Tensor) -> Tensor:
        """Return the samples as [1, N], in the dtype and on the device of the weights."""
        return samples[None].to(self.like())
