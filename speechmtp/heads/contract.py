"""What every family of multi-token heads offers (`docs/data_flow.md`): head d = 1..D predicts x_{t+1+d}.

Letters: B rows, L entries, A anchors, P nodes, C trunk width, F feature width of a family, D depth,
V tokens a head can draft (the vocabulary, or a shortlist of it).
The unembedding is handed in, not owned: a shared one must not be saved or trained twice.
"""

from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from speechmtp.heads.decoder_layer import norm_of
from speechmtp.kernels.cpu.int8_linear import Int8Linear, in_int8
from speechmtp.models.shape import TrunkShape
from speechmtp.types import States

Unembed = Callable[[Tensor], Tensor]


class TrunkFace(Protocol):
    """What heads see of a trunk."""

    @property
    def shape(self) -> TrunkShape:
        """Its sizes."""

    def embed(self, ids: Tensor) -> Tensor:
        """Embeddings [..., C] of token ids [...]."""

    def unembedding(self) -> nn.Linear:
        """The shared unembedding [V, C]."""

    def last_layer(self) -> Mapping[str, Tensor]:
        """Weights of the last layer under transformers' names, and `final_norm.weight`."""


@dataclass(frozen=True)
class FamilyConfig:
    """Options of every family; the families add their `kind` and their own.

    `taps` are trunk layers read besides the last state (0: embeddings; the last layer's number: the state before
    the final norm), `mix` says how: through one matrix, or as a learned weight a layer (the weighted hidden
    states of arXiv 2502.09419). `shortlist` is the number of tokens that can be drafted, 0 for all.
    """

    depth: int = 7
    taps: tuple[int, ...] = ()
    mix: Literal["linear", "weighted"] = "linear"
    shortlist: int = 0
    dropout: float = 0.0


@dataclass(frozen=True)
class TrainBatch:
    """A teacher-forced batch behind the trunk; entries are prompt and text in one row, padding at its end.

    `states` of the trunk; `inputs` [B, L, C] embeddings that the trunk consumed; `ids` [B, L], -1 where an entry
    is no token; `positions` [B, L]; `segments` [B, L] says which sample an entry belongs to, -1 is padding;
    `anchors` [B, A] are the indices asked for, None is every index.
    """

    states: States
    inputs: Tensor
    ids: Tensor
    positions: Tensor
    segments: Tensor
    embed: Callable[[Tensor], Tensor]
    unembed: Unembed  # over what the heads can draft (`HeadSet.narrow`)
    memory: Tensor | None = None
    memory_lengths: Tensor | None = None
    anchors: Tensor | None = None

    def at_anchors(self, values: Tensor) -> Tensor:
        """[B, A, ...] of values [B, L, ...]."""
        if self.anchors is None:
            return values
        rows = torch.arange(len(values), device=values.device)[:, None]
        return values[rows, self.anchors]

    def positions_behind(self, anchors: Tensor, count: int) -> Tensor:
        """Positions [B, A, count] of the entries behind each of `anchors` [B, A]; where the sample has ended, those of
        one step more each."""
        steps = torch.arange(1, count + 1, device=anchors.device)
        index = anchors[..., None] + steps
        inside = index.clamp(max=self.positions.shape[1] - 1)
        rows = torch.arange(len(anchors), device=anchors.device)[:, None, None]
        same = (inside == index) & (self.segments[rows, inside] == self.segments.gather(1, anchors)[..., None])
        return torch.where(same, self.positions[rows, inside], self.positions.gather(1, anchors)[..., None] + steps)

    def ahead(self, values: Tensor, steps: int) -> Tensor:
        """`values` [B, L, ...] moved so that index t holds what stood at t + steps; the last ones repeat."""
        index = (torch.arange(values.shape[1], device=values.device) + steps).clamp(0, values.shape[1] - 1)
        return values[:, index]


Ahead = Callable[[int], Tensor]  # n -> positions [B, n] of the entries behind each row's last committed one


@dataclass
class HeadState:
    """What a batch of rows carries between calls; families add to it. Rows leave (`select`), are put aside (`take`) and
    join between an `advance` and the next `expand`.

    `depth` is the deepest level that will be asked for; `ahead` says where the next tokens stand (None: one position
    further each).
    """

    embed: Callable[[Tensor], Tensor]
    unembed: Unembed
    depth: int
    hidden: Tensor | None = None  # fused trunk state [B, C] of the last committed entry
    features: Tensor | None = field(default=None, repr=False)  # [B, D, F] of one-pass families
    ahead: Ahead | None = field(default=None, repr=False)

    def select(self, rows: Tensor | Sequence[int]) -> None:
        """Keep these rows, in this order."""
        self.pick(torch.as_tensor(rows, dtype=torch.long))

    def take(self, rows: Sequence[int]) -> "HeadState":
        """A state of copies of these rows."""
        other = copy(self)
        other.pick(torch.as_tensor(rows, dtype=torch.long))
        return other

    def pick(self, rows: Tensor) -> None:
        """Keep these rows of all that is replaced, not written into."""
        self.hidden = picked(self.hidden, rows)
        self.features = None

    def join(self, other: Any) -> None:
        """Copies of all rows of another state of the same heads behind those that are there."""
        self.hidden = joined(self.hidden, other.hidden)
        self.features = None


