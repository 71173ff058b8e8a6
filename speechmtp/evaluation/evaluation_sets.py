"""Evaluation sets: encoded utterances for a speech model, or text prompts that a text LM continues."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from speechmtp.api import Recogniser, load
from speechmtp.batching import batches_by_size
from speechmtp.bundle import load_bundle, load_draft_model, reads_text
from speechmtp.clock import clock
from speechmtp.data.kaldi import DataDir, read_data_dir
from speechmtp.decoding.engine import Recorded
from speechmtp.decoding.runner import Runner
from speechmtp.decoding.sampling import RowSampling, SamplingConfig
from speechmtp.decoding.strategies import Strategy
from speechmtp.devices import find_device, parse_dtype
from speechmtp.errors import ConfigError
from speechmtp.evaluation.held_out import long_texts
from speechmtp.evaluation.settings import EvaluationSettings
from speechmtp.kernels.cpu.packed_linear import pack
from speechmtp.listening import noise_key_of
from speechmtp.models.trunk import Trunk
from speechmtp.progress import track
from speechmtp.scoring.report import wer_interval
from speechmtp.scoring.wer import score
from speechmtp.text.normalize import get_normalizer
from speechmtp.types import Reference, Request, Result, Trace


def word_errors(
    texts: Mapping[str, str], transcripts: Mapping[str, str], speakers: Mapping[str, str] | None, normalizer: str,
    seed: int = 0,
) -> dict[str, Any]:  # fmt: skip
    """Error rates of texts in percent, with the 95 % interval of the word error rate and its unit of resampling."""
    report = score(transcripts, texts, get_normalizer(normalizer))
    interval = wer_interval(report, seed, speakers)
    return {"wer": report.wer, "wer_low": interval.low, "wer_high": interval.high, "wer_unit": interval.unit,
            "cer": report.cer, "normalizer": normalizer, "words": report.counts.ref_words}  # fmt: skip


@dataclass
class EvaluationSet:
    """Named requests and the scoring of their outputs; the same for every strategy and batch size.

    `text` decodes tokens into text. `listen_seconds` is the time for features and encoder of all requests together (a
    CTC head runs only in decoding, when a strategy reads it), `audio_seconds` the duration of their audio. `assistant`
    is the trunk of a draft model. `embedded` means that prompts are embeddings rather than token ids, `has_ctc` that
    there is a CTC head.
    """

    runner: Runner
    requests: Mapping[str, Request]
    text: Callable[[Sequence[int]], str]
    device: torch.device
    dtype: torch.dtype
    listen_seconds: float = 0.0
    audio_seconds: float = 0.0
    assistant: Trunk | None = None
    embedded: bool = False
    has_ctc: bool = False

    @property
    def names(self) -> list[str]:
        """The names of all requests, sorted."""
        return sorted(self.requests)

    def batches(self, rows: int) -> list[list[str]]:
        """Names of requests in batches of `rows`, of similar prompt size."""
        return name_batches(self.requests, rows)

    def requests_for(self, names: Sequence[str], references: Mapping[str, Result] | None) -> list[Request]:
        """The requests of these names; with `references`, each carries the tokens of plain decoding."""
        found = [self.requests[n] for n in names]
        if references is None:
            return found
        return [request.knowing(Reference(references[n].tokens)) for n, request in zip(names, found)]

    def judge(self, results: Mapping[str, Result], seed: int) -> dict[str, Any]:
        """Scores of the outputs besides counts and times; here all None, there are no transcripts."""
        names = ("wer", "wer_low", "wer_high", "wer_unit", "cer", "normalizer", "words")
        return dict.fromkeys(names)

    def decode(
        self, names: Sequence[str], strategy: Strategy, references: Mapping[str, Result] | None = None,
        sampling: SamplingConfig | None = None, recorded: Recorded | None = None,
    ) -> list[Result]:  # fmt: skip
        """Decode some requests in one batch; `seconds` of each result is the batch's."""
        raise NotImplementedError


class SpeechEvaluationSet(EvaluationSet):
    """Utterances encoded by a recogniser, with their transcripts and, if known, their speakers."""

    def __init__(
        self, recogniser: Recogniser, requests: Mapping[str, Request], seconds: float, transcripts: Mapping[str, str],
        speakers: Mapping[str, str] | None = None,
    ) -> None:  # fmt: skip
        self.recogniser, self.transcripts, self.speakers = recogniser, transcripts, speakers
        model = recogniser.bundle.model
        super().__init__(
            recogniser.runner, requests, model.decode, recogniser.device, recogniser.dtype, seconds,
            sum(request.audio_seconds for request in requests.values()),
            embedded=model.input_kind in ("features", "prompts"), has_ctc=recogniser.has_ctc,
        )  # fmt: skip

    def judge(self, results: Mapping[str, Result], seed: int) -> dict[str, Any]:
        """Error rates in percent, with the 95 % interval of the word error rate and its unit of resampling."""
        texts = {name: result.text for name, result in results.items()}
        return word_errors(texts, self.transcripts, self.speakers, self.recogniser.bundle.normalizer, seed)

    def decode(
        self, names: Sequence[str], strategy: Strategy, references: Mapping[str, Result] | None = None,
        sampling: SamplingConfig | None = None, recorded: Recorded | None = None,
    ) -> list[Result]:  # fmt: skip
        """Decode some requests in one batch by the recogniser."""
        return self.recogniser.decode(self.requests_for(names, references), strategy, sampling, recorded)


