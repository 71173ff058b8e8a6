"""The joint ratio of multi-token assisted decoding."""

import math
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from torch import Tensor

from speechmtp.config import Range
from speechmtp.decoding.rules.chances import along, log_chance
from speechmtp.decoding.rules.contract import AcceptanceRule, probs_of
from speechmtp.decoding.state import Draws
from speechmtp.errors import ConfigError
from speechmtp.types import Draft


@dataclass(frozen=True)
class JointRatio(AcceptanceRule):
    """Multi-token assisted decoding (Qin et al., arXiv 2407.09722): the longest prefix stays whose probability under
    the trunk is more than `tau` times that under the drafter, even if a shorter one fails. In a tree all prefixes of
    one depth are compared with the drafter's most probable one of that depth, and of the longest that pass, the trunk's
    most probable one wins. ConfigError for a draft without probabilities."""

    name: ClassVar[str] = "joint-ratio"
    needs_probabilities: ClassVar[bool] = True
    tau: Annotated[float, Range(0, above=True)] = 0.5
    draws: ClassVar[Draws] = "own"

    def distributions(self, target: Tensor, draft: Draft) -> tuple[Tensor, Tensor]:
        """One-hot `stop`; `follow` is the trunk's distribution."""
        stop = torch.zeros(target.shape[:2], dtype=torch.float64, device=target.device)
        if not draft.tokens.shape[1]:
            return stop + 1, probs_of(target)
        if draft.confidence is None:
            raise ConfigError(
                "joint-ratio: a drafter without probabilities, expected one with; use one of heads or of a draft model"
            )
        here, depth = draft.tokens >= 0, draft.depth
        ours = along(log_chance(target, draft), draft)
        theirs = along(draft.confidence.to(ours.dtype).log(), draft)
        if not draft.chain:
            level = (depth[:, :, None] == depth[:, None, :]) & here[:, None, :]
            theirs = torch.where(level, theirs[:, None], -math.inf).amax(-1)
        passed = here & (ours - theirs > math.log(self.tau))
        reached = torch.where(passed, depth + 1, 0)
        deepest = passed & (reached == reached.amax(1, keepdim=True))
        best = torch.where(deepest, ours, -math.inf).argmax(1)
        last = torch.where(deepest.any(1), best + 1, 0)
        return stop.scatter_(1, last[:, None], 1.0), probs_of(target)
