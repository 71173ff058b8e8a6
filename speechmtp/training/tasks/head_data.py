"""The interface of training data for heads."""

from collections.abc import Sequence
from typing import Any, Protocol

from speechmtp.training.multi_token import Sequences


class HeadData(Protocol):
    """Batches for the phase that trains heads."""

    def batch(self, number: int) -> Any:
        """The items of batch `number`, a pure function of the number."""

    def count(self, batch: Any) -> int:
        """Number of tokens of a batch that the trunk's own head predicts."""

    def sequences(self, batch: Any) -> Sequences:
        """The sequences of a batch, with the trunk's present embeddings."""

    def tokens(self) -> Sequence[Sequence[int]]:
        """The token ids of all target texts, from which a shortlist of draft tokens is built."""
