"""The common part of transformers' encoder-decoder recognisers: their folders, and a cross-attention trunk."""

from collections.abc import Callable
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

from safetensors.torch import save_file
from torch import Tensor

from speechmtp.audio.features import FbankConfig
from speechmtp.errors import CheckpointError
from speechmtp.models.alignment import AttentionAlignment, Lag
from speechmtp.models.bases.contract import EncoderDecoderModel
from speechmtp.models.bases.folders import tokenizer_json
from speechmtp.models.bases.generation_settings import (
    FILE,
    check_settings,
    end_tokens,
    folder_settings,
    known_ids,
    most_tokens,
)
from speechmtp.models.bases.weights import read_folder, weight_files
from speechmtp.models.quiet import quiet_transformers
from speechmtp.models.seq2seq import Seq2SeqTrunk
from speechmtp.models.storage import Storage, load_state, pack, unpack, without_random_weights
from speechmtp.text.hub_tokenizer import HubTokenizer
from speechmtp.types import TokenRules

if TYPE_CHECKING:
    from transformers import GenerationConfig, PreTrainedModel


class EncoderDecoder(EncoderDecoderModel):
    """A recogniser from a transformers folder, whose `generation` settings are those of its generation_config.json.

    An output has at most ceil(`tokens_per_second` * seconds) + `extra` tokens, both from the settings, and never more
    than the decoder has positions or the generation settings allow.
    """

    model_class: ClassVar[str]  # name of transformers' class, which is imported only when a model is loaded
    attention_lag: ClassVar[Lag] = Lag()  # of all heads of the later half of the layers

    def __init__(self, config: Any, model: "PreTrainedModel", extractor: Any, generation: "GenerationConfig") -> None:
        super().__init__()
        self.config, self.extractor, self.generation = config, extractor, generation
        model.generation_config = generation
        self.eos = end_tokens(self.name, generation, model.config)
        self._rules = self.said(model.config)
        self.trunk = Seq2SeqTrunk(model, self._rules.suppress)

    def said(self, sizes: Any) -> TokenRules:
        """Return the token rules that the generation settings give; `sizes` is transformers' configuration."""
        never = known_ids(self.generation.suppress_tokens, sizes.vocab_size)
        first = known_ids(self.generation.begin_suppress_tokens, sizes.vocab_size) - never
        return TokenRules(self.eos, tuple(sorted(never)), tuple(sorted(first)))

    @property
    def rules(self) -> TokenRules:
        """The token rules of its requests."""
        return self._rules

    @staticmethod
    def first_token(generation: Any, sizes: Any) -> int:
        """Return the first token of every output, which `generate` takes from the generation settings."""
        found = generation.decoder_start_token_id
        return int(sizes.decoder_start_token_id if found is None else found)

    @classmethod
    def check(cls, folder: Path, sizes: Any, generation: Any, tokenizer: HubTokenizer) -> None:
        """Fill in what a folder's generation settings lack. ConfigError for settings that cannot be honoured,
        CheckpointError for a folder that lacks what is needed."""
        check_settings(folder, generation)

    @classmethod
    def extractor_of(cls, folder: Path, sizes: Any) -> Any:
        """Return transformers' feature extractor, if the kind uses one."""
        return None

    @classmethod
    def parts(cls, folder: Path) -> tuple[Any, Callable[[Any], Any], Any]:
        """Return a folder's sizes, what builds a model of sizes, and its generation settings."""
        import transformers

        kind, generation = getattr(transformers, cls.model_class), folder_settings(folder)

        def build(sizes: Any) -> Any:
            with quiet_transformers():
                return kind(sizes)

        with quiet_transformers():
            return kind.config_class.from_pretrained(str(folder)), build, generation

    @classmethod
    def load(cls, folder: Path, config: Any, features: FbankConfig | None) -> Self:
        """Load a folder of transformers' files or ours; CheckpointError if they cannot be read or do not fit together,
        ConfigError for generation settings that cannot be honoured."""
        try:
            with without_random_weights():
                sizes, build, generation = cls.parts(folder)
                ends = end_tokens(folder, generation, sizes)
                source, name = tokenizer_json(folder)
                tokenizer = HubTokenizer(source, cls.first_token(generation, sizes), ends[0], name)
                cls.check(folder, sizes, generation, tokenizer)
                model = cls(config, build(sizes), cls.extractor_of(folder, sizes), generation).eval()
        except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
            reason = " ".join(str(error).split())[:300]
            raise CheckpointError(f"{folder}: cannot be loaded as {cls.kind}: {reason}") from error
        load_state(model.trunk.model, unpack(read_folder(folder)), weight_files(folder)[0], adopt=True)
        model.tokenizer = tokenizer
        if len(tokenizer) > model.trunk.vocab_size:
            raise CheckpointError(
                f"{folder}: the tokenizer has {len(tokenizer)} tokens, the model {model.trunk.vocab_size}; they must "
                f"fit"
            )
        model.requires_grad_(False)
        return model

    def save(self, folder: Path, storage: Storage) -> None:
        """Write the weights under transformers' names, its configuration files and the tokenizer."""
        save_file(pack(self.trunk.model.state_dict(), storage), folder / "model.safetensors", {"format": "pt"})
        self.save_settings(folder)
        if self.tokenizer is not None:
            self.tokenizer.save(folder, packed=storage != "float32")

    def save_settings(self, folder: Path) -> None:
        """Write transformers' configuration files."""
        self.trunk.model.config.save_pretrained(folder)
        self.generation.to_json_file(folder / FILE)  # as it is; `save_pretrained` refuses some that it can read
        if self.extractor is not None:
            self.extractor.save_pretrained(folder)

    @property
    def start(self) -> int:
        """The first token of every output."""
        return self.first_token(self.generation, self.trunk.model.config)

    def encode_audio(self, inputs: Tensor) -> Tensor:
        """Return the encoder states [B, S, E] of `inputs`, whose rows must have one length: Moonshine's group norm runs
        over all time and its convolutions ignore padding, so that padding would change a row's states."""
        states: Tensor = self.trunk.model.get_encoder()(inputs).last_hidden_state
        return states

    def alignment(self) -> AttentionAlignment:
        """Return all heads of the later half of the layers."""
        layers, heads = self.trunk.layers, self.trunk.shape.heads
        later = tuple((layer, head) for layer in range(layers // 2, layers) for head in range(heads))
        return AttentionAlignment(later, self.attention_lag)

    def like(self) -> Tensor:
        """Return a weight whose dtype and device inputs take."""
        weight: Tensor = self.trunk.unembedding().weight
        return weight

    def limit(self, seconds: float) -> int:
        """Return the most tokens to emit for so many seconds of audio, the end token included."""
        wanted = ceil(self.config.tokens_per_second * seconds) + self.config.extra
        last: Any = self.trunk.last_position
        last = int(getattr(self.trunk.model.config, "max_position_embeddings", 512)) - 1 if last is None else last
        most = self.most_tokens()
        return max(1, min(wanted, last + 1 - self.num_start_tokens, *(() if most is None else (most,))))

    def most_tokens(self) -> int | None:
        """Return the most tokens that the generation settings allow; None if they set no limit."""
        return most_tokens(self.generation, self.num_start_tokens)

    @property
    def num_start_tokens(self) -> int:
        """The number of start tokens."""
        return 1
