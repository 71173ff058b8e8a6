"""Low-rank adapters on a transformers model (LoRA, arXiv 2106.09685, by peft): added, trained, finally merged."""

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
    """The adapters of one model, which is changed in place; only the adapters are trained.

    `targets` are the linear modules that get an adapter, by the ends of their names. The default is the attention's
    projections, or every linear module except the output layer if the model names the projections otherwise. An adapter
    adds `alpha / rank` times `up` @ `down` to a weight [O, I]: `down` [rank, I] starts with peft's random values, `up`
    [O, rank] with zeros. ConfigError if peft is not installed.
    """

    def __init__(self, model: "PreTrainedModel", rank: int, alpha: int, targets: Sequence[str] = ()) -> None:
        try:
            from peft import LoraConfig, get_peft_model
        except ImportError as error:
            raise ConfigError("lora: needs peft; pip install 'speechmtp[train]'") from error
        names = {name.rpartition(".")[2] for name, _ in model.named_modules()}
        default: Any = list(PROJECTIONS) if set(PROJECTIONS) <= names else "all-linear"
        config = LoraConfig(r=rank, lora_alpha=alpha, target_modules=list(targets) or default)
        with warnings.catch_warnings():  # peft uses deprecated names of transformers
            warnings.simplefilter("ignore", FutureWarning)
            self._wrapped: Any = get_peft_model(model, config)

    def adapters(self) -> nn.ModuleList:
        """Return the matrices `down` and `up` of every adapter, in the model's order; they are the same parameters."""
        found = nn.ModuleList()
        for part in self._wrapped.modules():
            if hasattr(part, "lora_A"):
                name = part.active_adapters[0]
                found.append(nn.ParameterDict({"down": part.lora_A[name].weight, "up": part.lora_B[name].weight}))
        return found

    def draw_normal(self, seed: int) -> None:
        """Sample every `down` again, in the model's order, from a normal distribution of deviation I ** -0.5."""
        generators: dict[torch.device, torch.Generator] = {}
        for adapter in self.adapters():
            down = adapter["down"]  # type: ignore[index]
            generator = generators.setdefault(down.device, torch.Generator(down.device).manual_seed(seed))
            nn.init.normal_(down, std=down.shape[1] ** -0.5, generator=generator)

    def off(self) -> AbstractContextManager[None]:
        """Return a context in which the model computes without the adapters."""
        context: AbstractContextManager[None] = self._wrapped.disable_adapter()
        return context

    def merge(self) -> None:
        """Add the adapters to the weights and remove them; the model is a plain one again."""
        self._wrapped.merge_and_unload()
