"""The seam of a decoding step: what runs trunk and heads, behind one face.

In go tokens, parents, positions and rows; out come choices or logits, states and taps. Here it is the modules called
one by one; a native call or a captured graph takes its place in `make_step`, the one place that chooses.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from torch import Tensor

from speechmtp.decoding.layout import lay_out, slots_behind
from speechmtp.decoding.state import Batch
from speechmtp.heads.contract import HeadSet
from speechmtp.models.trunk import Trunk
from speechmtp.types import Draft, States, TokenRules

TokenPicker = Callable[[Tensor, int], Tensor]  # logits [B, 1, V'] and depth -> tokens [B, 1] to go on behind


@dataclass(frozen=True)
class Stepped:
    """What a trunk call gives: the embeddings `inputs` [B, Q, C] and `positions` [B, Q] that it read, its `states`, and
    for the last pending entry and every drafted one the `choices` [B, P + 1], or the `logits` [B, P + 1, V], of what
    follows, by the rows' own rules."""

    inputs: Tensor
    positions: Tensor
    states: States
    choices: Tensor | None
    logits: Tensor | None

    def tapped(self, taps: list[int]) -> "Stepped":
        """With these of the taps alone."""
        hidden, found = self.states.hidden, self.states.taps
        return replace(self, states=States(hidden, found[:, :, taps] if found is not None and taps else None))

    def rows(self, at: Tensor) -> "Stepped":
        """What heads read of some rows."""
        taps = self.states.taps
        states = States(self.states.hidden[at], None if taps is None else taps[at])
        return replace(self, inputs=self.inputs[at], positions=self.positions[at], states=states)


class Step(Protocol):
    """What runs trunk and heads."""

    def run(self, batch: Batch, draft: Draft, taps: tuple[int, ...], choices: bool) -> Stepped:
        """One trunk call over each row's pending entries and its draft; `choices` are enough where no rule, processor
        or noise looks at logits. Nothing is committed."""

    def advance(
        self, heads: HeadSet, state: Any, stepped: Stepped, keep: Tensor, count: Tensor, counts: Sequence[int]
    ) -> None:
        """Heads take in the states of the entries `keep` [B, A], of which `count` [B] were committed."""

    def level(self, heads: HeadSet, state: Any, d: int, tokens: Tensor, parent: Tensor) -> Tensor:
        """Logits [B, P, V'] of the heads' level d behind nodes of the level above."""

    def levels(self, heads: HeadSet, state: Any, depth: int) -> Tensor:
        """Logits [B, depth, V'] of all levels of heads that read no drafted token."""

    def chain(self, heads: HeadSet, state: Any, base: Tensor, depth: int, first: int, pick: TokenPicker) -> None:
        """Levels `first` + 1 to `depth` of a chain one after another, each behind what `pick` takes of the one
        before; `base` [B, 1] is what the first of them stands behind."""


class EagerStep:
    """The modules of a trunk and of its heads, called one by one."""

    def __init__(self, trunk: Trunk) -> None:
        self.trunk = trunk

    def run(self, batch: Batch, draft: Draft, taps: tuple[int, ...], choices: bool) -> Stepped:
        """One trunk call."""
        inputs, positions, ancestors = lay_out(batch, draft)
        batch.focus()
        states = self.trunk.extend(inputs, positions, ancestors, batch.cache, taps)
        logits = self.trunk.unembed(slots_behind(batch, states.hidden, draft.tokens.shape[1]))
        logits = ruled(logits, batch.rules, not batch.prompted)
        if choices:
            return Stepped(inputs, positions, states, logits.argmax(-1), None)
        return Stepped(inputs, positions, states, None, logits)

    def advance(
        self, heads: HeadSet, state: Any, stepped: Stepped, keep: Tensor, count: Tensor, counts: Sequence[int]
    ) -> None:
        """Heads take in what was committed."""
        heads.advance(state, stepped.states, stepped.inputs, stepped.positions, keep, count, counts)

    def level(self, heads: HeadSet, state: Any, d: int, tokens: Tensor, parent: Tensor) -> Tensor:
        """Logits of one level."""
        return heads.logits(heads.expand(state, d, tokens, parent), d, state.unembed)

    def levels(self, heads: HeadSet, state: Any, depth: int) -> Tensor:
        """Logits of all levels."""
        return heads.all_logits(heads.all_features(state)[:, :depth], state.unembed)

    def chain(self, heads: HeadSet, state: Any, base: Tensor, depth: int, first: int, pick: TokenPicker) -> None:
        """A level after the other."""
        tokens, parent = base, torch.zeros_like(base)
        for d in range(first + 1, depth + 1):
            tokens = pick(self.level(heads, state, d, tokens, parent), d)


def make_step(trunk: Trunk) -> Step:
    """What runs this trunk and its heads best, on the device where it is."""
    return EagerStep(trunk)


def ruled(logits: Tensor, rules: Sequence[TokenRules], begin: bool) -> Tensor:
    """Logits [B, P + 1, V] with the lowest number at what each row's rules forbid; where they are of the prompt's call
    (`prompt_tokens`), the first ones know what may not come first."""
    # Rows of one model share one object; to hash it would look at every id.
    kinds = rules[:1] if all(rule is rules[0] for rule in rules) else list(dict.fromkeys(rules))
    for kind in kinds:
        rows = None if len(kinds) == 1 else [i for i, rule in enumerate(rules) if rule == kind]
        if kind.suppress:
            logits = _filled(logits, rows, slice(None), kind.suppress)
        if kind.begin_suppress and begin:
            logits = _filled(logits, rows, slice(0, 1), kind.begin_suppress)
    return logits


def _filled(logits: Tensor, rows: list[int] | None, slots: slice, ids: tuple[int, ...]) -> Tensor:
    lowest, index = torch.finfo(logits.dtype).min, _ids(ids, logits.device)
    if rows is None and slots == slice(None):
        return logits.index_fill(-1, index, lowest)
    logits = logits.clone()
    for row in [slice(None)] if rows is None else rows:
        logits[row, slots] = logits[row, slots].index_fill(-1, index, lowest)
    return logits


_KNOWN: dict[tuple[int, torch.device], tuple[tuple[int, ...], Tensor]] = {}


def _ids(ids: tuple[int, ...], device: torch.device) -> Tensor:
    """The ids as a tensor, made once for each tuple; the tuple is kept, so that its number is its own."""
    found = _KNOWN.get((id(ids), device))
    if found is None:
        if len(_KNOWN) > 64:
            _KNOWN.clear()
        found = _KNOWN[id(ids), device] = ids, torch.tensor(ids, dtype=torch.long, device=device)
    return found[1]
