"""The interface of every family of multi-token heads (`docs/data_flow.md`): head d = 1..D predicts x_{t+1+d}.

Letters: B rows, L entries, A anchors, P nodes, C trunk width, F feature width of a family, D depth,
V tokens a head can draft (the vocabulary, or a shortlist of it).
The shared unembedding is passed in, not owned, so that it is not saved or trained twice.
"""

from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from speechmtp.config import Range, Share, check_fields
from speechmtp.heads.reader import FeatureReader
from speechmtp.kernels.cpu.chain import Drawn, NativeChain
from speechmtp.kernels.cpu.int8_linear import Int8Linear, in_int8
from speechmtp.models.agreement import Tail
from speechmtp.models.hints import hinted
from speechmtp.models.shape import TrunkShape
from speechmtp.types import States

Unembed = Callable[[Tensor], Tensor]


class TrunkFace(Protocol):
    """The interface of a trunk that heads use."""

    @property
    def shape(self) -> TrunkShape:
        """The sizes of the trunk."""

    def embed(self, ids: Tensor) -> Tensor:
        """Return embeddings [..., C] of token ids [...]."""

    def unembedding(self) -> nn.Linear:
        """Return the output layer, weight [V, C]."""

    @property
    def tail(self) -> Tail:
        """What the model does to the output layer's logits."""

    def last_layer(self) -> Mapping[str, Tensor]:
        """Return the last layer's weights under transformers' names, and `final_norm.weight`."""


@dataclass(frozen=True)
class FamilyConfig:
    """Options of every family; the families add their `kind` and their own.

    `taps` are the trunk layers read besides the last state (0: embeddings; the last layer's number: the state before
    the final norm). `mix` says how they are added: through one matrix, or with one learned weight per layer (the
    weighted hidden states of arXiv 2502.09419). `shortlist` is the number of tokens that can be drafted, 0 for all.
    """

    depth: Annotated[int, Range(0, 64)] = 7
    taps: tuple[int, ...] = ()
    mix: Literal["linear", "weighted"] = "linear"
    shortlist: int = 0
    dropout: Share = 0.0

    def __post_init__(self) -> None:
        """Raise ConfigError for a value out of range."""
        check_fields(self, "heads")


