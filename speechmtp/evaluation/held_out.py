"""Development sets on which heads are judged: prompts, and what plain decoding says behind them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from speechmtp.decoding.engine import Limits, plain_outputs
from speechmtp.errors import DataError
from speechmtp.evaluation.teacher_forced import teacher_forced
from speechmtp.heads.contract import HeadSet
from speechmtp.models.bases.contract import TextModel
from speechmtp.models.trunk import Trunk
from speechmtp.scoring.acceptance import acceptance
from speechmtp.types import Prompt, TokenRules, stack_prompts

ROWS = 16  # prompts in one batch


@dataclass
class HeldOut:
    """A development set: `prompts` makes single-row prompts with the trunk's present weights, and `rules` and `limits`
    (by the lengths of the prompts, or one number of tokens a prompt) say how decoding ends behind them. `word_errors`
    gives the word error rate of outputs in percent, where there are transcripts."""

    trunk: Trunk
    prompts: Callable[[], list[Prompt]]
    rules: TokenRules
    limits: Limits | Sequence[int]
    word_errors: Callable[[Sequence[Sequence[int]]], float] | None = None
    _known: tuple[list[Prompt], list[list[int]]] | None = None

    def figures(self, heads: HeadSet, moved: bool) -> dict[str, float]:
        """Predicted tokens per call of `verify`, and their share of the ceiling in percent; `score` is calls per 100
        tokens. With `moved` the trunk has changed, so that its outputs are made again and scored."""
        if moved or self._known is None:
            prompts = self.prompts()
            self._known = prompts, self.plain_outputs(prompts)
        prompts, outputs = self._known
        passes = []
        for start in range(0, len(prompts), ROWS):
            rows = slice(start, start + ROWS)
            passes += teacher_forced(self.trunk, heads, prompts[rows], outputs[rows])
        found = acceptance(passes)
        rate = found.tokens_per_call or 1.0
        figures = {"score": 100 / rate, "tokens_per_call": rate, "share": 100 * (found.share or 0.0)}
        if found.depths:
            figures["top1_1"] = 100 * (found.depths[0].top1 or 0.0)
        if moved and self.word_errors is not None:
            figures["wer"] = self.word_errors(outputs)
        return figures

    def plain_outputs(self, prompts: Sequence[Prompt], rows: int = ROWS) -> list[list[int]]:
        """The tokens that plain decoding (`ar`) says behind each prompt, `rows` prompts at a time."""
        found: list[list[int]] = []
        for start in range(0, len(prompts), rows):
            batch = stack_prompts(list(prompts[start : start + rows]))
            limits = self.limits if isinstance(self.limits, Limits) else self.limits[start : start + rows]
            found += plain_outputs(self.trunk, batch, self.rules, limits)
        return found


def read_texts(lm: TextModel, files: Sequence[str]) -> list[list[int]]:
    """Token ids of every line of text files that is not blank, an end token behind them.

    DataError for a file that cannot be read or is not UTF-8, and where there is no text at all.
    """
    texts: list[list[int]] = []
    for name in files:
        try:
            lines = Path(name).read_text(encoding="utf-8").splitlines()
        except OSError as error:
            raise DataError(f"{name}: {error.strerror or error}; a text file is expected") from error
        except UnicodeDecodeError as error:
            raise DataError(f"{name}: byte {error.start} is not UTF-8; convert the file") from error
        texts += [[*lm.encode(line), lm.eos[0]] for line in lines if line.strip()]
    if not texts:
        raise DataError(f"{', '.join(files)}: no text; a sentence a line is expected")
    return texts


def long_texts(lm: TextModel, files: Sequence[str], prompt_tokens: int) -> list[list[int]]:
    """Token ids of the lines that have more than `prompt_tokens` tokens; DataError where there is none."""
    texts = [text for text in read_texts(lm, files) if len(text) > prompt_tokens]
    if not texts:
        raise DataError(
            f"{', '.join(files)}: no text longer than its prompt of {prompt_tokens} tokens; lower `prompt_tokens`"
        )
    return texts


@torch.no_grad()
def text_prompt(trunk: Trunk, prompts: Sequence[Sequence[int]]) -> Prompt:
    """The batch of prompts that token lists of one length are."""
    ids = torch.tensor(prompts, device=trunk.unembedding().weight.device)
    rows, size = ids.shape
    full = torch.full((rows,), size, device=ids.device)
    return Prompt(trunk.embed(ids), torch.arange(size, device=ids.device).expand(rows, -1), full, full)


def text_dev(lm: TextModel, texts: Sequence[Sequence[int]], prompt_tokens: int, max_new_tokens: int) -> HeldOut:
    """The development set of a text LM: the first `prompt_tokens` tokens of each text are its prompt, and the model
    says at most `max_new_tokens` tokens behind it."""

    def prompts() -> list[Prompt]:
        return [text_prompt(lm.trunk, [text[:prompt_tokens]]) for text in texts]

    return HeldOut(lm.trunk, prompts, lm.rules, Limits(0.0, max_new_tokens, max_new_tokens))
