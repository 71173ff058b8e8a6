"""A strategy bound to a model: a drafter, a rule, a draft length and the heads that draft."""

from dataclasses import dataclass

from speechmtp.decoding.draft_length import DraftLength
from speechmtp.decoding.drafters.contract import Drafter
from speechmtp.decoding.rules.contract import AcceptanceRule
from speechmtp.errors import ConfigError
from speechmtp.heads.contract import HeadSet
from speechmtp.models.trunk import Trunk
from speechmtp.types import Request


@dataclass(frozen=True, eq=False)
class BoundStrategy:
    """A strategy with what it needs of a model. Rows that share one such object are drafted and judged together."""

    drafter: Drafter
    rule: AcceptanceRule
    heads: HeadSet | None = None
    length: DraftLength | None = None

    def check(self, trunk: Trunk, request: Request) -> None:
        """Raise ConfigError if heads are missing or not deep enough, if the request lacks what the drafter needs, or if
        the drafter refuses the request."""
        drafter, depth = self.drafter, getattr(self.drafter, "depth", None)
        if drafter.heads and self.heads is None:
            raise ConfigError("strategy: needs multi-token heads and the model has none; train some or choose another")
        if drafter.heads and self.heads is not None and depth is not None and depth > self.heads.depth:
            raise ConfigError(
                f"strategy: depth={depth}, expected at most {self.heads.depth}, the depth of the model's heads"
            )
        if drafter.source is not None and request.source(drafter.source) is None and not drafter.source_is_optional:
            name = drafter.source.name
            raise ConfigError(
                "strategy: needs a draft model; load one with draft_model=" if name == "model"
                else f"strategy: needs {name} tokens and the request has none; choose another"
            )  # fmt: skip
        drafter.check(trunk, self.heads if drafter.heads else None, request)
