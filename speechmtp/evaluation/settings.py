"""What an evaluation is asked for, and values that stand where nobody chose others; nothing heavy is loaded here."""

from collections.abc import Sequence
from dataclasses import dataclass

from speechmtp.errors import ConfigError

PROMPT_TOKENS, MAX_NEW_TOKENS = 32, 32  # of a text LM: tokens of a text that are given, and that it may add
THETAS = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99, 0.999)  # thresholds that `tune` tries


@dataclass(frozen=True)
class EvaluationSettings:
    """Which model is judged on which data, and how it computes.

    `data` is a Kaldi data directory or, for a text LM, a text file with a text a line. `model`, `device`, `dtype`,
    `heads`, `allow_stale_heads`, `draft_model`, `ctc` and `drafts` are those of `speechmtp.load`. `root` is where
    relative audio paths start, and `allow_pipes` runs the commands of `wav.scp`. `language` and `task` are for
    multilingual models. A text LM is given the first `prompt_tokens` tokens of each text (None: 32) and says at most
    `max_new_tokens` tokens (None: 32) behind them; speech models take neither.
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
    prompt_tokens: int | None = None
    max_new_tokens: int | None = None

    def text_limits(self) -> tuple[int, int]:
        """Tokens of a text LM's prompts, and the most tokens behind one; ConfigError for less than 1 of either."""
        prompt_tokens = PROMPT_TOKENS if self.prompt_tokens is None else self.prompt_tokens
        max_new_tokens = MAX_NEW_TOKENS if self.max_new_tokens is None else self.max_new_tokens
        if min(prompt_tokens, max_new_tokens) < 1:
            raise ConfigError(
                f"prompt_tokens={prompt_tokens}, max_new_tokens={max_new_tokens}: expected 1 or more of both"
            )
        return prompt_tokens, max_new_tokens

    def check_speech(self) -> None:
        """ConfigError for limits of a text LM that are given for a speech model."""
        if self.prompt_tokens is not None or self.max_new_tokens is not None:
            raise ConfigError(
                f"prompt_tokens=, max_new_tokens=: for text LMs, and {self.model} is a speech model; leave them out"
            )
