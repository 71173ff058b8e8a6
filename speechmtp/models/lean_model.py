"""Models in plain PyTorch that compute what a class of transformers computes, without importing it."""

from abc import abstractmethod
from typing import Any

import torch
from torch import nn

from speechmtp.models.quiet import quiet_transformers
from speechmtp.models.storage import without_random_weights


class LeanModel(nn.Module):
    """A model with the names of transformers' weights, whose decoder takes a `MemoryCache`.

    `config`, `get_encoder`, `get_decoder` and the like are as transformers has them. Anything else that transformers'
    class has, such as `generate`, is that of the `twin`, transformers' own model on the same weights.
    """

    _supports_sdpa = True
    _keys_to_ignore_on_load_unexpected = None

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.config, self.generation_config = config, None
        self._twins: list[Any] = []  # a list, since it is no part of this module

    @abstractmethod
    def get_output_embeddings(self) -> nn.Linear:
        """Return the output layer."""

    @abstractmethod
    def new_twin(self) -> Any:
        """Return transformers' own model of these sizes, with undefined weights."""

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.get_output_embeddings().weight.device

    @property
    def dtype(self) -> torch.dtype:
        """Of the weights."""
        return self.get_output_embeddings().weight.dtype

    def set_attn_implementation(self, name: str) -> None:
        """Choose the form of attention, `sdpa` or `eager`."""
        self.config._attn_implementation = name

    def twin(self) -> Any:
        """Return transformers' own model on the same parameters, in the same mode and with the same settings.

        Changes of the weights count for both. Adapters that are not merged yet are not in the twin.
        """
        if not self._twins:
            with quiet_transformers(), without_random_weights():
                self._twins.append(self.new_twin())
        twin = self._twins[0]
        for name, parameter in self.named_parameters(remove_duplicate=False):
            place, _, last = name.replace(".base_layer.", ".").rpartition(".")
            if "lora_" not in name:
                twin.get_submodule(place)._parameters[last] = parameter
        twin.train(self.training)
        if twin.config._attn_implementation != self.config._attn_implementation:
            twin.set_attn_implementation(self.config._attn_implementation)
        if self.generation_config is not None:
            whole = getattr(self.generation_config, "whole", None)
            twin.generation_config = self.generation_config if whole is None else whole()
        return twin

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Return what transformers' model returns."""
        return self.twin()(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name.startswith("_"):
                raise
            return getattr(self.twin(), name)

    def __getstate__(self) -> dict[str, Any]:
        """Return the state without the twin, which a copy makes again when it needs one."""
        return self.__dict__ | {"_twins": []}


def transformers_model(model: Any) -> Any:
    """Return transformers' own model of what a trunk runs: its `twin`, or the model itself."""
    return model.twin() if isinstance(model, LeanModel) else model
