"""The ragged caches as transformers' own models take them: objects of transformers' cache classes."""

import weakref
from typing import Any

import torch
from transformers.cache_utils import Cache, CacheLayerMixin, DynamicCache, DynamicLayer, EncoderDecoderCache

from speechmtp.models.cache import RaggedCache, RaggedLayer
from speechmtp.models.memory_cache import MemoryCache


class HubLayer(RaggedLayer, CacheLayerMixin):
    """A layer of a `HubCache`."""

    def __init__(self, cache: RaggedCache) -> None:
        CacheLayerMixin.__init__(self)
        RaggedLayer.__init__(self, cache)


class HubCache(RaggedCache, Cache):
    """A ragged cache that is a cache of transformers."""

    layer_type = HubLayer

    def __init__(
        self, layers: int, rows: int, device: torch.device | str = "cpu", capacity: int = 128, slots: int = 0
    ) -> None:
        RaggedCache.__init__(self, layers, rows, device, capacity, slots)
        Cache.__init__(self, layers=self.layers)


class HubMemoryCache(MemoryCache, HubCache):
    """A ragged cache with cross-attention, whose `pair` is a cache of transformers."""

    def __init__(self, layers: int, device: torch.device | str, slots: int = 0) -> None:
        self._cross = DynamicCache()
        self._cross.layers = [DynamicLayer() for _ in range(layers)]
        super().__init__(layers, device, slots)
        self._pair = EncoderDecoderCache(weakref.proxy(self), self._cross)
        self._pair.is_updated = dict.fromkeys(range(layers), True)

    @property
    def pair(self) -> Any:
        """What the decoder takes as its cache."""
        return self._pair

    def focus(self, first: int, last: int) -> None:
        """Let the next calls run over the rows `first` to `last` - 1."""
        super().focus(first, last)
        layers: Any = self._cross.layers
        for layer, (keys, values) in zip(layers, self.cross):
            layer.keys, layer.values, layer.is_initialized = keys, values, True