class TextEvaluationSet(EvaluationSet):
    """Text prompts for a text LM."""

    def decode(
        self, names: Sequence[str], strategy: Strategy, references: Mapping[str, Result] | None = None,
        sampling: SamplingConfig | None = None, recorded: Recorded | None = None,
    ) -> list[Result]:  # fmt: skip
        """Decode some requests in one batch by the runner."""
        requests = self.requests_for(names, references)
        began = clock(self.device)
        done = self.runner.run(
            requests, [strategy] * len(requests), RowSampling.of(sampling or SamplingConfig()), recorded
        )
        seconds = clock(self.device) - began
        return [Result(self.text(tokens), tuple(tokens), trace, seconds) for tokens, trace in zip(*done)]


@dataclass(frozen=True)
class EvaluationModel:
    """A model loaded for an evaluation. `read` encodes the data; strategies can be checked before it is called."""

    runner: Runner
    has_ctc: bool
    read: Callable[[], EvaluationSet]


def name_batches(requests: Mapping[str, Request], rows: int) -> list[list[str]]:
    """Names of requests in batches of `rows`, of similar prompt size; equal sizes are in the order of names."""
    names = sorted(requests)
    return [[names[i] for i in batch] for batch in batches_by_size([requests[name].size for name in names], rows)]


def decode_by_peer(evaluation_set: EvaluationSet, name: str, mode: str) -> Result:
    """Decode one request by a mode of transformers' own `generate` (see `peers.PEER_MODES`)."""
    request = evaluation_set.requests[name]
    if request.empty:
        return Result("", (), Trace(finished=True, flags=("empty",)))
    prompt = request.prompt if evaluation_set.embedded else request.start_tokens or request.ids
    assert request.limit is not None
    from speechmtp.evaluation.peers import run_peer  # only here, since it imports all of transformers

    run = run_peer(
        evaluation_set.runner.trunk, mode, prompt, request.rules, request.limit, evaluation_set.assistant,
        request.prompt.memory,
    )  # fmt: skip
    return Result(evaluation_set.text(run.tokens), tuple(run.tokens), run.trace, run.seconds)


def check_data(model: str, data: Sequence[str], reads_text: bool) -> None:
    """Raise a ConfigError for a file given to a speech model, or a folder given to a model that reads text."""
    for name in data:
        if not reads_text and Path(name).is_file():
            raise ConfigError(f"{name}: a file, and {model} is a speech model; give a Kaldi data directory")
        if reads_text and Path(name).is_dir():
            raise ConfigError(f"{name}: a folder, and {model} is a text LM; give a text file, a text a line")


def encode_all(
    recogniser: Recogniser, data: DataDir, allow_pipes: bool, label: str = "listening", language: str = "",
    task: str = "",
) -> tuple[dict[str, Request], float]:  # fmt: skip
    """Encode every utterance separately. Return the requests by utterance id, each with a noise key from its id, and
    the total seconds from audio files to prompts."""
    requests: dict[str, Request] = {}
    began = clock(recogniser.device)
    for utterance in track(data.utterances, label):
        audio = utterance.load(recogniser.rate, allow_pipes)
        request = recogniser.listen(audio, f"{data.path}/{utterance.origin}: {utterance.id}", language, task)
        requests[utterance.id] = replace(request, noise_key=noise_key_of(utterance.id))
    return requests, clock(recogniser.device) - began


def load_recogniser(settings: EvaluationSettings) -> Recogniser:
    """Load the speech model that the settings name."""
    return load(
        settings.model, settings.device, settings.dtype, settings.heads, settings.allow_stale_heads,
        settings.draft_model, settings.ctc, settings.drafts,
    )  # fmt: skip


def open_model(settings: EvaluationSettings) -> EvaluationModel:
    """Load the model that the settings name; `read` of the result gives the evaluation set.

    ConfigError for settings that do not fit the kind of model, CheckpointError for a model that cannot be loaded.
    """
    text = reads_text(settings.model)
    check_data(settings.model, [settings.data], text)
    if text:
        return _open_text(settings)
    settings.check_speech()
    recogniser = load_recogniser(settings)

    def read() -> SpeechEvaluationSet:
        data = read_data_dir(settings.data, settings.root, allow_pipes=settings.allow_pipes)
        requests, seconds = encode_all(
            recogniser, data, settings.allow_pipes, language=settings.language, task=settings.task
        )
        return SpeechEvaluationSet(recogniser, requests, seconds, data.transcripts(), data.speakers())

    return EvaluationModel(recogniser.runner, recogniser.has_ctc, read)


def open_evaluation_set(settings: EvaluationSettings) -> EvaluationSet:
    """The evaluation set of a model and its data: a speech model with a Kaldi data directory, or a text LM with a text
    file. Errors are those of `open_model` and of reading the data."""
    return open_model(settings).read()


def _open_text(settings: EvaluationSettings) -> EvaluationModel:
    """Load a text LM with its draft model; `read` gives the prompts of its text file."""
    prompt_tokens, max_new_tokens = settings.text_limits()
    dtype, device = parse_dtype(settings.dtype), torch.device(find_device(settings.device))
    bundle = load_bundle(settings.model, settings.allow_stale_heads, settings.heads)
    bundle.model.no_choice(settings.language, settings.task)
    bundle.to(device, dtype)
    lm, draft = bundle.text_model, load_draft_model(settings.draft_model, bundle) if settings.draft_model else None
    pack(lm, draft, *bundle.heads.values())
    runner = Runner(lm.trunk, bundle.heads, settings.model, None if draft is None else draft.trunk)

    def read() -> TextEvaluationSet:
        requests = {}
        for number, text in enumerate(long_texts(lm, [settings.data], prompt_tokens), 1):
            name = f"{number:05}"
            request = lm.read(text[:prompt_tokens], max_new_tokens, draft)
            requests[name] = replace(request, noise_key=noise_key_of(name))
        return TextEvaluationSet(runner, requests, lm.decode, lm.device, dtype, assistant=runner.draft)

    return EvaluationModel(runner, False, read)
