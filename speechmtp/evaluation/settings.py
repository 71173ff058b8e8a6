"""The settings of an evaluation and their defaults; imports nothing heavy."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from speechmtp.config import Range, check_fields
from speechmtp.errors import ConfigError

PROMPT_TOKENS, MAX_NEW_TOKENS = 32, 32  # of a text LM: tokens of a text that are its prompt, and that it may add
THETAS = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99, 0.999)  # thresholds that `tune` tries


@dataclass(frozen=True)
class EvaluationSettings:
    """The model and data of an evaluation, and how the model computes.

    `data` is a Kaldi data directory or, for a text LM, a text file with one text per line. `model`, `device`, `dtype`,
    `heads`, `allow_stale_heads`, `draft_model`, `ctc` and `drafts` are those of `speechmtp.load`. `root` is the folder
    of relative audio paths; `allow_pipes` permits the commands of `wav.scp` to run. `language` and `task` are for
    multilingual models. A text LM gets the first `prompt_tokens` tokens of each text (None: 32) and emits at most
    `max_new_tokens` tokens (None: 32) after them; speech models accept neither.
    """

    data: str
    model: str = "default"
    device: str = "auto"
    dtype: str = "float32"
    heads: Sequence[str] = ()
    allow_stale_heads: bool = False
    draft_model: str = ""
    ctc: str = ""
    drafts: str = ""
    root: str | None = None
    allow_pipes: bool = False
    language: str = ""
    task: str = ""
    prompt_tokens: Annotated[int | None, Range(1, 1 << 20)] = None
    max_new_tokens: Annotated[int | None, Range(1, 1 << 20)] = None

    def text_limits(self) -> tuple[int, int]:
        """Prompt tokens and maximum new tokens of a text LM; ConfigError if either is out of range."""
        check_fields(self, "settings")
        prompt_tokens = PROMPT_TOKENS if self.prompt_tokens is None else self.prompt_tokens
        max_new_tokens = MAX_NEW_TOKENS if self.max_new_tokens is None else self.max_new_tokens
        return prompt_tokens, max_new_tokens

    def check_speech(self) -> None:
        """Raise a ConfigError if the limits of a text LM are given for a speech model."""
        if self.prompt_tokens is not None or self.max_new_tokens is not None:
            raise ConfigError(
                f"prompt_tokens=, max_new_tokens=: for text LMs, and {self.model} is a speech model; leave them out"
            )
