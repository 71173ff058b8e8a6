"""Run transformers' own `generate` on the trunk's weights, for the rows that `compare` puts beside ours.

Decoding loop, cache and candidates are transformers'; the only addition is a hook that counts calls. `generate` accepts
explicit positions beside embeddings and continues from the last one. Repeated positions are read as one sequence as
long as there is a cache, so an audio prompt needs no mask of ours. An encoder-decoder gets the same encoder outputs and
start tokens as in our decoding. End tokens, suppressed tokens and penalties are those of the model's own generation
settings, so that a difference from ours shows; only beams and sampling are off.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
import transformers
from torch import Tensor
from transformers import GenerationConfig, GenerationMixin, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput

from speechmtp.clock import clock
from speechmtp.errors import ConfigError, ShapeError
from speechmtp.models.lean_model import transformers_model
from speechmtp.models.quiet import quiet_transformers
from speechmtp.models.seq2seq import Seq2SeqTrunk
from speechmtp.models.trunk import Trunk
from speechmtp.types import Prompt, TokenRules, Trace

PEER_MODES = ("greedy", "prompt_lookup", "assistant")
LOOKUP_TOKENS = 10  # the value in transformers' documentation
# What makes `generate` greedy, one row at a time, with its usual cache and no drafts of its own choice.
_GREEDY: dict[str, Any] = {
    "do_sample": False, "num_beams": 1, "num_return_sequences": 1, "return_dict_in_generate": False, "use_cache": True,
    "cache_implementation": None, "prompt_lookup_num_tokens": None, "use_mtp": None, "assistant_early_exit": None,
}  # fmt: skip
_LOOKUP_SINCE = (5, 18)  # earlier versions give wrong tokens after a prompt of embeddings


@dataclass(frozen=True)
class PeerRun:
    """One decoded utterance: new tokens (an end token last, if one came), counts, and seconds inside `generate`.

    The trace's `calls` are the trunk's forward passes, including the prompt's; `draft_calls` are the assistant's.
    """

    tokens: list[int]
    trace: Trace
    seconds: float


@dataclass
class _Heard(BaseModelOutput):
    """Encoder outputs of one unpadded row; Moonshine reads `attention_mask`."""

    attention_mask: Tensor | None = None


def peer_modes(trunk: Trunk, embeddings: bool, assistant: Trunk | None = None) -> dict[str, str | None]:
    """Every mode with the reason why it cannot run, or None if it can. `embeddings` means that prompts are embeddings,
    not token ids."""
    reasons: dict[str, str | None] = dict.fromkeys(PEER_MODES)
    version = tuple(int(part) for part in transformers.__version__.split(".")[:2])
    if embeddings and version < _LOOKUP_SINCE:
        reasons["prompt_lookup"] = (
            f"transformers {transformers.__version__} gives wrong tokens behind a prompt of embeddings; "
            f"{'.'.join(map(str, _LOOKUP_SINCE))} and later do not"
        )
    if isinstance(trunk, Seq2SeqTrunk):
        reasons["assistant"] = (
            "transformers' assistant of an encoder-decoder is a smaller one with its own encoder, and none is given"
        )
    elif embeddings:
        reasons["assistant"] = "transformers gives an assistant token ids alone, and an audio prompt has none"
    elif assistant is None:
        reasons["assistant"] = "no assistant is given"
    elif assistant.vocab_size != trunk.vocab_size:
        reasons["assistant"] = f"the assistant has {assistant.vocab_size} tokens, expected {trunk.vocab_size}"
    return reasons


def run_peer(
    trunk: Trunk, mode: str, prompt: Prompt | Sequence[int], rules: TokenRules, limit: int,
    assistant: Trunk | None = None, memory: Tensor | None = None,
) -> PeerRun:  # fmt: skip
    """Decode one prompt greedily until an end token or `limit` tokens, with the settings of the model's
    `generation_config`; `rules` has the end tokens if it has none.

    `prompt` is one unpadded row or a list of token ids; for an encoder-decoder it is the list of decoder start tokens,
    with the encoder outputs as `memory` [1, S, E]. ConfigError for an unknown mode or one with a reason in
    `peer_modes`; ShapeError for a prompt that `generate` would read differently.
    """
    if mode not in PEER_MODES:
        raise ConfigError(f"peers: no mode {mode!r}, expected one of {', '.join(PEER_MODES)}")
    reason = peer_modes(trunk, isinstance(prompt, Prompt), assistant)[mode]
    if reason is not None:
        raise ConfigError(f"peers: {mode} cannot run: {reason}")
    inputs = _inputs(trunk, prompt, memory)
    model: Any = transformers_model(trunk.model)
    config = deepcopy(model.generation_config)
    config.update(**_GREEDY, max_new_tokens=limit)
    if config.eos_token_id is None:
        config.eos_token_id = list(rules.eos)
    ends = config.eos_token_id if isinstance(config.eos_token_id, list) else [config.eos_token_id]
    if config.pad_token_id is None:
        config.pad_token_id = ends[0]
    if isinstance(trunk, Seq2SeqTrunk):
        config.decoder_start_token_id = int(inputs["decoder_input_ids"][0, 0])
    if mode == "prompt_lookup":
        config.prompt_lookup_num_tokens = LOOKUP_TOKENS
    drafter = transformers_model(assistant.model) if assistant is not None and mode == "assistant" else None
    extra: Any = {} if drafter is None else {"assistant_model": drafter}
    with _plain(model), _calls(model) as calls, _calls(drafter) as drafts, torch.inference_mode():
        began = clock(model.device)
        # Whisper overrides `generate` to cut long recordings itself; the general one does not.
        out = GenerationMixin.generate(model, **inputs, generation_config=config, **extra)
        seconds = clock(model.device) - began
    size = prompt.embeddings.shape[1] if isinstance(prompt, Prompt) else len(prompt)
    tokens: list[int] = out[0].tolist()[0 if isinstance(prompt, Prompt) else size :]
    return PeerRun(tokens, _trace(tokens, ends, size, calls, len(drafts)), seconds)


def _inputs(trunk: Trunk, prompt: Prompt | Sequence[int], memory: Tensor | None) -> dict[str, Any]:
    """Arguments of `generate` for the prompt, with its positions and a mask of ones."""
    device = trunk.model.device
    if isinstance(trunk, Seq2SeqTrunk):
        if memory is None or len(memory) != 1 or isinstance(prompt, Prompt):
            raise ShapeError("peers: an encoder-decoder takes the ids that open its text beside a memory of one row")
        ids = torch.tensor([list(prompt)], dtype=torch.long, device=device)
        return {"encoder_outputs": _Heard(last_hidden_state=memory), "decoder_input_ids": ids}
    if not isinstance(prompt, Prompt):
        ids = torch.tensor([list(prompt)], dtype=torch.long, device=device)
        positions = torch.arange(ids.shape[1], device=device)[None]
        return {"input_ids": ids, "position_ids": positions, "attention_mask": torch.ones_like(positions)}
    size = prompt.embeddings.shape[1]
    if prompt.lengths.tolist() != [size]:
        raise ShapeError(f"peers: {size} entries for lengths {prompt.lengths.tolist()}, expected one row, unpadded")
    last, following = int(prompt.positions[0, -1]), int(prompt.next_position[0])
    if following != last + 1:
        raise ShapeError(
            f"peers: the text starts at position {following}, expected {last + 1}, where `generate` goes on"
        )
    return {"inputs_embeds": prompt.embeddings, "position_ids": prompt.positions,
            "attention_mask": torch.ones_like(prompt.positions)}  # fmt: skip


@contextmanager
def _plain(model: PreTrainedModel) -> Iterator[None]:
    """Replace the model's own generation settings, which fill in those that are None in a call, by defaults, and
    silence transformers."""
    own = model.generation_config
    model.generation_config = GenerationConfig()
    try:
        with quiet_transformers():
            yield
    finally:
        model.generation_config = own


@contextmanager
def _calls(model: PreTrainedModel | None) -> Iterator[list[Tensor | None]]:
    """Collect the token ids [1, Q] of every forward pass of a model (of an encoder-decoder: its decoder); None for
    embeddings."""
    found: list[Tensor | None] = []
    if model is None:
        yield found
        return
    name = "decoder_input_ids" if model.config.is_encoder_decoder else "input_ids"
    hook = model.register_forward_pre_hook(lambda _, __, given: found.append(given.get(name)), with_kwargs=True)
    try:
        yield found
    finally:
        hook.remove()


def _trace(tokens: list[int], eos: Sequence[int], size: int, calls: list[Tensor | None], drafts: int) -> Trace:
    """Counts from the token ids of each call: `size` prompt tokens or the last token, followed by the draft."""
    trace = Trace(len(calls), 1, drafts, emitted=len(tokens), finished=bool(tokens) and tokens[-1] in eos)
    start = 0
    for index, ids in enumerate(calls):
        known = 1 if index else size
        draft = [] if ids is None else ids[0, known:].tolist()
        right = [a == b for a, b in zip(draft, tokens[start:])]
        accepted = [*right, False].index(False)
        start += accepted + 1
        trace.fed += known + len(draft)
        trace.num_drafts += len(draft) > 0
        trace.num_draft_tokens += len(draft)
        trace.num_accepted_tokens += accepted
        trace.num_accepted_tokens_per_pos += [0] * (accepted - len(trace.num_accepted_tokens_per_pos))
        for position in range(accepted):
            trace.num_accepted_tokens_per_pos[position] += 1
    return trace
