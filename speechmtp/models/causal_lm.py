"""A text-only causal LM of transformers, from its folder: a trunk with its own tokenizer."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from speechmtp.errors import CheckpointError, ConfigError
from speechmtp.models.speech_seq2seq import family_of
from speechmtp.models.trunk import Trunk


@dataclass
class CausalLM:
    """A trunk, its tokenizer, and the ids that open (None: nothing does) and end a text."""

    trunk: Trunk
    tokenizer: Any
    bos: int | None
    eos: int
    name: str

    def encode(self, text: str) -> list[int]:
        """Ids of a text, with the opening token where the model has one, without an end token."""
        ids: list[int] = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids if self.bos is None else [self.bos, *ids]

    def decode(self, ids: list[int]) -> str:
        """The text of ids, special tokens left out."""
        text: str = self.tokenizer.decode(ids, skip_special_tokens=True)
        return text


def check_same_vocabulary(base: CausalLM, draft: CausalLM) -> None:
    """A CheckpointError unless ids and logits of the draft model stand for the same tokens as those of the base."""
    own, other = base.tokenizer.get_vocab(), draft.tokenizer.get_vocab()
    differing = sorted(str(token) for token, _ in own.items() ^ other.items())
    if differing:
        raise CheckpointError(
            f"draft model {draft.name}: another vocabulary, {len(other)} tokens, expected the {len(own)} of "
            f"{base.name} (first that differs: {differing[0]!r}); take a smaller model of the same family"
        )
    if draft.trunk.vocab_size != base.trunk.vocab_size:
        raise CheckpointError(
            f"draft model {draft.name}: {draft.trunk.vocab_size} logits, expected {base.trunk.vocab_size} as in "
            f"{base.name}; resize its embeddings to as many rows"
        )


def is_causal_lm(folder: str | Path) -> bool:
    """Whether a folder is a causal LM of transformers rather than a speech model."""
    folder = Path(folder)
    known = (folder / "config.json").exists() and not (folder / "config.yaml").exists()
    return known and family_of(folder) is None


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Inside, transformers prints neither bars nor reports: what is wrong becomes an error of ours."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity(logging.CRITICAL)
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


def load_causal_lm(folder: str | Path) -> CausalLM:
    """The model and tokenizer of a folder, in float32 on the CPU; what is no such folder, lacks weights or has a
    tokenizer with tokens that the model lacks is an error of one line."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    options: Any = {"dtype": torch.float32, "output_loading_info": True, "ignore_mismatched_sizes": True}
    try:
        with quiet_transformers():
            loaded: Any = AutoModelForCausalLM.from_pretrained(str(folder), **options)
            tokenizer: Any = AutoTokenizer.from_pretrained(str(folder))
    except (OSError, ValueError, KeyError, RuntimeError, ImportError, SafetensorError) as error:
        reason = " ".join(str(error).split())[:300]
        raise CheckpointError(f"{folder}: cannot be loaded as a causal LM with its tokenizer: {reason}") from error
    model, info = loaded
    lost = sorted({*info["missing_keys"], *(key[0] for key in info["mismatched_keys"])})
    if lost:  # transformers would go on with random ones
        raise CheckpointError(
            f"{folder}: {len(lost)} tensors are missing or of another shape (first: {lost[0]}); copy it again whole"
        )
    if not hasattr(model.get_decoder(), "layers"):
        raise ConfigError(f"{folder}: {type(model).__name__} has no list `layers` to read; Llama, Qwen and the like do")
    trunk = Trunk(model)
    if len(tokenizer) > trunk.vocab_size:
        raise CheckpointError(
            f"{folder}: the tokenizer has {len(tokenizer)} tokens, the model {trunk.vocab_size}; they must fit"
        )
    eos = tokenizer.eos_token_id if tokenizer.eos_token_id is not None else model.config.eos_token_id
    if not isinstance(eos, int):
        raise ConfigError(f"{folder}: end token {eos}, one id is expected; set eos_token in its tokenizer_config.json")
    model.requires_grad_(False)
    # Some tokenizers name an opening token that their models never saw in front of a text.
    opening = tokenizer("a")["input_ids"][:1]
    bos = tokenizer.bos_token_id if opening == [tokenizer.bos_token_id] else None
    return CausalLM(trunk.eval(), tokenizer, bos, eos, Path(folder).resolve().name)
