"""The interface to what runs the trunk and the heads in a decoding step.

It takes tokens, parents, positions and rows, and returns argmax tokens or logits, hidden states and taps. `EagerStep`
asks trunk and heads one after the other, which compute natively or by their modules. Another implementation, such as a
captured CUDA graph, is to be chosen in `make_step`, the only place that chooses.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from torch import Tensor

from speechmtp.decoding.layout import lay_out, node_counts, slots_behind
from speechmtp.decoding.state import Batch
from speechmtp.heads.contract import HeadSet
from speechmtp.kernels.cpu.chain import Drawn
from speechmtp.models.masks import ids_of
from speechmtp.models.trunk import Trunk
from speechmtp.types import Draft, States, TokenRules

TokenPicker = Callable[[Tensor, int], Tensor]  # logits [B, 1, V'] and depth -> tokens [B, 1] that continue the chain


@dataclass(frozen=True)
class Stepped:
    """Result of a trunk call: the embeddings `inputs` [B, Q, C] and `positions` [B, Q] that it read, and its `states`.
    For the last pending entry and for each drafted token it has the argmax `choices` [B, P + 1] of the next token or
    its `logits` [B, P + 1, V] in float32 at least, with each row's token rules applied. Logits that are there beside
    choices are in the trunk's dtype."""

    inputs: Tensor
    positions: Tensor
    states: States
    choices: Tensor | None
    logits: Tensor | None

    def tapped(self, taps: list[int]) -> "Stepped":
        """The same result with only the taps at these indices."""
        hidden, found = self.states.hidden, self.states.taps
        return replace(self, states=States(hidden, found[:, :, taps] if found is not None and taps else None))

    def rows(self, at: Tensor) -> "Stepped":
        """The inputs, positions and states of the rows at `at`, for their heads; `choices` and `logits` stay those of
        all rows."""
        taps = self.states.taps
        states = States(self.states.hidden[at], None if taps is None else taps[at])
        return replace(self, inputs=self.inputs[at], positions=self.positions[at], states=states)


class Step(Protocol):
    """What runs the trunk and the heads."""

    def run(self, batch: Batch, draft: Draft, taps: tuple[int, ...], choices: bool) -> Stepped:
        """Run one trunk call over each row's pending entries and its draft; nothing is committed. `taps` are the layers
        whose outputs heads read. With `choices` the result has argmax tokens instead of logits, which is enough if no
        rule, processor or noise needs logits."""

    def scores(self, batch: Batch, stepped: Stepped, rows: Tensor, slots: Tensor) -> Tensor:
        """Logits [n, V] in float32 at least, with token rules, of some of the slots that have `choices`: `slots` [n] of
        `rows` [n]."""

    def advance(
        self, heads: HeadSet, state: Any, stepped: Stepped, keep: Tensor, count: Tensor, counts: Sequence[int]
    ) -> None:
        """Update the heads' state with the trunk states of the entries `keep` [B, A], of which `count` [B] were
        committed; `counts` are the same numbers on the host."""

    def level(self, heads: HeadSet, state: Any, d: int, tokens: Tensor, parent: Tensor) -> Tensor:
        """Logits [B, P, V'], in float32 at least, of the heads' level `d` after the nodes `tokens` [B, P] of the level
        above, whose parents `parent` [B, P] are indices into the level above that."""

    def levels(self, heads: HeadSet, state: Any, depth: int) -> Tensor:
        """Logits [B, depth, V'], in float32 at least, of all levels, for heads that read no drafted tokens."""

    def draft(
        self, heads: HeadSet, state: Any, base: Tensor, depth: int, theta: float | None, product: bool,
        drawn: Drawn | None = None,
    ) -> tuple[Tensor, Tensor] | None:  # fmt: skip
        """The most probable tokens, or those `drawn`, of up to `depth` levels and their probabilities in one call
        (`HeadSet.draft_chain`); None if the heads cannot."""

    def chain(self, heads: HeadSet, state: Any, base: Tensor, depth: int, first: int, pick: TokenPicker) -> None:
        """Run the levels `first` + 1 to `depth` of a chain one after another; each level follows the token that `pick`
        chooses from the logits of the level before. `base` [B, 1] is the token that the first of these levels
        follows."""


