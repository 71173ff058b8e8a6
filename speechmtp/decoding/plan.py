"""How a row is decoded: a drafter, a rule and a draft length, with the heads that draft; and how tokens are drawn."""

from dataclasses import dataclass, replace
from functools import lru_cache

import torch

from speechmtp.decoding.acceptance import AcceptanceRule
from speechmtp.decoding.draft_length import DraftLength
from speechmtp.decoding.drafters.contract import Drafter
from speechmtp.decoding.noise import Noise
from speechmtp.decoding.noise_ahead import NoiseAhead
from speechmtp.decoding.processors import Processors, SamplingConfig
from speechmtp.errors import ConfigError
from speechmtp.heads.contract import HeadSet
from speechmtp.models.trunk import Trunk
from speechmtp.types import Request


@dataclass(frozen=True, eq=False)
class Plan:
    """A strategy with what it needs of a model; rows of one plan are drafted and judged together."""

    drafter: Drafter
    rule: AcceptanceRule
    heads: HeadSet | None = None
    length: DraftLength | None = None

    def check(self, trunk: Trunk, request: Request) -> None:
        """ConfigError for a request that lacks what the drafter needs, or heads that cannot."""
        drafter, depth = self.drafter, getattr(self.drafter, "depth", None)
        if drafter.heads and self.heads is None:
            raise ConfigError("strategy: needs multi-token heads and the model has none; train some or choose another")
        if drafter.heads and self.heads is not None and depth is not None and depth > self.heads.depth:
            raise ConfigError(
                f"strategy: depth {depth}, expected at most {self.heads.depth}, the depth of the model's heads"
            )
        if drafter.source is not None and request.source(drafter.source) is None and not drafter.source_is_optional:
            name = drafter.source.name
            raise ConfigError(
                "strategy: needs a draft model; give one with --draft-model" if name == "model"
                else f"strategy: needs {name} tokens and the request has none; choose another"
            )  # fmt: skip
        drafter.check(trunk, self.heads if drafter.heads else None, request)


@dataclass(frozen=True, eq=False)
class Drawing:
    """How a row's tokens are drawn: processors and, unless the likeliest are taken, a seed of 64 bits; the noise is
    named by the request's `noise_key`."""

    processors: Processors | None = None
    seed: int | None = None

    @classmethod
    def of(cls, config: SamplingConfig) -> "Drawing":
        """What a configuration says; those that differ by their seed alone have one object of processors."""
        return cls(_processors(replace(config, seed=0)), config.seed if config.temperature > 0 else None)


@lru_cache(maxsize=64)
def _processors(config: SamplingConfig) -> Processors | None:
    return config.processors()


def noise_of(seeds: list[int], noise_keys: list[int], device: torch.device) -> Noise:
    """Noise of rows with these seeds and keys."""
    # A seed is 64 bits; torch's integers have a sign.
    signed = [(seed + 2**63) % 2**64 - 2**63 for seed in seeds]
    kind = NoiseAhead if device.type == "cpu" else Noise
    return kind(torch.tensor(signed, device=device), torch.tensor(noise_keys, device=device))
