"""Acceptance of whatever was drafted."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from speechmtp.decoding.rules.contract import ArgmaxRule
from speechmtp.types import Draft


@dataclass(frozen=True)
class KeepDraft(ArgmaxRule):
    """Keep every drafted token without verification: the drafter alone decides what to draft. Lossy."""

    name: ClassVar[str] = "keep-draft"

    def matches(self, choices: Tensor, draft: Draft) -> Tensor:
        """Whether each node is there (not absent): bool [B, P]."""
        return draft.tokens >= 0
