"""What a comparison decodes: utterances of a speech LLM, or openings of texts that a text LM goes on with."""

import argparse
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from speechmtp.api import DTYPES, Recogniser
from speechmtp.bundle import load_bundle, load_draft_model, reads_text
from speechmtp.cli.options import (
    MAX_NEW_TOKENS,
    PROMPT_TOKENS,
    check_data,
    listen_all,
    noise_key_of,
    open_recogniser,
    prepare_run,
)
from speechmtp.data.kaldi import read_data_dir
from speechmtp.decoding.engine import Recorded
from speechmtp.decoding.runner import Runner
from speechmtp.decoding.sampling import Drawing, SamplingConfig
from speechmtp.decoding.strategies import Strategy
from speechmtp.errors import ConfigError
from speechmtp.evaluation.held_out import long_texts
from speechmtp.evaluation.peers import run_peer
from speechmtp.models.trunk import Trunk
from speechmtp.scoring.report import wer_interval
from speechmtp.scoring.wer import score
from speechmtp.text.normalize import get_normalizer
from speechmtp.types import Reference, Request, Result, Trace


@dataclass
class Subject:
    """Named requests and how their outputs are judged; the same for every strategy and batch size."""

    runner: Runner
    requests: Mapping[str, Request]
    text: Callable[[Sequence[int]], str]
    device: torch.device
    dtype: torch.dtype
    listen_seconds: float = 0.0  # spent on all prompts together
    audio_seconds: float = 0.0
    assistant: Trunk | None = None
    embedded: bool = False  # prompts are entries rather than token ids

    @property
    def names(self) -> list[str]:
        """Every request, sorted."""
        return sorted(self.requests)

    def asked(self, names: Sequence[str], references: Mapping[str, Result] | None) -> list[Request]:
        """Some requests, with the tokens that plain decoding says where they are known."""
        found = [self.requests[n] for n in names]
        if references is None:
            return found
        return [request.knowing(Reference(references[n].tokens)) for n, request in zip(names, found)]

    def judge(self, results: Mapping[str, Result], seed: int) -> dict[str, Any]:
        """Figures of the outputs besides counts and times."""
        return {"wer": None, "wer_low": None, "wer_high": None, "cer": None, "normalizer": None, "words": None}

    def decode(
        self, names: Sequence[str], strategy: Strategy, references: Mapping[str, Result] | None = None,
        sampling: SamplingConfig | None = None, recorded: Recorded | None = None,
    ) -> list[Result]:  # fmt: skip
        """Results of some requests in one batch; `seconds` of each is the batch's."""
        raise NotImplementedError


class SpeechSubject(Subject):
    """Utterances that a recogniser has heard, with their transcripts."""

    def __init__(
        self, recogniser: Recogniser, requests: Mapping[str, Request], seconds: float, transcripts: Mapping[str, str]
    ) -> None:
        self.recogniser, self.transcripts = recogniser, transcripts
        model = recogniser.bundle.model
        super().__init__(
            recogniser.runner, requests, model.decode, recogniser.device, recogniser.dtype, seconds,
            sum(request.audio_seconds for request in requests.values()),
            embedded=model.input_kind in ("features", "prompts"),
        )  # fmt: skip

    def judge(self, results: Mapping[str, Result], seed: int) -> dict[str, Any]:
        """Error rates with the interval of the word error rate."""
        name = self.recogniser.bundle.normalizer
        report = score(self.transcripts, {n: r.text for n, r in results.items()}, get_normalizer(name))
        interval = wer_interval(report, seed)
        return {"wer": report.wer, "wer_low": interval.low, "wer_high": interval.high, "cer": report.cer,
                "normalizer": name, "words": report.counts.ref_words}  # fmt: skip

    def decode(
        self, names: Sequence[str], strategy: Strategy, references: Mapping[str, Result] | None = None,
        sampling: SamplingConfig | None = None, recorded: Recorded | None = None,
    ) -> list[Result]:  # fmt: skip
        """By the recogniser."""
        return self.recogniser.decode(self.asked(names, references), strategy, sampling, recorded)