def picked(values: Tensor | None, rows: Tensor) -> Tensor | None:
    """Rows [n, ...] of values [B, ...], where there are any."""
    return None if values is None else values[rows.to(values.device)]


def joined(first: Tensor | None, second: Tensor | None) -> Tensor | None:
    """Both one behind the other, where both are there."""
    return None if first is None or second is None else torch.cat([first, second])


class FeatureReader(nn.Module):
    """What heads take from the trunk: its last state plus, started at zero, what other layers add."""

    def __init__(self, config: FamilyConfig, shape: TrunkShape) -> None:
        super().__init__()
        self.count, self.mix = len(config.taps), config.mix
        self.dropout = nn.Dropout(config.dropout)
        if self.count:
            self.norms = nn.ModuleList(norm_of(shape) for _ in config.taps)
            size = shape.width * self.count if config.mix == "linear" else self.count
            self.weight = nn.Parameter(torch.zeros(shape.width, size) if config.mix == "linear" else torch.zeros(size))

    def forward(self, base: Tensor, taps: Tensor | None) -> Tensor:
        """[..., C] of the base state [..., C] and taps [..., n, C]."""
        if self.count:
            assert taps is not None
            read = [norm(taps[..., i, :]) for i, norm in enumerate(self.norms)]
            if self.mix == "linear":
                base = base + F.linear(torch.cat(read, -1), self.weight)
            else:
                base = base + (torch.stack(read, -2) * self.weight[:, None]).sum(-2)
        out: Tensor = self.dropout(base)
        return out


class HeadSet(nn.Module):
    """A family of heads of some depth D; `taps` are the trunk layers it reads besides the last state."""

    one_pass = False  # all depths are known from the trunk's states alone
    independent = False  # and no depth needs another's computation, so that training may go one by one
    reads_raw = False  # the base state is that before the final norm (the last of `taps`)
    revealed_count: Tensor | None = None  # [B, A] depths that the last `train_depths` was shown, not asked for

    def __init__(self, config: Any, shape: TrunkShape) -> None:
        super().__init__()
        self.config, self.shape = config, shape
        self.depth: int = config.depth
        self.taps: tuple[int, ...] = (*config.taps, *([shape.layers] if self.reads_raw else []))
        self.reads = FeatureReader(config, shape)
        self.vocab_size: int = config.shortlist or shape.vocab_size
        self.shortlist: Tensor | None
        self.register_buffer("shortlist", torch.arange(config.shortlist) if config.shortlist else None)
        self._narrow: Unembed | None = None  # where it is not made anew for every batch

    def draft_in_int8(self, trunk: TrunkFace) -> None:
        """From here on draft with 8-bit weights and inputs (`kernels/cpu/int8_linear.py`), on a CPU in float32: what is
        drafted changes a little, and with the other rows of a batch; what exact rules accept of it stays the trunk's.
        For decoding only."""
        in_int8(self)
        module, ids = trunk.unembedding(), slice(None) if self.shortlist is None else self.shortlist
        self._narrow = Int8Linear(module.weight[ids], None if module.bias is None else module.bias[ids])

    @property
    def drafts_in_int8(self) -> bool:
        """Whether `draft_in_int8` was called."""
        return self._narrow is not None

    def fused(self, states: States) -> Tensor:
        """What the family reads of trunk states: [..., C]."""
        taps = states.taps
        if self.reads_raw:
            assert taps is not None
            return self.reads(taps[..., -1, :], taps[..., :-1, :])
        return self.reads(states.hidden, taps)

    def narrow(self, trunk: TrunkFace, frozen: bool = False) -> Unembed:
        """The trunk's unembedding over the tokens that can be drafted; if `frozen`, its weights get no gradient."""
        if self._narrow is not None:
            return self._narrow
        module = trunk.unembedding()
        ids = self.shortlist
        if ids is None and not frozen:
            return module
        if torch.is_grad_enabled() and not frozen:
            return lambda hidden: F.linear(
                hidden, module.weight[ids], None if module.bias is None else module.bias[ids]
            )
        weight, bias = module.weight.detach(), None if module.bias is None else module.bias.detach()
        if ids is not None:
            weight, bias = weight[ids], None if bias is None else bias[ids]
        return lambda hidden: F.linear(hidden, weight, bias)

    def token_ids(self, index: Tensor) -> Tensor:
        """Token ids of indices into the logits."""
        return index if self.shortlist is None else self.shortlist[index]

    def places(self, tokens: Tensor) -> Tensor:
        """Indices into the logits of token ids; -1 where a token cannot be drafted, or there is none (negative)."""
        if self.shortlist is None:
            return tokens.clamp_min(-1)
        place = tokens.new_full((self.shape.vocab_size,), -1)
        place[self.shortlist] = torch.arange(len(self.shortlist), device=tokens.device)
        return place[tokens.clamp_min(0)].where(tokens >= 0, -1)

    def regulariser(self, batch: TrainBatch) -> Tensor | None:
        """A further loss a labelled anchor, if the family needs one."""
        return None

    @abstractmethod
    def start_from(self, trunk: TrunkFace) -> None:
        """Begin training at the base head: every depth says what the trunk itself says next."""

    @abstractmethod
    def start(
        self, rows: int, trunk: TrunkFace, depth: int | None = None, memory: Tensor | None = None,
        memory_lengths: Tensor | Sequence[int] | None = None, ahead: Ahead | None = None,
    ) -> Any:  # fmt: skip
        """A fresh state for `rows` rows and drafts of at most `depth` tokens (None: all depths); `memory`
        [B, S, E] is a cross-attention trunk's audio, `ahead` gives the positions to come."""

    @abstractmethod
    def advance(
        self, state: Any, states: States, inputs: Tensor, positions: Tensor, keep: Tensor, count: Tensor,
        counts: Sequence[int] | None = None,
    ) -> None:  # fmt: skip
        """Take in a call's trunk states: entries `keep` [B, K] of it were committed, `count` [B] per row.

        `inputs` [B, Q, C] are the embeddings that the trunk consumed, `positions` [B, Q] their positions; `counts` are
        the numbers of `count`, where the host has them already.
        """

    @abstractmethod
    def expand(self, state: Any, d: int, tokens: Tensor, parent: Tensor, given: Tensor | None = None) -> Tensor:
        """Features [B, P, F] of level d under the nodes `tokens` [B, P] of level d - 1 (level 0: the base token).

        `parent` [B, P] are indices into the nodes of level d - 2. Levels are asked for in order from 1; what is
        written is provisional until the next `advance`. `given` [B, R] are revealed tokens behind the anchor.
        """

    @abstractmethod
    def logits(self, features: Tensor, d: int, unembed: Unembed) -> Tensor:
        """Logits [..., V] of level d from features [..., F]; `unembed` is that of `narrow`."""

    def all_logits(self, features: Tensor, unembed: Unembed) -> Tensor:
        """Logits [..., D', V] of features [..., D', F] of levels 1..D'."""
        return torch.stack([self.logits(features[..., i, :], i + 1, unembed) for i in range(features.shape[-2])], -2)

    def all_features(self, state: Any) -> Tensor:
        """Features [B, D', F] of levels 1..D' = `state.depth` of a one-pass family."""
        raise NotImplementedError

    @abstractmethod
    def train_depths(self, batch: TrainBatch) -> Iterator[Tensor]:
        """Teacher-forced features [B, A, F] of depth 1, 2, ..., D, one after another; at index t depth d predicts
        x_{t+1+d} knowing entries up to t and, in families that condition on tokens, x_{t+1}..x_{t+d}."""


