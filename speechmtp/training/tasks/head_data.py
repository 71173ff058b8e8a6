"""What the training of heads asks of its data."""

from collections.abc import Sequence
from typing import Any, Protocol

from speechmtp.training.multi_token import Sequences


class HeadData(Protocol):
    """Batches for the phase that trains heads."""

    def batch(self, number: int) -> Any:
        """What batch `number` is made of, a pure function of the number."""

    def count(self, batch: Any) -> int:
        """Tokens of a batch that the trunk's own head is asked for."""

    def sequences(self, batch: Any) -> Sequences:
        """The batch with the trunk's embeddings as they are now."""

    def tokens(self) -> Sequence[Sequence[int]]:
        """Every target text, for a shortlist of what can be drafted."""
