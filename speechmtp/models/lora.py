"""Low-rank adapters on a trunk (peft): put on, switched off for the distribution before training, merged in at the
end."""

import warnings
from contextlib import AbstractContextManager
from typing import Any

from speechmtp.errors import ConfigError
from speechmtp.models.trunk import Trunk

PROJECTIONS = ["q_proj", "k_proj", "v_proj", "o_proj"]


class Lora:
    """The adapters of one trunk; only they are trained."""

    def __init__(self, trunk: Trunk, rank: int, alpha: int) -> None:
        try:
            from peft import LoraConfig, get_peft_model
        except ImportError as error:
            raise ConfigError("trunk: lora needs peft; pip install 'speechmtp[train]'") from error
        names = {name.rpartition(".")[2] for name, _ in trunk.model.named_modules()}
        targets: Any = PROJECTIONS if set(PROJECTIONS) <= names else "all-linear"
        self._trunk = trunk
        with warnings.catch_warnings():  # peft asks transformers for names that are going away
            warnings.simplefilter("ignore", FutureWarning)
            self._wrapped: Any = get_peft_model(
                trunk.model, LoraConfig(r=rank, lora_alpha=alpha, target_modules=targets)
            )
        model: Any = self._wrapped.base_model.model
        trunk.model = model

    def off(self) -> AbstractContextManager[None]:
        """Inside, the trunk is what it was before."""
        context: AbstractContextManager[None] = self._wrapped.disable_adapter()
        return context

    def merge(self) -> None:
        """Put the adapters into the weights; the trunk is a plain one again."""
        self._trunk.model = self._wrapped.merge_and_unload()
