"""The table of head families. A new family is its file and one line here."""

from typing import TYPE_CHECKING, Any, Union

from speechmtp.errors import ConfigError
from speechmtp.heads.block import BlockHeads, BlockHeadsConfig
from speechmtp.heads.chain import ChainHeads, ChainHeadsConfig
from speechmtp.heads.contract import FamilyConfig, HeadSet
from speechmtp.heads.hydra import HydraHeads, HydraHeadsConfig
from speechmtp.heads.joint import JointHeads, JointHeadsConfig
from speechmtp.heads.latent import LatentHeads, LatentHeadsConfig
from speechmtp.heads.layer import LayerHeads, LayerHeadsConfig
from speechmtp.heads.linear import LinearHeads, LinearHeadsConfig
from speechmtp.heads.residual import ResidualHeads, ResidualHeadsConfig
from speechmtp.heads.vocalnet import VocalnetHeads, VocalnetHeadsConfig
from speechmtp.models.shape import TrunkShape

FAMILIES: dict[type[FamilyConfig], type[HeadSet]] = {
    LatentHeadsConfig: LatentHeads,
    LinearHeadsConfig: LinearHeads,
    ChainHeadsConfig: ChainHeads,
    BlockHeadsConfig: BlockHeads,
    JointHeadsConfig: JointHeads,
    HydraHeadsConfig: HydraHeads,
    LayerHeadsConfig: LayerHeads,
    ResidualHeadsConfig: ResidualHeads,
    VocalnetHeadsConfig: VocalnetHeads,
}

# What a configuration file may name by `kind`: one of them. A type checker cannot read a union made of a table.
if TYPE_CHECKING:
    HeadsConfig = Any
else:
    HeadsConfig = Union[tuple(FAMILIES)]  # noqa: UP007


def build_heads(config: HeadsConfig, shape: TrunkShape) -> HeadSet:
    """Build the untrained head set that `config` selects; ConfigError for values that do not fit the trunk."""
    wrong = [t for t in config.taps if not 0 <= t <= shape.layers]
    if wrong:
        raise ConfigError(f"heads: taps has layer {wrong[0]}, expected 0 to {shape.layers}, the trunk's layers")
    if not 0 <= config.shortlist <= shape.vocab_size:
        raise ConfigError(f"heads: shortlist {config.shortlist}, expected 0 to {shape.vocab_size}, the vocabulary")
    make: Any = FAMILIES[type(config)]
    built: HeadSet = make(config, shape)
    return built
