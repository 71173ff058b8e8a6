"""Whether a trunk computes what its model computes, found out on a few tokens before the trunk is used.

Classes of transformers may scale or cap logits behind the unembedding, read token ids in their layers, count positions
themselves, keep states that cannot be rolled back, or see what follows. What a trunk cannot do exactly is refused.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor

from speechmtp.ancestors import ancestors_of
from speechmtp.errors import ConfigError

if TYPE_CHECKING:
    from speechmtp.models.trunk import Trunk

# Largest difference of logits, relative to the largest logit. Half precision only tells apart what is quite different.
_TOLERANCE = {torch.float64: 1e-5, torch.float32: 1e-3}
_COARSE = 0.1
_ENTRIES = 4  # tokens of each of the two texts that are tried


@dataclass(frozen=True)
class Tail:
    """What a model does with the logits x of its unembedding: `scale` x, then, with a `cap`, cap tanh(x / cap)."""

    scale: float = 1.0
    cap: float | None = None

    def __call__(self, logits: Tensor) -> Tensor:
        """Return the model's logits [..., V] of the unembedding's."""
        if self.scale != 1:
            logits = logits * self.scale
        return logits if self.cap is None else self.cap * torch.tanh(logits / self.cap)

    def behind(self, unembed: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
        """Return `unembed` with this tail."""
        return unembed if self == Tail() else lambda hidden: self(unembed(hidden))


@torch.no_grad()
def tail_of(trunk: "Trunk") -> Tail:
    """Return the tail of a trunk's model; ConfigError if with none that its configuration names the trunk's logits are
    those of the model's own forward.

    Two texts run through the model's own forward, and through the trunk as decoding does: rows of different lengths,
    with a drafted token beside the right one.
    """
    name, attention = type(trunk.model).__name__, trunk.model.config._attn_implementation
    modes = [(module, module.training) for module in trunk.model.modules()]
    try:
        trunk.model.eval()
        own = _tried(name, "does not run on two short texts", lambda: _own(trunk))
        trunk.attend("decoding")
        hidden = _tried(name, "cannot be run on embeddings and a cache of ours", lambda: _stepwise(trunk))
    finally:
        for module, mode in modes:
            module.training = mode
        if trunk.model.config._attn_implementation != attention:
            trunk.model.set_attn_implementation(attention)
    if own.logits.shape != (2, _ENTRIES, trunk.vocab_size):
        raise ConfigError(
            f"trunk: {name}'s forward gives logits {tuple(own.logits.shape)} for 2 texts of {_ENTRIES} tokens, "
            f"expected {(2, _ENTRIES, trunk.vocab_size)}"
        )
    tail = _matching(trunk, own, trunk.model.get_output_embeddings()(hidden))
    _tried(name, "has sizes that heads cannot take", lambda: trunk.shape)
    return tail


T = TypeVar("T")


def _tried(name: str, what: str, call: Callable[[], T]) -> T:
    """Return what a call returns; ConfigError for any error, which may come from anywhere in transformers."""
    try:
        return call()
    except Exception as error:
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        raise ConfigError(f"trunk: {name} {what} ({reason})") from error


@dataclass(frozen=True)
class _Own:
    """Logits [2, L, V] of a model's own forward. At each text's last token the unembedding's output was replaced by
    `ramp` [V], so that these logits show what is done to it."""

    logits: Tensor
    ramp: Tensor


def _tokens(trunk: "Trunk") -> Tensor:
    """Return two texts [2, L] of ordinary tokens."""
    # Special tokens stand for padding, images or audio.
    settings = {**trunk.model.config.to_dict(), **trunk.model.config.get_text_config().to_dict()}
    special = {
        one
        for key, value in settings.items()
        if "token_i" in key  # token_id, token_ids, token_index
        for one in (value if isinstance(value, list) else [value])
    }
    plain = [token for token in range(min(trunk.vocab_size, 4096)) if token not in special]
    size = 2 * _ENTRIES
    chosen = [plain[i * len(plain) // size % len(plain)] for i in range(size)]
    return torch.tensor(chosen, device=trunk.model.device).view(2, _ENTRIES)


def _own(trunk: "Trunk") -> _Own:
    ramps: list[Tensor] = []

    def replaced(module: Any, inputs: Any, output: Tensor) -> Tensor:
        ramps.append(torch.linspace(-100, 100, output.shape[-1], dtype=output.dtype, device=output.device))
        return torch.cat([output[:, :-1], ramps[0].expand_as(output[:, -1:])], 1)

    hook = trunk.unembedding().register_forward_hook(replaced)
    try:
        logits: Tensor = trunk.model(input_ids=_tokens(trunk), use_cache=False).logits
    finally:
        hook.remove()
    if len(ramps) != 1:
        raise ValueError("its forward does not call its output embeddings once")
    return _Own(logits, ramps[0])


def _stepwise(trunk: "Trunk") -> Tensor:
    """Return the trunk's states [2, L - 1, C] behind the same tokens, from a prompt and a call with drafts."""
    ids, cache = _tokens(trunk), trunk.new_cache(2)
    positions = torch.arange(2, device=ids.device).expand(2, -1)
    prompt = trunk.extend(trunk.embed(ids[:, :2]), positions, None, cache).hidden
    cache.commit([2, 1])
    # Behind 2 and 1 tokens: a wrong one, and two right ones beside it.
    second = torch.stack([ids[0, [0, 2, 3]], ids[1, [0, 1, 2]]])
    places = torch.tensor([[2, 2, 3], [1, 1, 2]], device=ids.device)
    ancestors = ancestors_of(torch.tensor([[-1, -1, 1]] * 2, device=ids.device))
    drafted = trunk.extend(trunk.embed(second), places, ancestors, cache).hidden
    return torch.stack([torch.cat([prompt[0], drafted[0, 1:2]]), torch.cat([prompt[1, :1], drafted[1, 1:]])])


