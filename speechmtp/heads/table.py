"""The families of heads: one file and one line each."""

from speechmtp.errors import ConfigError
from speechmtp.heads.contract import HeadSet
from speechmtp.heads.latent import LatentHeads, LatentHeadsConfig
from speechmtp.heads.linear import LinearHeads, LinearHeadsConfig

HeadsConfig = LatentHeadsConfig | LinearHeadsConfig
FAMILIES = {LinearHeadsConfig: LinearHeads, LatentHeadsConfig: LatentHeads}


def build_heads(config: HeadsConfig, width: int, vocab_size: int) -> HeadSet:
    """The head set that a configuration names, at its starting point."""
    if config.depth < 0:
        raise ConfigError(f"heads: depth {config.depth}, expected 0 or more")
    return FAMILIES[type(config)](config, width, vocab_size)
