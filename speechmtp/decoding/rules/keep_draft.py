"""Keeping whatever was drafted."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from speechmtp.decoding.rules.contract import ArgmaxRule
from speechmtp.types import Draft


@dataclass(frozen=True)
class KeepDraft(ArgmaxRule):
    """Keep every drafted token without looking: the drafter alone decides what to draft; lossy."""

    name: ClassVar[str] = "keep-draft"

    def matches(self, choices: Tensor, draft: Draft) -> Tensor:
        """All that is there."""
        return draft.tokens >= 0
