"""One teacher-forced pass of multi-token heads over known outputs, with the same inputs as in decoding."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from speechmtp.heads.contract import HeadSet, TrainBatch, Unembed
from speechmtp.models.hints import hints_by_entry
from speechmtp.models.trunk import Trunk
from speechmtp.scoring.acceptance import OUTSIDE, Forced
from speechmtp.types import Prompt, stack_prompts

CHUNK = 256  # drafts unembedded at a time, to bound the memory of the logits


@torch.inference_mode()
def teacher_forced(
    trunk: Trunk, heads: HeadSet, prompts: Sequence[Prompt], outputs: Sequence[Sequence[int]]
) -> list[Forced]:
    """Compare the drafts of each depth at every start of every output with the true tokens that follow.

    `prompts` are unpadded single rows, `outputs` the tokens after them (an end token last, if one came). Prompt and
    output are fed to the trunk in one row, padded at its end, as decoding would have fed them. Outputs of fewer than
    two tokens have no draft, so their arrays are empty.
    """
    sizes = [max(0, len(output) - 1) for output in outputs]
    values = [np.zeros((4, size, heads.depth)) for size in sizes]
    rows = [i for i, size in enumerate(sizes) if size]
    if rows and heads.depth:
        batch = _batch(trunk, heads, [prompts[i] for i in rows], [outputs[i] for i in rows])
        found = _score(heads, batch, [outputs[i] for i in rows]).cpu().numpy()
        for place, i in enumerate(rows):
            values[i] = found[:, place, : sizes[i]]
    return [Forced(v[0] > 0, v[1] > 0, v[2], len(output), v[3].astype(np.int64)) for v, output in zip(values, outputs)]


def _batch(trunk: Trunk, heads: HeadSet, prompts: Sequence[Prompt], outputs: Sequence[Sequence[int]]) -> TrainBatch:
    """One row per prompt with all output tokens but the last; the anchors of a row are its starts 0, 1, ..."""
    device = prompts[0].embeddings.device
    inputs, ids, positions, anchors, hints = [], [], [], [], list[Tensor]()
    for prompt, output in zip(prompts, outputs):
        tokens = torch.tensor(output[:-1], dtype=torch.long, device=device)
        steps = torch.arange(len(tokens), device=device)
        entries = prompt.embeddings.shape[1]
        row = torch.cat([prompt.embeddings[0], trunk.embed(tokens).to(prompt.embeddings.dtype)])
        if prompt.hints is not None:
            hints.append(hints_by_entry(prompt.hints, prompt.lengths, len(row))[0])
            row = row + hints[-1].to(row.dtype)
        inputs.append(row)
        ids.append(torch.cat([tokens.new_full((entries,), -1), tokens]))
        offsets = torch.tensor(
            [prompt.output_positions.offset(i) for i in range(len(tokens))], dtype=torch.long, device=device
        )
        positions.append(torch.cat([prompt.positions[0], prompt.next_position[0] + offsets]))
        anchors.append(entries - 1 + steps)
    lengths = torch.tensor([len(row) for row in ids], device=device)
    embedded, places = pad_sequence(inputs, batch_first=True), pad_sequence(positions, batch_first=True)
    valid = torch.arange(embedded.shape[1], device=device) < lengths[:, None]
    memory = memory_lengths = None
    if prompts[0].memory is not None:
        batch = stack_prompts(list(prompts))
        memory, memory_lengths = batch.memory, batch.memory_lengths
    states = trunk(embedded, places, valid, heads.taps, memory, memory_lengths)
    return TrainBatch(
        states, embedded, pad_sequence(ids, batch_first=True, padding_value=-1), places,
        torch.where(valid, 0, -1), trunk.embed, heads.narrow(trunk), memory, memory_lengths,
        pad_sequence(anchors, batch_first=True), pad_sequence(hints, batch_first=True) if hints else None,
    )  # fmt: skip


def _score(heads: HeadSet, batch: TrainBatch, outputs: Sequence[Sequence[int]]) -> Tensor:
    """Right (top-1), near (top-5), nats and rank [4, B, A, D] in float64; 0 where there is no label."""
    assert batch.anchors is not None
    rows, starts = batch.anchors.shape
    device = batch.anchors.device
    text = pad_sequence([torch.tensor(o, device=device) for o in outputs], batch_first=True, padding_value=-1)
    found = torch.zeros(4, rows, starts, heads.depth, dtype=torch.float64, device=device)
    for d, features in enumerate(heads.train_depths(batch), 1):
        labels = torch.full((rows, starts), -1, device=device)
        labels[:, : max(0, starts + 1 - d)] = text[:, d:]
        known = labels >= 0
        targets = heads.places(labels[known])
        parts = zip(features[known].split(CHUNK), targets.split(CHUNK))
        values = [_look(heads, part, ids, d, batch.unembed) for part, ids in parts]
        if values:
            found[:, known, d - 1] = torch.cat(values, 1).to(found)
    return found


def _look(heads: HeadSet, features: Tensor, targets: Tensor, d: int, unembed: Unembed) -> Tensor:
    """Right (top-1), near (top-5), nats and rank [4, N] of features [N, F] for labels `targets` [N], indices into the
    logits (-1: not draftable)."""
    logits = heads.logits(features, d, unembed)
    logits = logits if logits.dtype == torch.float64 else logits.float()
    best = logits.topk(min(5, logits.shape[-1]), -1).indices
    hits = best == targets[:, None]  # -1 never matches
    own = logits.gather(1, targets.clamp_min(0)[:, None])
    nats = (logits.logsumexp(-1) - own[:, 0]).masked_fill(targets < 0, torch.nan)
    rank = (logits > own).sum(-1).masked_fill(targets < 0, OUTSIDE)
    # Decoding drafts the `argmax`; among equal logits, `topk` may put another token first.
    return torch.stack([(logits.argmax(-1) == targets).to(nats), hits.any(-1).to(nats), nats, rank.to(nats)])