@dataclass(frozen=True)
class TrainBatch:
    """A teacher-forced batch after the trunk; a row holds prompt and text entries, with padding at the end.

    `states` of the trunk; `inputs` [B, L, C], the embeddings that the trunk read; `ids` [B, L], -1 for entries without
    a token; `positions` [B, L]; `segments` [B, L], the sample that an entry belongs to, -1 for padding; `anchors`
    [B, A], the indices to predict from, None for all. `hints` [B, L, C] are the hints that `inputs` contain.
    """

    states: States
    inputs: Tensor
    ids: Tensor
    positions: Tensor
    segments: Tensor
    embed: Callable[[Tensor], Tensor]
    unembed: Unembed  # over the tokens that the heads can draft (`HeadSet.narrow`)
    memory: Tensor | None = None
    memory_lengths: Tensor | None = None
    anchors: Tensor | None = None
    hints: Tensor | None = None

    def at_anchors(self, values: Tensor) -> Tensor:
        """Return values [B, A, ...] at the anchors of values [B, L, ...]."""
        if self.anchors is None:
            return values
        rows = torch.arange(len(values), device=values.device)[:, None]
        return values[rows, self.anchors]

    def positions_behind(self, anchors: Tensor, count: int) -> Tensor:
        """Return the positions [B, A, count] of the entries after each of `anchors` [B, A]; past the sample's end, the
        anchor's position plus 1, 2, .."""
        steps, (rows, inside, same) = torch.arange(1, count + 1, device=anchors.device), self._behind(anchors, count)
        return torch.where(same, self.positions[rows, inside], self.positions.gather(1, anchors)[..., None] + steps)

    def hints_behind(self, anchors: Tensor, count: int) -> Tensor | None:
        """Return the hints [B, A, count, C] of the entries after each of `anchors` [B, A], zeros past the sample's end;
        None if there are no hints."""
        if self.hints is None:
            return None
        rows, inside, same = self._behind(anchors, count)
        return self.hints[rows, inside] * same[..., None]

    def _behind(self, anchors: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
        """Rows and indices [B, A, count] of the entries after anchors, and whether they belong to the same sample."""
        index = anchors[..., None] + torch.arange(1, count + 1, device=anchors.device)
        inside = index.clamp(max=self.positions.shape[1] - 1)
        rows = torch.arange(len(anchors), device=anchors.device)[:, None, None]
        same = (inside == index) & (self.segments[rows, inside] == self.segments.gather(1, anchors)[..., None])
        return rows, inside, same

    def ahead(self, values: Tensor, steps: int) -> Tensor:
        """Shift `values` [B, L, ...] so that index t holds the value at t + steps; values at the edge repeat."""
        index = (torch.arange(values.shape[1], device=values.device) + steps).clamp(0, values.shape[1] - 1)
        return values[:, index]


Ahead = Callable[[int], Tensor]  # n -> positions [B, n] of the entries after each row's last committed one


Hints = Callable[[int], Tensor | None]  # n -> hints [B, n, C] of the same entries


@dataclass
class HeadState:
    """The decoding state of a batch of rows; families add to it. Rows can be removed (`select`), copied (`take`) and
    appended (`join`) between an `advance` and the next `expand`.

    `depth` is the deepest level that will be drafted; `ahead` gives the positions of the next tokens (None: each one
    position after the last), `hints` what is added to their embeddings (None: nothing).
    """

    embed: Callable[[Tensor], Tensor]
    unembed: Unembed
    depth: int
    hidden: Tensor | None = None  # fused trunk state [B, C] of the last committed entry
    features: Tensor | None = field(default=None, repr=False)  # [B, D, F] of one-pass families
    ahead: Ahead | None = field(default=None, repr=False)
    hints: Hints | None = field(default=None, repr=False)

    def hints_ahead(self, count: int) -> Tensor | None:
        """Return the hints [B, count, C] of the entries after each row's last committed one; None if there are none."""
        return None if self.hints is None else self.hints(count)

    def embedded(self, tokens: Tensor, d: int) -> Tensor:
        """Return the embeddings [B, P, C] of tokens [B, P] of level d - 1 as the trunk reads them, with the hint of
        their entry."""
        hints = self.hints_ahead(d)
        return hinted(self.embed(tokens), None if hints is None else hints[:, d - 1 :])

    def select(self, rows: Tensor | Sequence[int]) -> None:
        """Keep only these rows, in this order."""
        self.pick(torch.as_tensor(rows, dtype=torch.long))

    def take(self, rows: Sequence[int]) -> "HeadState":
        """Return a new state with copies of these rows."""
        other = copy(self)
        other.pick(torch.as_tensor(rows, dtype=torch.long))
        return other

    def pick(self, rows: Tensor) -> None:
        """Keep only these rows, in tensors that calls replace (not in caches, which calls write into)."""
        self.hidden = picked(self.hidden, rows)
        self.features = None

    def join(self, other: Any) -> None:
        """Append copies of all rows of another state of the same heads."""
        self.hidden = joined(self.hidden, other.hidden)
        self.features = None


def picked(values: Tensor | None, rows: Tensor) -> Tensor | None:
    """Return rows [n, ...] of values [B, ...]; None for None."""
    return None if values is None else values[rows.to(values.device)]


def joined(first: Tensor | None, second: Tensor | None) -> Tensor | None:
    """Concatenate two tensors along the rows; None if either is None."""
    return None if first is None or second is None else torch.cat([first, second])


class HeadSet(nn.Module):
    """Base class of head sets of depth D; `taps` are the trunk layers that are read besides the last state."""

    one_pass = False  # all depths depend only on the trunk's states
    independent = False  # and no depth needs another's result, so that they can be trained one by one
    reads_raw = False  # the base state is that before the final norm (the last of `taps`)
    revealed_count: Tensor | None = None  # [B, A] depths whose tokens the last `train_depths` read: no loss

    def __init__(self, config: Any, shape: TrunkShape) -> None:
        super().__init__()
        self.config, self.shape = config, shape
        self.depth: int = config.depth
        self.taps: tuple[int, ...] = (*config.taps, *([shape.layers] if self.reads_raw else []))
        self.reads = FeatureReader(len(config.taps), config.mix, config.dropout, shape)
        self.vocab_size: int = config.shortlist or shape.vocab_size
        self.shortlist: Tensor | None
        self.register_buffer("shortlist", torch.arange(config.shortlist) if config.shortlist else None)
        self._narrow: Unembed | None = None  # set by `draft_in_int8`
        self.native: NativeChain | None = None  # set by `use_native` (`heads/native.py`)
        self.native_problem = "nobody asked"

    def draft_in_int8(self, trunk: TrunkFace) -> None:
        """Draft with 8-bit weights and inputs from now on (`kernels/cpu/int8_linear.py`); only for float32 on a CPU.

        Drafts change a little, and depend on the other rows of a batch. With exact acceptance rules the output is still
        the trunk's. The heads can no longer be trained or stored.
        """
        in_int8(self)
        module, ids = trunk.unembedding(), slice(None) if self.shortlist is None else self.shortlist
        narrow = Int8Linear(module.weight[ids], None if module.bias is None else module.bias[ids])
        self._narrow = trunk.tail.behind(narrow)

    @property
    def drafts_in_int8(self) -> bool:
        """Whether `draft_in_int8` was called."""
        return self._narrow is not None

    def fused(self, states: States) -> Tensor:
        """Return the heads' input [..., C] of trunk states."""
        taps = states.taps
        if self.reads_raw:
            assert taps is not None
            return self.reads(taps[..., -1, :], taps[..., :-1, :])
        return self.reads(states.hidden, taps)

    def narrow(self, trunk: TrunkFace, frozen: bool = False) -> Unembed:
        """Return the trunk's unembedding for the tokens that can be drafted; if `frozen`, without gradients."""
        if self._narrow is not None:
            return self._narrow
        module, behind = trunk.unembedding(), trunk.tail.behind
        ids = self.shortlist
        if ids is None and not frozen:
            return behind(module)
        if torch.is_grad_enabled() and not frozen:
            return behind(
                lambda hidden: F.linear(hidden, module.weight[ids], None if module.bias is None else module.bias[ids])
            )
        weight, bias = module.weight.detach(), None if module.bias is None else module.bias.detach()
        if ids is not None:
            weight, bias = weight[ids], None if bias is None else bias[ids]
        return behind(lambda hidden: F.linear(hidden, weight, bias))

    def token_ids(self, index: Tensor) -> Tensor:
        """Return the token ids of indices into the logits."""
        return index if self.shortlist is None else self.shortlist[index]

    def places(self, tokens: Tensor) -> Tensor:
        """Return the indices into the logits of token ids; -1 for tokens that cannot be drafted and negative ids."""
        if self.shortlist is None:
            return tokens.clamp_min(-1)
        place = tokens.new_full((self.shape.vocab_size,), -1)
        place[self.shortlist] = torch.arange(len(self.shortlist), device=tokens.device)
        return place[tokens.clamp_min(0)].where(tokens >= 0, -1)

    def regulariser(self, batch: TrainBatch) -> Tensor | None:
        """Return an additional loss per labelled anchor; None if the family needs none."""
        return None

    @abstractmethod
    def start_from(self, trunk: TrunkFace) -> None:
        """Initialise from the trunk before training: every depth predicts what the trunk itself predicts next."""

    @abstractmethod
    def start(
        self, rows: int, trunk: TrunkFace, depth: int | None = None, memory: Tensor | None = None,
        memory_lengths: Tensor | Sequence[int] | None = None, ahead: Ahead | None = None,
    ) -> Any:  # fmt: skip
        """Return a new state for `rows` rows, drafts of at most `depth` tokens (None: all depths). `memory` [B, S, E]
        are the encoder outputs of a cross-attention trunk; `ahead` gives the positions of the next tokens."""

    @abstractmethod
    def advance(
        self, state: Any, states: States, inputs: Tensor, positions: Tensor, keep: Tensor, count: Tensor,
        counts: Sequence[int] | None = None,
    ) -> None:  # fmt: skip
        """Take in the trunk states of a call, of which the entries `keep` [B, K] were committed, `count` [B] per row.

        `inputs` [B, Q, C] are the embeddings that the trunk read, `positions` [B, Q] their positions; `counts` are the
        values of `count`, if they are known on the host.
        """

    @abstractmethod
    def expand(self, state: Any, d: int, tokens: Tensor, parent: Tensor, given: Tensor | None = None) -> Tensor:
        """Return features [B, P, F] of level d for the nodes `tokens` [B, P] of level d - 1 (level 0: the base token).

        `parent` [B, P] are indices into the nodes of level d - 2. Levels are computed in order from 1; their cache
        entries are provisional until the next `advance`. `given` [B, R] are revealed tokens after the anchor.
        """

    @abstractmethod
    def logits(self, features: Tensor, d: int, unembed: Unembed) -> Tensor:
        """Return logits [..., V] of level d from features [..., F]; `unembed` is that of `narrow`."""

    def all_logits(self, features: Tensor, unembed: Unembed) -> Tensor:
        """Return logits [..., D', V] of features [..., D', F] of levels 1..D'."""
        return torch.stack([self.logits(features[..., i, :], i + 1, unembed) for i in range(features.shape[-2])], -2)

    def all_features(self, state: Any) -> Tensor:
        """Return features [B, D', F] of levels 1..D' = `state.depth`; only for one-pass families."""
        raise NotImplementedError

    def draft_chain(
        self, state: Any, base: Tensor, depth: int, theta: float | None = None, product: bool = False,
        drawn: Drawn | None = None,
    ) -> tuple[Tensor, Tensor] | None:  # fmt: skip
        """Draft the most probable tokens, or those `drawn`, of up to `depth` levels after the tokens `base` [B] in one
        call; None if these heads cannot, then nothing has changed. Return tokens and confidences [B, D'], of fewer
        depths where no row reaches `theta` any more, by its token or by the `product` of all so far. Until the next
        `advance` there is no other draft."""
        return None

    @abstractmethod
    def train_depths(self, batch: TrainBatch) -> Iterator[Tensor]:
        """Yield the teacher-forced features [B, A, F] of depths 1, 2, ..., D. At index t depth d predicts x_{t+1+d}
        from entries up to t and, in families that condition on tokens, x_{t+1}..x_{t+d}."""


class OneStateHeads(HeadSet):
    """Base class of families that read only the trunk state of the last committed entry."""

    state_type: type[HeadState] = HeadState

    def start(
        self, rows: int, trunk: TrunkFace, depth: int | None = None, memory: Tensor | None = None,
        memory_lengths: Tensor | Sequence[int] | None = None, ahead: Ahead | None = None,
    ) -> HeadState:  # fmt: skip
        """Return a new state; `memory` is not read."""
        return self.state_type(trunk.embed, self.narrow(trunk), self.depth if depth is None else depth, ahead=ahead)

    def advance(
        self, state: HeadState, states: States, inputs: Tensor, positions: Tensor, keep: Tensor, count: Tensor,
        counts: Sequence[int] | None = None,
    ) -> None:  # fmt: skip
        """Keep the trunk state of each row's last committed entry; rows that committed nothing keep their old one."""
        last = keep.gather(1, (count - 1).clamp_min(0)[:, None])[:, 0]
        rows = torch.arange(len(last), device=last.device)
        taps = None if states.taps is None else states.taps[rows, last]
        hidden = self.fused(States(states.hidden[rows, last], taps))
        if state.hidden is not None:
            hidden = hidden.where((count > 0)[:, None], state.hidden)
        state.hidden, state.features = hidden, None


class IndependentHeads(OneStateHeads):
    """Base class of families whose depths read only one trunk state, and no tokens."""

    one_pass = True
    independent = True

    @abstractmethod
    def depth_features(self, hidden: Tensor, d: int) -> Tensor:
        """Return features [..., F] of depth d from fused trunk states [..., C]."""

    def all_features(self, state: HeadState) -> Tensor:
        """Return the features [B, D', F] of all depths, computed once per state."""
        if state.features is None:
            assert state.hidden is not None
            state.features = torch.stack(
                [self.depth_features(state.hidden, d) for d in range(1, state.depth + 1)], 1
            )  # fmt: skip
        return state.features

    def expand(self, state: HeadState, d: int, tokens: Tensor, parent: Tensor, given: Tensor | None = None) -> Tensor:
        """Return features [B, P, F] of level d, the same for every node."""
        return self.all_features(state)[:, d - 1 : d].expand(-1, tokens.shape[1], -1)

    def train_depths(self, batch: TrainBatch) -> Iterator[Tensor]:
        """Compute each depth separately from the trunk's states, so that its graph can be freed before the next."""
        for d in range(1, self.depth + 1):
            yield self.depth_features(batch.at_anchors(self.fused(batch.states)), d)
