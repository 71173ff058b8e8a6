"""The words of a decoded output: their times in the recording and their confidence."""

import math
from collections.abc import Sequence

import numpy as np
import torch

from speechmtp.models.bases.contract import SpeechModel
from speechmtp.models.character_ctc import CharacterCtcHead
from speechmtp.models.ctc_labels import CtcLogits
from speechmtp.models.seq2seq import Seq2SeqTrunk
from speechmtp.types import CtcSource, Request
from speechmtp.words.cross_attention import attended_times, token_times
from speechmtp.words.ctc_alignment import align_characters, word_times
from speechmtp.words.group import WordTokens, group_words
from speechmtp.words.monotone import place_labels
from speechmtp.words.word import Word, word_spans

Times = list[tuple[float, float]]


@torch.inference_mode()
def time_words(
    model: SpeechModel, ctc: CharacterCtcHead | None, request: Request, tokens: Sequence[int],
    logprobs: Sequence[float] = (),
) -> tuple[Word, ...]:  # fmt: skip
    """Return the words of `tokens`, the whole output of a request (a prefix that was forced included), with times from
    the beginning of the request's audio.

    Times come from `ctc`, a CTC draft head on the encoder outputs, else from the model's own CTC head, else from
    cross-attention; they are None for a model with none of them. They are monotone and within the audio. `logprobs` are
    those of the tokens, from which the confidence is computed; it is None without them.
    """
    words = group_words(tokens, model.decode, request.rules.eos)
    times = _times(model, ctc, request, list(tokens), words) if words else None
    sure = [word.confidence(logprobs) for word in words]
    if times is None:
        return tuple(Word(word.text, None, None, value) for word, value in zip(words, sure))
    times = _in_order(times, request.audio_seconds)
    return tuple(Word(word.text, start, end, value) for word, (start, end), value in zip(words, times, sure))


def _times(
    model: SpeechModel, ctc: CharacterCtcHead | None, request: Request, tokens: list[int], words: list[WordTokens]
) -> Times | None:
    """Return the times as they are measured; None if they cannot be."""
    hop, memory = model.state_seconds, request.prompt.memory
    if hop is None:
        return None
    if memory is not None:
        memory = memory[:, : max(1, math.ceil(request.audio_seconds / hop))]
    if ctc is not None and memory is not None:
        size = torch.tensor([memory.shape[1]], device=memory.device)
        logprobs = ctc(memory, size)[0, : memory.shape[1]].float().log_softmax(-1).cpu().numpy()
        text = model.decode(tokens)
        spans = word_spans(text, [word.text for word in words])
        return align_characters(logprobs, ctc.config.characters, text, spans, hop)
    source = request.source(CtcSource)
    kept = [place for place, token in enumerate(tokens) if token not in request.rules.eos]
    at = {place: number for number, place in enumerate(kept)}
    ends = [(at[word.first], at[word.last - 1]) for word in words]
    said = [tokens[place] for place in kept]
    if isinstance(source, CtcLogits):
        placed = place_labels(source.logits.float().log_softmax(-1).cpu().numpy(), np.array(said))
        return word_times(placed, ends, hop, model.ctc_lag)
    alignment, trunk = model.alignment(), model.trunk
    if memory is None or request.prompt.memory is None or alignment is None or not isinstance(trunk, Seq2SeqTrunk):
        return None
    whole = request.prompt.memory
    states = token_times(trunk, whole, request.start_tokens, said, alignment.heads, memory.shape[1])
    return attended_times(states, ends, hop, alignment.lag, model.decode(said[:1]))


def _in_order(times: Times, seconds: float) -> Times:
    """Keep times within the audio, no word before the end of the one before."""
    starts = np.maximum.accumulate(np.clip([start for start, _ in times], 0.0, seconds))
    ends = np.minimum([end for _, end in times], [*starts[1:], seconds])
    return [(float(start), float(end)) for start, end in zip(starts, np.maximum(ends, starts))]
