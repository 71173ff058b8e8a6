"""A loaded model with its heads, on a device: it decodes requests. What makes the requests stands above it."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch

from speechmtp.bundle import Bundle
from speechmtp.clock import clock
from speechmtp.decoding.engine import Limits, Recorded
from speechmtp.decoding.runner import Runner
from speechmtp.decoding.sampling import RowSampling, SamplingConfig
from speechmtp.decoding.strategies import Strategy, parse_strategy
from speechmtp.decoding.traces import flags_of
from speechmtp.devices import dtype_name
from speechmtp.errors import ConfigError
from speechmtp.heads.contract import HeadSet
from speechmtp.heads.native import use_native as draft_natively
from speechmtp.heap import keep_few_kernels
from speechmtp.kernels.cpu.packed_linear import pack
from speechmtp.models.bases.contract import SpeechModel
from speechmtp.models.bases.native import use_native
from speechmtp.types import CtcCharacters, CtcLabels, CtcSource, Request, Result, Trace

if hasattr(os, "register_at_fork"):
    # A fork has none of the threads that computed for its parent, and would wait for them for ever.
    os.register_at_fork(after_in_child=partial(torch.set_num_threads, 1))


@dataclass(repr=False)
class LoadedModel:
    """One model with its heads, on a device; immutable after loading, safe to share."""

    bundle: Bundle
    device: torch.device
    dtype: torch.dtype
    limits: Limits = field(default_factory=Limits)
    draft: SpeechModel | None = None
    int8_drafts: bool = False

    def __post_init__(self) -> None:
        keep_few_kernels()
        self.bundle.to(self.device, self.dtype)
        for heads in self.bundle.heads.values() if self.int8_drafts else ():
            heads.draft_in_int8(self.bundle.model.trunk)
        trunk = None if self.draft is None else self.draft.to(device=self.device, dtype=self.dtype).trunk
        self._use_kernels()  # before `pack`, so that no layer is timed that will not be called
        pack(self.bundle.model, self.draft, *self.bundle.heads.values())
        bundle, name = self.bundle, self.bundle.name or "MODEL"
        self.runner = Runner(bundle.model.trunk, bundle.heads, name, trunk, self.limits)

    def _use_kernels(self) -> None:
        """Let trunks and heads run natively where they can."""
        trunk = self.bundle.model.trunk
        for each in filter(None, (trunk, None if self.draft is None else self.draft.trunk)):
            use_native(each)
        for heads in self.bundle.heads.values():
            draft_natively(heads, trunk)

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restore a pickled model, which has no packed weights."""
        self.__dict__.update(state)
        self._use_kernels()

    def __repr__(self) -> str:
        """The model's name, device, dtype and head sets."""
        heads = f", heads {', '.join(self.bundle.heads)}" if self.bundle.heads else ""
        dtype = dtype_name(self.dtype)
        name = self.bundle.name or "unnamed"
        return f"{type(self).__name__}({name} on {self.device}, {dtype}{heads})"

    @property
    def rate(self) -> int:
        """Sampling rate in Hz of the audio that the model takes."""
        return self.bundle.model.rate

    @property
    def longest(self) -> float:
        """The most seconds of audio that the model encodes at a time."""
        return self.bundle.model.longest

    @property
    def has_ctc(self) -> bool:
        """Whether the model has a CTC head, of its own or a CTC draft head."""
        return self.bundle.model.own_ctc or self.bundle.ctc is not None

    @property
    def default_strategy(self) -> Strategy:
        """The strategy used where none is given: the one that the model's `config.yaml` names, if all that it needs is
        loaded; otherwise one chosen by the draft sources that are loaded (CTC head, heads)."""
        # A character CTC draft head is wrong more often than heads: its drafts cost more time than they save.
        both = "ctc-heads" if self.bundle.model.own_ctc else "verify"
        drafts = {(True, True): both, (True, False): "ctc", (False, True): "verify", (False, False): "ar"}
        has = {"ctc": self.has_ctc, "heads": bool(self.bundle.heads), "model": self.draft is not None}
        strategy = parse_strategy(drafts[has["ctc"], has["heads"]])
        if self.bundle.config.strategy:
            named = parse_strategy(self.bundle.config.strategy)
            if all(has.get(need, False) for need in named.needs):
                try:
                    return self.runner.prepared(named)
                except ConfigError:  # the loaded heads do not fit its options
                    pass
        return self.runner.prepared(strategy)

    @property
    def heads(self) -> HeadSet | None:
        """The model's default head set, if it has one."""
        return next(iter(self.bundle.heads.values()), None)

    def heads_named(self, name: str = "") -> HeadSet:
        """The head set of this name; the default one for the empty name. ConfigError if there is none."""
        return self.runner.heads_named(name)

    def decode(
        self, requests: Sequence[Request], strategy: Strategy | Sequence[Strategy],
        sampling: SamplingConfig | None = None, recorded: Recorded | None = None,
    ) -> list[Result]:  # fmt: skip
        """Decode a batch of requests, all rows by one strategy or each by its own.

        `seconds` of each result is the decoder time of the whole batch. Sampled tokens depend on each request's
        `noise_key`, not on the batch; without `sampling` they are drawn as the model's `config.yaml` says. `recorded`
        selects what traces record besides counts. ConfigError where the numbers of strategies and requests differ.
        """
        each = [strategy] * len(requests) if isinstance(strategy, Strategy) else list(strategy)
        if len(each) != len(requests):
            raise ConfigError(f"decode: {len(each)} strategies for {len(requests)} requests; give one, or one for each")
        spoken = [i for i, request in enumerate(requests) if not request.empty]
        began = clock(self.device)
        found: dict[int, tuple[list[int], Trace]] = {}
        for i in spoken:
            if each[i].drafter is None:
                labels, ends = self.labels(requests[i]), requests[i].rules.eos
                flags = flags_of([*labels, *ends[:1]], ends)
                found[i] = labels, Trace(emitted=len(labels), finished=True, flags=flags)
        rows = [i for i in spoken if i not in found]
        if rows:
            row_sampling = RowSampling.of(sampling or self.bundle.config.sampling or SamplingConfig())
            done = self.runner.run([requests[i] for i in rows], [each[i] for i in rows], row_sampling, recorded)
            found |= dict(zip(rows, zip(*done)))
        seconds = clock(self.device) - began
        nothing: tuple[list[int], Trace] = [], Trace(finished=True, flags=("empty",))
        outputs = [(one, *found.get(i, nothing)) for i, one in enumerate(requests)]
        text, audio = self.bundle.model.decode, self.audio
        return [Result(text(ids), tuple(ids), trace, seconds, audio(one, ids)) for one, ids, trace in outputs]

    def audio(self, request: Request, tokens: Sequence[int]) -> tuple[np.ndarray, int] | None:
        """Samples [N] and rate in Hz of speech tokens; None for a model without a codec."""
        codec = self.bundle.codec
        if codec is None:
            return None
        return codec.decode([token for token in tokens if token not in request.rules.eos]), codec.rate

    def labels(self, request: Request) -> list[int]:
        """Token ids of the CTC head's own transcript of a request; a ConfigError if the model has no CTC head."""
        source = request.source(CtcSource)
        said = None if source is None else source.read()
        if isinstance(said, CtcLabels):
            return list(said.labels)
        if isinstance(said, CtcCharacters):
            return self.bundle.model.encode(said.text.text)
        raise ConfigError("ctc-only: needs a CTC head and the model has none; choose another strategy")
