"""Functions of the text and joint phases: the multi-token loss after an audio prompt, and development error rates."""

import torch
from torch import Tensor

from speechmtp.decoding.engine import plain_outputs
from speechmtp.heads.contract import HeadSet
from speechmtp.models.adapter import AudioPrompt
from speechmtp.models.ctc_labels import greedy_labels
from speechmtp.models.encoder_lm import EncoderLM
from speechmtp.text.tokenizer import Tokenizer
from speechmtp.training.error_rate import error_rate
from speechmtp.training.losses import MultiTokenConfig
from speechmtp.training.multi_token import lay_behind, multi_token_loss
from speechmtp.training.tasks.ctc import AudioData, evaluation_batches
from speechmtp.types import TokenRules


def trunk_loss(
    model: EncoderLM, heads: HeadSet, audio: AudioPrompt, ids: Tensor, lengths: Tensor, config: MultiTokenConfig,
    step: int | None = None,
) -> tuple[Tensor, dict[str, float]]:  # fmt: skip
    """Summed multi-token loss of texts `ids` [B, L] of `lengths` [B] (start and end token included) after audio
    prompts."""
    return multi_token_loss(model.trunk, heads, lay_behind(model.trunk, audio, ids, lengths), config, step)


@torch.no_grad()
def decoded_error_rate(model: EncoderLM, data: AudioData, tokenizer: Tokenizer) -> dict[str, float]:
    """Word and token error rates, in percent, of plain decoding and of the CTC labels on a development set.

    `score` is the sum of the two rates of plain decoding, since the token error rate is finer than the word error rate.
    """
    pairs: dict[str, list[tuple[list[int], list[int]]]] = {"": [], "ctc_": []}
    device = model.encoder.mean.device
    for batch in evaluation_batches(data, 32):
        out = model.encode_audio(batch.frames.to(device), batch.lengths.to(device))
        found = plain_outputs(model.trunk, model.prompt(out), TokenRules((tokenizer.eos,)))
        references = [data.tokens[name] for name in batch.ids]
        pairs[""] += zip(references, ([t for t in row if t != tokenizer.eos] for row in found))
        pairs["ctc_"] += zip(references, greedy_labels(out.logits, out.lengths))
    figures: dict[str, float] = {}
    for prefix, rows in pairs.items():
        words = [(tokenizer.decode(a).split(), tokenizer.decode(b).split()) for a, b in rows]
        figures[f"{prefix}wer"] = error_rate(words)
        figures[f"{prefix}ter"] = error_rate(rows)
    return {"score": figures["wer"] + figures["ter"], **figures}
