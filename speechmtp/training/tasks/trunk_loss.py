"""What the text and joint phases share: the trunk's multi-token loss on a prompt, and its development score."""

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass

import torch
from rapidfuzz.distance import Levenshtein
from torch import Tensor

from speechmtp.decoding.loop import generate
from speechmtp.decoding.strategies import make_strategy
from speechmtp.heads.contract import HeadSet
from speechmtp.heads.labels import shifted_labels
from speechmtp.models.adapter import AudioPrompt
from speechmtp.models.speech_lm import SpeechLM
from speechmtp.text.tokenizer import Tokenizer
from speechmtp.training.losses import depth_weights, multi_token_loss
from speechmtp.training.tasks.ctc import AudioData, evaluation_batches, greedy_labels


@dataclass(frozen=True)
class MultiTokenConfig:
    """Weights of the depths: 1 for the next token, `scale` * `decay`^d for head d."""

    scale: float = 0.5
    decay: float = 0.8
    smoothing: float = 0.0


def pad_text(texts: Sequence[Sequence[int]], bos: int, eos: int) -> tuple[Tensor, Tensor]:
    """ids [B, L] of `bos text eos`, padded with eos, and lengths [B]."""
    rows = [torch.tensor([bos, *text, eos]) for text in texts]
    lengths = torch.tensor([len(r) for r in rows])
    return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=eos), lengths


def trunk_loss(
    model: SpeechLM, heads: HeadSet, audio: AudioPrompt, ids: Tensor, lengths: Tensor, config: MultiTokenConfig
) -> tuple[Tensor, dict[str, float]]:
    """Summed multi-token loss of texts `ids` [B, L] (opening and end token included) behind audio prompts.

    The text stands behind the padded audio; padding is masked and positions are the adapter's, so this equals
    the layout of decoding.
    """
    size = ids.shape[1]
    start = audio.embeddings.shape[1]
    steps = torch.arange(size, device=ids.device)
    embeddings = torch.cat([audio.embeddings, model.trunk.embed(ids)], 1)
    positions = torch.cat([audio.positions, audio.text_position[:, None] + steps], 1)
    heard = torch.arange(start, device=ids.device) < audio.lengths[:, None]
    valid = torch.cat([heard, steps < lengths[:, None]], 1)
    states = model.trunk(embeddings, positions, valid, heads.taps)
    text = type(states)(states.hidden[:, start:], None if states.taps is None else states.taps[:, start:])
    base = model.trunk.unembed(text.hidden)
    features = heads.train_features(text, embeddings[:, start:], ids, positions[:, start:])
    ahead = [heads.logits(features[:, :, d], d + 1, model.trunk.unembed) for d in range(heads.depth)]
    labels = shifted_labels(ids, lengths, 0, heads.depth)
    weights = depth_weights(heads.depth, config.scale, config.decay)
    loss, parts = multi_token_loss(torch.stack([base, *ahead], 2), labels, weights, config.smoothing)
    values = {"ce": float(parts[0].detach())}
    if heads.depth:
        values[f"ce_{heads.depth}"] = float(parts[-1].detach())
    return loss, values


@torch.no_grad()
def decoded_error_rate(model: SpeechLM, data: AudioData, tokenizer: Tokenizer) -> dict[str, float]:
    """Word and token error rates, in percent, of plain decoding and of the CTC labels on a development set.

    `score` adds the trunk's two rates: words are what counts, tokens are the finer scale.
    """
    strategy = make_strategy("ar", {})
    assert strategy.drafter is not None
    assert strategy.rule is not None
    pairs: dict[str, list[tuple[list[int], list[int]]]] = {"": [], "ctc_": []}
    device = model.encoder.mean.device
    for batch in evaluation_batches(data, 32):
        out = model.encode(batch.frames.to(device), batch.lengths.to(device))
        found, _ = generate(model.trunk, None, model.prompt(out), strategy.drafter, strategy.rule, tokenizer.eos)
        references = [data.tokens[name] for name in batch.ids]
        pairs[""] += zip(references, ([t for t in row if t != tokenizer.eos] for row in found))
        pairs["ctc_"] += zip(references, greedy_labels(out.logits, out.lengths))
    figures: dict[str, float] = {}
    for prefix, rows in pairs.items():
        words = [(tokenizer.decode(a).split(), tokenizer.decode(b).split()) for a, b in rows]
        figures[f"{prefix}wer"] = _error_rate(words)
        figures[f"{prefix}ter"] = _error_rate(rows)
    return {"score": figures["wer"] + figures["ter"], **figures}


def _error_rate(pairs: Iterable[tuple[Sequence[Hashable], Sequence[Hashable]]]) -> float:
    pairs = list(pairs)
    return 100 * sum(Levenshtein.distance(a, b) for a, b in pairs) / max(1, sum(len(a) for a, _ in pairs))