class EagerStep:
    """Asks a trunk and its heads one after the other."""

    def __init__(self, trunk: Trunk) -> None:
        self.trunk = trunk

    def run(self, batch: Batch, draft: Draft, taps: tuple[int, ...], choices: bool) -> Stepped:
        """See `Step.run`."""
        inputs, positions, ancestors = lay_out(batch, draft)
        batch.focus()
        nodes = node_counts(draft) if len(batch.rows) > 1 and batch.device.type == "cpu" else None
        counts = None if nodes is None else nodes + (1 if batch.prompt is None else batch.prompt.lengths)
        states = self.trunk.extend(inputs, positions, ancestors, batch.cache, taps, counts)
        hidden = slots_behind(batch, states.hidden, draft.tokens.shape[1])
        if choices and (chosen := self._chosen(batch, hidden, nodes)) is not None:
            return Stepped(inputs, positions, states, chosen, None)
        logits = self.trunk.unembed(hidden)
        logits = ruled(logits if choices else in_float32(logits), batch.rules, not batch.prompted)
        if choices:
            return Stepped(inputs, positions, states, logits.argmax(-1), logits)
        return Stepped(inputs, positions, states, None, logits)

    def _chosen(self, batch: Batch, hidden: Tensor, nodes: Tensor | None) -> Tensor | None:
        """The argmax tokens [B, P + 1] of states [B, P + 1, C] by the rows' token rules in one call; None where rules
        differ between rows or entries. Behind the drafted `nodes` [B] of a row they have no meaning."""
        rules = batch.rules
        if any(rule is not rules[0] for rule in rules) or (rules[0].begin_suppress and not batch.prompted):
            return None
        return self.trunk.choose(hidden, rules[0].suppress, None if nodes is None else nodes + 1)

    def scores(self, batch: Batch, stepped: Stepped, rows: Tensor, slots: Tensor) -> Tensor:
        """See `Step.scores`."""
        if stepped.logits is not None:
            return in_float32(stepped.logits[rows, slots])
        assert stepped.choices is not None
        hidden = slots_behind(batch, stepped.states.hidden, stepped.choices.shape[1] - 1)[rows, slots]
        # `_chosen` has found one rule for all rows and slots.
        return ruled(in_float32(self.trunk.unembed(hidden))[:, None], batch.rules[:1], False)[:, 0]

    def advance(
        self, heads: HeadSet, state: Any, stepped: Stepped, keep: Tensor, count: Tensor, counts: Sequence[int]
    ) -> None:
        """See `Step.advance`."""
        heads.advance(state, stepped.states, stepped.inputs, stepped.positions, keep, count, counts)

    def level(self, heads: HeadSet, state: Any, d: int, tokens: Tensor, parent: Tensor) -> Tensor:
        """See `Step.level`."""
        return in_float32(heads.logits(heads.expand(state, d, tokens, parent), d, state.unembed))

    def levels(self, heads: HeadSet, state: Any, depth: int) -> Tensor:
        """See `Step.levels`."""
        return in_float32(heads.all_logits(heads.all_features(state)[:, :depth], state.unembed))

    def draft(
        self, heads: HeadSet, state: Any, base: Tensor, depth: int, theta: float | None, product: bool,
        drawn: Drawn | None = None,
    ) -> tuple[Tensor, Tensor] | None:  # fmt: skip
        """See `Step.draft`."""
        return heads.draft_chain(state, base, depth, theta, product, drawn)

    def chain(self, heads: HeadSet, state: Any, base: Tensor, depth: int, first: int, pick: TokenPicker) -> None:
        """See `Step.chain`."""
        tokens, parent = base, torch.zeros_like(base)
        for d in range(first + 1, depth + 1):
            tokens = pick(self.level(heads, state, d, tokens, parent), d)


def make_step(trunk: Trunk) -> Step:
    """Choose the implementation of `Step` for this trunk and its device; so far there is only `EagerStep`."""
    return EagerStep(trunk)


def in_float32(logits: Tensor) -> Tensor:
    """Logits in float32 at least, as transformers has them, and without a copy if they are. In half precision, noise
    would be rounded to the steps of large logits, and probabilities to a few digits."""
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


def ruled(logits: Tensor, rules: Sequence[TokenRules], begin: bool) -> Tensor:
    """Logits [B, P + 1, V] with the lowest finite number at the tokens that each row's rules suppress. With `begin`,
    for the call that runs the prompts, the first slot also loses the tokens of `begin_suppress`."""
    # Rows of one model share one object; hashing it would read every id.
    kinds = rules[:1] if all(rule is rules[0] for rule in rules) else list(dict.fromkeys(rules))
    for kind in kinds:
        rows = None if len(kinds) == 1 else [i for i, rule in enumerate(rules) if rule == kind]
        if kind.suppress:
            logits = _filled(logits, rows, slice(None), kind.suppress)
        if kind.begin_suppress and begin:
            logits = _filled(logits, rows, slice(0, 1), kind.begin_suppress)
    return logits


def _filled(logits: Tensor, rows: list[int] | None, slots: slice, ids: tuple[int, ...]) -> Tensor:
    lowest, index = torch.finfo(logits.dtype).min, ids_of(ids, logits.device)
    if rows is None and slots == slice(None):
        return logits.index_fill(-1, index, lowest)
    logits = logits.clone()
    for row in [slice(None)] if rows is None else rows:
        logits[row, slots] = logits[row, slots].index_fill(-1, index, lowest)
    return logits
