"""Low-rank adapters on a transformers model (LoRA, arXiv 2106.09685, by peft): added, trained, merged in the end."""

import warnings
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from speechmtp.errors import ConfigError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj")


class Lora:
    """The adapters of one model, which is changed in place; only they are trained.

    `targets` are the linear modules that get an adapter, by the ends of their names; by default the attention's
    projections, and every linear module but the output layer where the model names them otherwise. An adapter adds
    `alpha / rank` times a product of two thin matrices to a weight [O, I]: `down` [rank, I], at first as peft draws it,
    and `up` [O, rank], at first zero. ConfigError where peft is not installed.
    """

    def __init__(self, model: "PreTrainedModel", rank: int, alpha: int, targets: Sequence[str] = ()) -> None:
        try:
            from peft import LoraConfig, get_peft_model
        except ImportError as error:
            raise ConfigError("lora: needs peft; pip install 'speechmtp[train]'") from error
        names = {name.rpartition(".")[2] for name, _ in model.named_modules()}
        default: Any = list(PROJECTIONS) if set(PROJECTIONS) <= names else "all-linear"
        config = LoraConfig(r=rank, lora_alpha=alpha, target_modules=list(targets) or default)
        with warnings.catch_warnings():  # peft asks transformers for names that are going away
            warnings.simplefilter("ignore", FutureWarning)
            self._wrapped: Any = get_peft_model(model, config)

    def adapters(self) -> nn.ModuleList:
        """The trained matrices `down` and `up` of every adapter, in the model's order; the parameters are shared."""
        found = nn.ModuleList()
        for part in self._wrapped.modules():
            if hasattr(part, "lora_A"):
                name = part.active_adapters[0]
                found.append(nn.ParameterDict({"down": part.lora_A[name].weight, "up": part.lora_B[name].weight}))
        return found

    def draw_normal(self, seed: int) -> None:
        """Draw `down` anew, in the model's order, from a normal distribution of standard deviation I ** -0.5."""
        generators: dict[torch.device, torch.Generator] = {}
        for adapter in self.adapters():
            down = adapter["down"]  # type: ignore[index]
            generator = generators.setdefault(down.device, torch.Generator(down.device).manual_seed(seed))
            nn.init.normal_(down, std=down.shape[1] ** -0.5, generator=generator)

    def off(self) -> AbstractContextManager[None]:
        """Inside this context the model is what it was before the adapters."""
        context: AbstractContextManager[None] = self._wrapped.disable_adapter()
        return context

    def merge(self) -> None:
        """Put the adapters into the weights; the model is a plain one again."""
        self._wrapped.merge_and_unload()