def _matching(trunk: "Trunk", own: _Own, raw: Tensor) -> Tail:
    """Return the tail with which the unembedding's logits `raw` [2, L - 1, V] of the trunk are the model's own."""
    scales, caps = _named(trunk)
    for scale, cap in product(scales, caps):
        behind = Tail(scale, cap)
        if not _close(behind(own.ramp), own.logits[:, -1]):
            continue
        for before in scales:  # on the states, in front of the unembedding
            whole = Tail(before * scale, cap)
            if _close(whole(raw), own.logits[:, :-1]):
                return whole
    name, apart = type(trunk.model).__name__, _apart(raw, own.logits[:, :-1])
    if not bool(own.logits.isfinite().all()):
        raise ConfigError(f"trunk: {name} gives logits that are not finite; its weights are damaged")
    raise ConfigError(
        f"trunk: {name}'s own forward gives other logits than its decoder, run on embeddings, mask and positions, "
        f"and its output layer (they differ by {apart:.2g} of the largest); what else it does is not supported"
    )


def _named(trunk: "Trunk") -> tuple[list[float], list[float | None]]:
    """Return scales and caps that the configuration names, first those that change nothing."""
    config: Any = trunk.model.config.get_text_config()

    def given(*names: str) -> Iterator[float]:
        found = (getattr(config, name, None) for name in names)
        return (float(one) for one in found if isinstance(one, (int, float)) and one)

    scales = [1.0, *(one for value in given("logits_scaling", "logit_scale") for one in (value, 1 / value))]
    return list(dict.fromkeys(scales)), [None, *given("final_logit_softcapping")]


def _apart(one: Tensor, other: Tensor) -> float:
    """Return the largest difference relative to the largest number of `other`."""
    return float((one - other).abs().max() / other.abs().max())


def _close(one: Tensor, other: Tensor) -> bool:
    return _apart(one, other) <= _TOLERANCE.get(other.dtype, _COARSE)
