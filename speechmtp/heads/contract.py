"""What every family of multi-token heads offers (`docs/data_flow.md`): head d = 1..D predicts x_{t+1+d}.

The unembedding is handed in, not owned: a shared one must not be saved or trained twice.
"""

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from speechmtp.types import States

Unembed = Callable[[Tensor], Tensor]


@dataclass
class HeadState:
    """What one batch of rows carries between calls: the trunk state of the last committed entry [B, C]."""

    hidden: Tensor | None = None

    def select(self, rows: Tensor) -> None:
        """Keep these rows, in this order."""
        if self.hidden is not None:
            self.hidden = self.hidden[rows]


class HeadSet(nn.Module):
    """A family of heads of some depth D; `taps` are the trunk layers it reads besides the last state."""

    depth: int
    taps: tuple[int, ...] = ()
    one_pass: bool = False  # all depths are known from the trunk state alone

    @abstractmethod
    def start_from(self, unembedding: Tensor) -> None:
        """Begin training at the base head, whose unembedding is [V, C]."""

    @abstractmethod
    def start(self, rows: int, memory: Tensor | None = None, memory_lengths: Tensor | None = None) -> Any:
        """A fresh state for `rows` rows; `memory` is a cross-attention trunk's audio."""

    @abstractmethod
    def advance(
        self, state: Any, states: States, inputs: Tensor, positions: Tensor, keep: Tensor, count: Tensor
    ) -> None:
        """Take in a call's trunk states: entries `keep` [B, K] of it were committed, `count` [B] per row."""

    @abstractmethod
    def expand(self, state: Any, d: int, tokens: Tensor, parent: Tensor, given: Tensor | None = None) -> Tensor:
        """Features [B, P, C] of level d under the nodes of level d - 1 (level 0: the base token)."""

    @abstractmethod
    def logits(self, features: Tensor, d: int, unembed: Unembed) -> Tensor:
        """Logits [..., V] of level d from features [..., C]."""

    @abstractmethod
    def train_features(self, states: States, inputs: Tensor, ids: Tensor, positions: Tensor) -> Tensor:
        """Teacher-forced features [B, L, D, C] at every index; index t, depth d predicts x_{t+1+d}."""


class IndependentHeads(HeadSet):
    """Families whose depths read one trunk state alone."""

    one_pass = True

    def start(self, rows: int, memory: Tensor | None = None, memory_lengths: Tensor | None = None) -> HeadState:
        """A fresh state; audio memory is not read."""
        return HeadState()

    def advance(
        self, state: HeadState, states: States, inputs: Tensor, positions: Tensor, keep: Tensor, count: Tensor
    ) -> None:
        """Remember the state of each row's last committed entry (rows that committed nothing keep theirs)."""
        last = keep.gather(1, (count - 1).clamp_min(0)[:, None])
        hidden = states.hidden.gather(1, last[..., None].expand(-1, -1, states.hidden.shape[-1]))[:, 0]
        if state.hidden is not None:
            hidden = hidden.where((count > 0)[:, None], state.hidden)
        state.hidden = hidden

    @abstractmethod
    def all_features(self, hidden: Tensor) -> Tensor:
        """Features [..., D, C] of trunk states [..., C]."""

    @abstractmethod
    def all_logits(self, features: Tensor, unembed: Unembed) -> Tensor:
        """Logits [..., D, V] of features [..., D, C]."""

    def expand(self, state: HeadState, d: int, tokens: Tensor, parent: Tensor, given: Tensor | None = None) -> Tensor:
        """Features of level d, the same for every node."""
        assert state.hidden is not None
        return self.all_features(state.hidden)[:, d - 1 : d].expand(-1, tokens.shape[1], -1)

    def train_features(self, states: States, inputs: Tensor, ids: Tensor, positions: Tensor) -> Tensor:
        """Features of all depths at every index."""
        return self.all_features(states.hidden)
