"""Decoding scenes in float32, natively and by the models' own modules."""

from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import replace
from functools import cache
from typing import Any

import torch
from torch import nn

from speechmtp.heads.contract import HeadSet
from speechmtp.heads.native import use_native as draft_natively
from speechmtp.kernels.cpu.chain import NativeChain
from speechmtp.kernels.cpu.decoder import NativeDecoder
from speechmtp.models.bases.native import use_native
from speechmtp.models.draft_prompt import DraftPrompt
from speechmtp.models.trunk import Trunk
from speechmtp.types import Prompt, Request


def frozen(module: Any) -> Any:
    """A copy in float32 that is not trained."""
    copied: nn.Module = deepcopy(module).float().eval().requires_grad_(False)
    return copied


def prompt32(prompt: Prompt) -> Prompt:
    """The same prompt in float32."""
    memory = None if prompt.memory is None else prompt.memory.float()
    return replace(prompt, embeddings=prompt.embeddings.float(), memory=memory)


def request32(request: Request, draft: Trunk | None = None) -> Request:
    """The same request in float32, of which a draft model's prompt is for `draft`."""
    other = replace(request, prompt=prompt32(request.prompt))
    known = request.source(DraftPrompt)
    return other if known is None or draft is None else other.knowing(DraftPrompt(draft, prompt32(known.prompt)))


@cache
def _made(trunk: Trunk) -> NativeDecoder:
    use_native(trunk)
    made, trunk.native = trunk.native, None
    assert made is not None, trunk.native_problem
    return made


@cache
def _made_heads(heads: HeadSet, trunk: Trunk) -> NativeChain | None:
    draft_natively(heads, trunk)
    made, heads.native = heads.native, None
    return made


@contextmanager
def natively(trunks: list[Trunk], heads: list[HeadSet]) -> Iterator[None]:
    """Run these trunks and heads of the first one natively inside, where they can."""
    for trunk in trunks:
        trunk.native = _made(trunk)
    for one in heads:
        one.native = _made_heads(one, trunks[0])
    try:
        with torch.inference_mode():
            yield
    finally:
        for each in (*trunks, *heads):
            each.native = None
