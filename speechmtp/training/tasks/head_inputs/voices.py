"""Training input of heads for voices: units of a data directory, with tokens that the trunk draws itself, under the
temperature and the truncation that the voice speaks with."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch

from speechmtp.batching import batches_by_size
from speechmtp.data.kaldi import DataDir
from speechmtp.decoding.runner import Runner
from speechmtp.decoding.sampling import SamplingConfig
from speechmtp.errors import ConfigError
from speechmtp.evaluation.held_out import HeldOut
from speechmtp.heads.contract import HeadSet, TrainBatch
from speechmtp.models.bases.contract import UnitModel
from speechmtp.models.bases.native import use_native
from speechmtp.training.draws import draw_texts
from speechmtp.training.multi_token import Sequences
from speechmtp.training.tasks.head_inputs.contract import HeadInput, HeadInputs, Note
from speechmtp.training.tasks.tts import SpokenBatch, SpokenBatches, sequences_of
from speechmtp.training.tasks.tts_data import Spoken, read_codes, read_spans

ROWS = 16  # utterances whose tokens are drawn together
PART = 256  # utterances whose hints are in memory
TOKENS = 100  # of an utterance, about: a batch of `rows` has as many tokens as that many utterances


def voice_input(asked: HeadInputs, note: Note) -> HeadInput:
    """Training data and development set from data directories. With targets `own` the tokens are the trunk's, drawn
    once for each of the `passes`, else those of the recordings. ConfigError for a mode that trains the trunk."""
    model, config = asked.bundle.unit_model, asked.config
    if config.mode != "frozen":
        raise ConfigError(f"heads: mode {config.mode}: a voice's trunk is trained by `train tts`; use mode=frozen")
    sampling = asked.bundle.config.sampling or SamplingConfig()
    train, dev = asked.directories(need_text=False)
    rows = _recorded(model, train)
    if config.targets == "own":
        silent, rows = rows, []
        for number in range(config.passes):
            rows += drawn(model, silent, replace(sampling, seed=config.prompts_seed + number), note)
    held_out = drawn(model, _recorded(model, dev), replace(sampling, seed=config.prompts_seed + config.passes), note)
    data = VoiceHeadData(model, SpokenBatches(rows, config.rows * TOKENS, config.seed))
    return data, VoiceHeldOut(model.trunk, list, model.rules, [], None, None, model, held_out, sampling)


def _recorded(model: UnitModel, data: DataDir) -> list[Spoken]:
    """The utterances of a data directory, with the tokens of its table, if it has one."""
    if (data.path / "tokens").exists():
        codes = read_codes(data, model.config.tokens)
    else:
        codes = {key: (spans, [0] * spans.tokens) for key, spans in read_spans(data).items()}
    return [Spoken(spans.ids, spans.words, spans.frames, tokens) for spans, tokens in codes.values()]


@torch.inference_mode()
def drawn(model: UnitModel, rows: Sequence[Spoken], sampling: SamplingConfig, note: Note) -> list[Spoken]:
    """The utterances with tokens that the trunk draws for their units and durations, each with noise of its own."""
    use_native(model.trunk)
    found = list[Spoken]()
    for start in range(0, len(rows), PART):  # hints of all utterances at a time would take much memory
        part = rows[start : start + PART]
        requests = []
        for index, row in enumerate(part, start):
            ids, words, frames = (
                torch.as_tensor(part, device=model.device) for part in (row.ids, row.words, row.frames)
            )
            requests.append(replace(model.read(ids, words, frames), noise_key=index))
        tokens = draw_texts(Runner(model.trunk, {}, model.name), requests, sampling, rows=ROWS)
        found += [replace(row, tokens=own) for row, own in zip(part, tokens)]
        note(len(found), len(rows))
    return found


@dataclass
class VoiceHeadData:
    """Batches of utterances with their tokens."""

    model: UnitModel
    batches: SpokenBatches

    def batch(self, number: int) -> SpokenBatch:
        """Batch `number`, a pure function of the number."""
        return self.batches.batch(number)

    def count(self, batch: SpokenBatch) -> int:
        """Number of tokens."""
        return int((batch.tokens >= 0).sum())

    def sequences(self, batch: SpokenBatch) -> Sequences:
        """The sequences of a batch."""
        return sequences_of(self.model, batch.to(self.model.device))

    def tokens(self) -> Sequence[Sequence[int]]:
        """The tokens of all utterances."""
        return [row.tokens for row in self.batches.rows]


@dataclass
class VoiceHeldOut(HeldOut):
    """Utterances with tokens that the trunk drew. Figures are of sampling: how likely a draft of each depth is to be
    accepted by rejection, and the tokens per call that this predicts."""

    model: UnitModel | None = None
    rows: Sequence[Spoken] = ()
    sampling: SamplingConfig = field(default_factory=SamplingConfig)

    @torch.no_grad()
    def figures(self, heads: HeadSet, moved: bool) -> dict[str, float]:
        """Acceptance of the first and the last depth in percent, and tokens per call as predicted from those of all
        depths; `score` is calls per 100 tokens."""
        assert self.model is not None
        chances = torch.zeros(heads.depth, dtype=torch.float64)
        counts = torch.zeros(heads.depth, dtype=torch.float64)
        for indices in batches_by_size([len(row.tokens) for row in self.rows], 16):
            batch = SpokenBatch.of([self.rows[index] for index in indices]).to(self.model.device)
            for d, (chance, count) in enumerate(self._accepted(heads, batch)):
                chances[d] += chance
                counts[d] += count
        rates = chances / counts.clamp_min(1)
        rate = 1 + float(rates.cumprod(0).sum())
        return {
            "score": 100 / rate, "tokens_per_call": rate, "accepted_1": 100 * float(rates[0]),
            f"accepted_{heads.depth}": 100 * float(rates[-1]),
        }  # fmt: skip

    def _accepted(self, heads: HeadSet, batch: SpokenBatch) -> list[tuple[float, int]]:
        """For each depth the summed chance that a draft is accepted, 1 - TV of both laws, and the number of drafts."""
        assert self.model is not None
        trunk, sequences = self.model.trunk, sequences_of(self.model, batch)
        states = trunk(sequences.embeddings, sequences.positions, sequences.segments, heads.taps)
        read = TrainBatch(
            states, sequences.embeddings, sequences.ids, sequences.positions, sequences.segments, trunk.embed,
            heads.narrow(trunk), hints=sequences.hints,
        )  # fmt: skip
        found = []
        for d, features in enumerate(heads.train_depths(read), 1):
            known = torch.zeros_like(sequences.ids, dtype=torch.bool)
            if sequences.ids.shape[1] > d + 1:
                known[:, : -d - 1] = sequences.ids[:, d + 1 :] >= 0
            target = self._law(trunk.unembed(read.ahead(states.hidden, d)[known]))
            draft = self._law(heads.logits(features[known], d, read.unembed))
            found.append((float(torch.minimum(target, draft).sum()), int(known.sum())))
        return found

    def _law(self, logits: torch.Tensor) -> torch.Tensor:
        """The probabilities [N, V] from which tokens are drawn."""
        processors = self.sampling.processors()
        if processors is not None:
            logits = processors(logits.float()[None], lambda: [])[0]
        return logits.float().softmax(-1)
