"""The common part of transformers' encoder-decoder recognisers: their folders, and a cross-attention trunk."""

from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

from safetensors.torch import save_file
from torch import Tensor

from speechmtp.audio.features import FbankConfig
from speechmtp.errors import CheckpointError
from speechmtp.models.bases.contract import EncoderDecoderModel
from speechmtp.models.quiet import quiet_transformers
from speechmtp.models.seq2seq import Seq2SeqTrunk
from speechmtp.models.storage import Storage, load_state, pack, read_weights, unpack, without_random_weights
from speechmtp.text.hub_tokenizer import HubTokenizer
from speechmtp.types import TokenRules

if TYPE_CHECKING:
    from transformers import GenerationConfig, PreTrainedModel


class EncoderDecoder(EncoderDecoderModel):
    """A recogniser from a transformers folder, with the tokenizer `tokenizer.json` or, compressed, `tokenizer.json.xz`.

    An output has at most ceil(`tokens_per_second` * seconds) + `extra` tokens, both from the settings, and never more
    than the decoder has positions.
    """

    model_class: ClassVar[str]  # name of transformers' class, which is imported only when a model is loaded
    extracts: ClassVar[bool] = False  # whether it uses a feature extractor of transformers

    def __init__(self, config: Any, model: "PreTrainedModel", extractor: Any, generation: "GenerationConfig") -> None:
        super().__init__()
        self.config, self.extractor, self.generation = config, extractor, generation
        settings: Any = model.config
        self.eos = (int(settings.eos_token_id),)
        self._rules = self.said(settings)
        self.trunk = Seq2SeqTrunk(model, self._rules.suppress)

    def said(self, settings: Any) -> TokenRules:
        """Return the token rules that transformers' configurations give."""
        return TokenRules(self.eos)

    @property
    def rules(self) -> TokenRules:
        """The token rules of its requests."""
        return self._rules

    @classmethod
    def empty(cls, config: Any, folder: Path) -> Self:
        """Build the model of a folder's config.json with undefined weights; CheckpointError if it cannot be read."""
        import transformers

        kind = getattr(transformers, cls.model_class)
        try:
            with quiet_transformers(), without_random_weights():
                sizes = kind.config_class.from_pretrained(str(folder))
                generation = transformers.GenerationConfig.from_pretrained(str(folder))
                extractor = transformers.AutoFeatureExtractor.from_pretrained(str(folder)) if cls.extracts else None
                model = kind(sizes)
            return cls(config, model, extractor, generation).eval()
        except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
            reason = " ".join(str(error).split())[:300]
            raise CheckpointError(f"{folder}: cannot be loaded as {cls.kind}: {reason}") from error

    @classmethod
    def load(cls, folder: Path, config: Any, features: FbankConfig | None) -> Self:
        """Load a folder whose `model.safetensors` is transformers' or ours; CheckpointError if it does not fit."""
        model = cls.empty(config, folder)
        load_state(model.trunk.model, unpack(read_weights(folder / "model.safetensors")), folder / "model.safetensors")
        packed = folder / "tokenizer.json.xz"
        path = packed if packed.exists() else folder / "tokenizer.json"
        model.tokenizer = HubTokenizer.load(path, model.start, model.eos[0])
        if len(model.tokenizer) > model.trunk.vocab_size:
            raise CheckpointError(
                f"{folder}: the tokenizer has {len(model.tokenizer)} tokens, the model {model.trunk.vocab_size}; they "
                f"must fit"
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
        self.generation.save_pretrained(folder)
        if self.extractor is not None:
            self.extractor.save_pretrained(folder)

    @property
    def start(self) -> int:
        """The first token of every output."""
        return int(self.trunk.model.config.decoder_start_token_id)

    def encode_audio(self, inputs: Tensor) -> Tensor:
        """Return the encoder states [B, S, E] of `inputs`, whose rows must have one length: Moonshine's group norm runs
        over all time and its convolutions ignore padding, so that padding would change a row's states."""
        states: Tensor = self.trunk.model.get_encoder()(inputs).last_hidden_state
        return states

    def like(self) -> Tensor:
        """Return a weight whose dtype and device inputs take."""
        weight: Tensor = self.trunk.unembedding().weight
        return weight

    def limit(self, seconds: float) -> int:
        """Return the most tokens to emit for so many seconds of audio, the end token included."""
        wanted = ceil(self.config.tokens_per_second * seconds) + self.config.extra
        last: Any = self.trunk.last_position
        last = int(getattr(self.trunk.model.config, "max_position_embeddings", 512)) - 1 if last is None else last
        return max(1, min(wanted, last + 1 - self.num_start_tokens))

    @property
    def num_start_tokens(self) -> int:
        """The number of start tokens."""
        return 1
