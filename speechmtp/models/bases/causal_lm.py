"""A text-only causal LM of transformers, loaded from its folder, with or without a tokenizer."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch

from speechmtp.audio.features import FbankConfig
from speechmtp.errors import CheckpointError, ConfigError
from speechmtp.models.bases.contract import SpeechModel, TextModel
from speechmtp.models.bases.folders import loaded, tokenizer_files
from speechmtp.models.bases.generation_settings import PROMPTED, check_settings, end_tokens
from speechmtp.models.draft_prompt import DraftPrompt
from speechmtp.models.quiet import quiet_transformers
from speechmtp.models.storage import Storage
from speechmtp.models.trunk import Trunk
from speechmtp.types import Prompt, Request


@dataclass(frozen=True)
class CausalLMSettings:
    """`model` in config.yaml."""

    kind: Literal["causal_lm"] = "causal_lm"


class CausalLM(TextModel):
    """A text LM; `bos` is put in front of every text (None: nothing is). Without a tokenizer its tokens are not text,
    such as those of a codec."""

    kind: ClassVar[str] = "causal_lm"
    title: ClassVar[str] = "a text LM"
    settings: ClassVar[type] = CausalLMSettings
    normalizer: ClassVar[str] = ""

    def __init__(
        self, config: CausalLMSettings, trunk: Trunk, tokenizer: Any, bos: int | None, eos: tuple[int, ...]
    ) -> None:
        super().__init__()
        self.config, self.trunk, self.tokenizer, self.bos, self.eos = config, trunk, tokenizer, bos, eos

    @classmethod
    def load(cls, folder: Path, config: CausalLMSettings, features: FbankConfig | None) -> "CausalLM":
        """Load the LM of a folder. CheckpointError if it is not one, lacks weights, or has a tokenizer with more tokens
        than the model; ConfigError if it cannot be a trunk or there is not exactly one end token."""
        from transformers import AutoModelForCausalLM

        _check_type(folder)
        model = loaded(AutoModelForCausalLM, folder, "a text LM with its tokenizer")
        check_settings(folder, model.generation_config, PROMPTED)
        tokenizer = _tokenizer(folder) if tokenizer_files(folder) else None
        try:
            trunk = Trunk(model)
        except ConfigError as error:
            raise ConfigError(f"{folder}: {error}") from None
        bos: int | None = None
        if tokenizer is None:
            eos = end_tokens(folder, model.generation_config, model.config)
        else:
            if len(tokenizer) > trunk.vocab_size:
                raise CheckpointError(
                    f"{folder}: the tokenizer has {len(tokenizer)} tokens, the model {trunk.vocab_size}; they must fit"
                )
            end = tokenizer.eos_token_id if tokenizer.eos_token_id is not None else model.config.eos_token_id
            if not isinstance(end, int):
                raise ConfigError(
                    f"{folder}: end token {end}, one id is expected; set eos_token in its tokenizer_config.json"
                )
            ends = end_tokens(folder, model.generation_config, model.config)
            eos = tuple(sorted(ends, key=lambda one: one != end))  # drafters use the first
            # Some tokenizers define a BOS token that their models were never trained with.
            start_tokens = tokenizer("a")["input_ids"][:1]
            bos = tokenizer.bos_token_id if start_tokens == [tokenizer.bos_token_id] else None
        model.requires_grad_(False)
        return cls(config, trunk, tokenizer, bos, eos).eval()

    def save(self, folder: Path, storage: Storage) -> None:
        """Write transformers' own files, always in float32."""
        with quiet_transformers():
            self.trunk.model.save_pretrained(folder)
            if self.tokenizer is not None:
                self.tokenizer.save_pretrained(folder)

    def stored_as(self, storage: Storage) -> Storage:
        """Return `float32`, since `save` never rounds."""
        return "float32"

    def encode(self, text: str) -> list[int]:
        """Return the ids of a text, after `bos` if the model has one, without an end token."""
        if self.tokenizer is None:
            return super().encode(text)
        ids: list[int] = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids if self.bos is None else [self.bos, *ids]

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of ids without special tokens; empty without a tokenizer."""
        return "" if self.tokenizer is None else str(self.tokenizer.decode(list(ids), skip_special_tokens=True))

    @torch.no_grad()
    def read(self, ids: Sequence[int], limit: int | None = None, draft: SpeechModel | None = None) -> Request:
        """Return the request to continue the ids; nothing is added to them."""
        small = () if draft is None else (DraftPrompt(draft.trunk, _prompt(draft.trunk, ids)),)
        return Request(_prompt(self.trunk, ids), self.rules, limit, tuple(ids), small)

    def check_draft(self, draft: SpeechModel, source: object) -> None:
        """Raise CheckpointError unless the draft model is a text LM with the same vocabulary and as many logits."""
        if not isinstance(draft, CausalLM):
            raise CheckpointError(f"draft model {draft.name}: {draft.title}, expected a text LM of the same tokens")
        own, other = (
            {} if model.tokenizer is None else model.tokenizer.get_vocab() for model in (self, draft)
        )  # fmt: skip
        differing = sorted(str(token) for token, _ in own.items() ^ other.items())
        if differing:
            raise CheckpointError(
                f"draft model {draft.name}: another vocabulary, {len(other)} tokens, expected the {len(own)} of "
                f"{self.name} (first that differs: {differing[0]!r}); take a smaller model of the same family"
            )
        if draft.trunk.vocab_size != self.trunk.vocab_size:
            raise CheckpointError(
                f"draft model {draft.name}: {draft.trunk.vocab_size} logits, expected {self.trunk.vocab_size} as in "
                f"{self.name}; resize its embeddings to as many rows"
            )


def _check_type(folder: Path) -> None:
    """Raise CheckpointError for a model type of transformers that is not a causal LM, before its weights are read."""
    from transformers import AutoConfig
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    try:
        with quiet_transformers():
            found = AutoConfig.from_pretrained(str(folder))
    except (OSError, ValueError, KeyError):
        return  # loading says why
    if found.is_encoder_decoder or found.model_type not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        raise CheckpointError(
            f"{folder}: a {found.model_type} model of transformers, expected Moonshine, Whisper, Qwen2-Audio or a text "
            f"LM"
        )


def _prompt(trunk: Trunk, ids: Sequence[int]) -> Prompt:
    given = torch.tensor([list(ids)], device=trunk.unembedding().weight.device)
    size = torch.tensor([given.shape[1]], device=given.device)
    return Prompt(trunk.embed(given), torch.arange(given.shape[1], device=given.device)[None], size, size)


def _tokenizer(folder: Path) -> Any:
    from transformers import AutoTokenizer

    try:
        with quiet_transformers():
            return AutoTokenizer.from_pretrained(str(folder))
    except (OSError, ValueError, KeyError, RuntimeError, ImportError) as error:
        reason = " ".join(str(error).split())[:300]
        raise CheckpointError(f"{folder}: cannot be loaded as a text LM with its tokenizer: {reason}") from error