class OneStateHeads(HeadSet):
    """Families that read one trunk state, that of the last committed entry, and no other entry."""

    state_type: type[HeadState] = HeadState

    def start(
        self, rows: int, trunk: TrunkFace, depth: int | None = None, memory: Tensor | None = None,
        memory_lengths: Tensor | Sequence[int] | None = None, ahead: Ahead | None = None,
    ) -> HeadState:  # fmt: skip
        """A fresh state; audio memory is not read."""
        return self.state_type(trunk.embed, self.narrow(trunk), self.depth if depth is None else depth, ahead=ahead)

    def advance(
        self, state: HeadState, states: States, inputs: Tensor, positions: Tensor, keep: Tensor, count: Tensor,
        counts: Sequence[int] | None = None,
    ) -> None:  # fmt: skip
        """Remember the state of each row's last committed entry (rows that committed nothing keep theirs)."""
        last = keep.gather(1, (count - 1).clamp_min(0)[:, None])[:, 0]
        rows = torch.arange(len(last), device=last.device)
        taps = None if states.taps is None else states.taps[rows, last]
        hidden = self.fused(States(states.hidden[rows, last], taps))
        if state.hidden is not None:
            hidden = hidden.where((count > 0)[:, None], state.hidden)
        state.hidden, state.features = hidden, None


class IndependentHeads(OneStateHeads):
    """Families whose depths read one trunk state alone, and no token either."""

    one_pass = True
    independent = True

    @abstractmethod
    def depth_features(self, hidden: Tensor, d: int) -> Tensor:
        """Features [..., F] of depth d from fused trunk states [..., C]."""

    def all_features(self, state: HeadState) -> Tensor:
        """Features of all depths of the state."""
        if state.features is None:
            assert state.hidden is not None
            state.features = torch.stack(
                [self.depth_features(state.hidden, d) for d in range(1, state.depth + 1)], 1
            )  # fmt: skip
        return state.features

    def expand(self, state: HeadState, d: int, tokens: Tensor, parent: Tensor, given: Tensor | None = None) -> Tensor:
        """Features of level d, the same for every node."""
        return self.all_features(state)[:, d - 1 : d].expand(-1, tokens.shape[1], -1)

    def train_depths(self, batch: TrainBatch) -> Iterator[Tensor]:
        """Each depth by itself, from the trunk's states on: its graph can be freed before the next is built."""
        for d in range(1, self.depth + 1):
            yield self.depth_features(batch.at_anchors(self.fused(batch.states)), d)