class TextSubject(Subject):
    """Openings of texts."""

    def decode(
        self, names: Sequence[str], strategy: Strategy, references: Mapping[str, Result] | None = None,
        sampling: SamplingConfig | None = None, recorded: Recorded | None = None,
    ) -> list[Result]:  # fmt: skip
        """By the runner alone."""
        requests = self.asked(names, references)
        began = time.perf_counter()
        done = self.runner.run(requests, [strategy] * len(requests), Drawing.of(sampling or SamplingConfig()), recorded)
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        seconds = time.perf_counter() - began
        return [Result(self.text(tokens), tuple(tokens), trace, seconds) for tokens, trace in zip(*done)]


def peer_result(subject: Subject, name: str, mode: str) -> Result:
    """One request by transformers' own `generate`."""
    request = subject.requests[name]
    if request.empty:
        return Result("", (), Trace(finished=True, flags=("empty",)))
    prompt = request.prompt if subject.embedded else request.start_tokens or request.ids
    assert request.limit is not None
    run = run_peer(
        subject.runner.trunk, mode, prompt, request.rules, request.limit, subject.assistant, request.prompt.memory
    )  # fmt: skip
    return Result(subject.text(run.tokens), tuple(run.tokens), run.trace, run.seconds)


def open_subject(args: argparse.Namespace, check: Callable[[Runner, bool], Any]) -> tuple[Subject, Any]:
    """What the command line names: a speech model and a data directory, or a text LM's folder and a text file.
    `check` gets the runner, and whether there is a CTC head, before anything is heard; its answer comes back too."""
    text = reads_text(args.model)
    check_data(args.model, [args.data_dir], text)
    if text:
        return _open_text(args, check)
    if args.prompt_tokens is not None or args.max_new_tokens is not None:
        raise ConfigError("--prompt-tokens, --max-new-tokens: for text LMs, and this is a speech model; leave them out")
    recogniser = open_recogniser(args)
    checked = check(recogniser.runner, recogniser.has_ctc)
    data = read_data_dir(args.data_dir, args.root, allow_pipes=args.allow_pipes)
    language, task = (getattr(args, name, "") for name in ("language", "task"))
    requests, seconds = listen_all(recogniser, data, args.allow_pipes, language=language, task=task)
    return SpeechSubject(recogniser, requests, seconds, data.transcripts()), checked


def _open_text(args: argparse.Namespace, check: Callable[[Runner, bool], Any]) -> tuple[TextSubject, Any]:
    """The subject of a text LM's folder and a text file, a text a line, and what `check` answers."""
    prompt_tokens, most = (
        default if n is None else n
        for n, default in ((args.prompt_tokens, PROMPT_TOKENS), (args.max_new_tokens, MAX_NEW_TOKENS))
    )
    if min(prompt_tokens, most) < 1:
        raise ConfigError(f"--prompt-tokens {prompt_tokens}, --max-new-tokens {most}: expected 1 or more")
    if args.dtype not in DTYPES:
        raise ConfigError(f"--dtype {args.dtype}: expected one of {', '.join(DTYPES)}")
    prepare_run(args)
    bundle = load_bundle(args.model, args.allow_stale_heads, args.heads)
    bundle.model.no_choice(getattr(args, "language", ""), getattr(args, "task", ""))
    bundle.to(torch.device(args.device), DTYPES[args.dtype])
    lm, draft = bundle.text_model, load_draft_model(args.draft_model, bundle) if args.draft_model else None
    runner = Runner(lm.trunk, bundle.heads, args.model, None if draft is None else draft.trunk)
    checked = check(runner, False)
    requests = {}
    for number, text in enumerate(long_texts(lm, [args.data_dir], prompt_tokens), 1):
        name = f"{number:05}"
        requests[name] = replace(lm.read(text[:prompt_tokens], most, draft), noise_key=noise_key_of(name))
    return TextSubject(runner, requests, lm.decode, lm.device, DTYPES[args.dtype], assistant=runner.draft), checked
