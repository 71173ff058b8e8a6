"""Fixed tokens at the beginning of an output: they join the prompt, and decoding continues behind them."""

from collections.abc import Sequence
from dataclasses import replace

import torch

from speechmtp.errors import ConfigError
from speechmtp.models.draft_prompt import DraftPrompt
from speechmtp.models.hints import hinted, hints_after
from speechmtp.models.trunk import Trunk
from speechmtp.outputs import OutputPositions
from speechmtp.types import Prompt, Request


def with_prefix(request: Request, tokens: Sequence[int], trunk: Trunk) -> Request:
    """Return a request whose output goes on behind `tokens`, as if decoding had emitted them: they stand in the prompt
    and in `ids`, at the positions of output tokens, and count against the limit.

    ConfigError for a request of a draft model, whose own prompt would lack them.
    """
    if not tokens or request.empty:
        return request
    if request.source(DraftPrompt) is not None:
        raise ConfigError("prefix: a draft model drafts for the request, expected none; load the model without one")
    limit = None if request.limit is None else max(1, request.limit - len(tokens))
    rules = replace(request.rules, begin_suppress=()) if request.rules.begin_suppress else request.rules
    prompt = _extended(request.prompt, tokens, trunk)
    return replace(request, prompt=prompt, rules=rules, limit=limit, ids=(*request.ids, *tokens))


def _extended(prompt: Prompt, tokens: Sequence[int], trunk: Trunk) -> Prompt:
    """The prompt with output tokens behind its last entry."""
    count, places, like = len(tokens), prompt.output_positions, prompt.positions
    ids = torch.tensor([list(tokens)], device=like.device)
    steps = like.new_tensor([[places.offset(i) for i in range(count)]])
    hints, own = prompt.hints, trunk.embed(ids)
    if hints is not None:  # the last entry's hint is added where the prompt is read
        own[:, :-1] = hinted(own[:, :-1], hints_after(prompt, count - 1))
    return replace(
        prompt,
        embeddings=torch.cat([prompt.entries, own.to(prompt.embeddings.dtype)], 1),
        hints=None if hints is None else hints[:, count:],
        hint_lengths=None if prompt.hint_lengths is None else (prompt.hint_lengths - count).clamp_min(0),
        positions=torch.cat([prompt.positions, prompt.next_position[:, None] + steps], 1),
        lengths=prompt.lengths + count,
        next_position=prompt.next_position + places.offset(count),
        output_positions=_behind(places, count),
    )


def _behind(places: OutputPositions, count: int) -> OutputPositions:
    """The positions of the tokens behind the first `count`, relative to that of token `count`."""
    start = places.offset(count)
    return OutputPositions(places.stride, tuple(place - start for place in places.table[count:]))
