"""Random ragged batches for encoder-decoder recognisers: encoder outputs, heads, texts, previous passes, and what
transformers' own `generate` says of each row alone."""

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import tiny
import torch
from cases import mutate
from engine_runs import RowSampling, drawn_rows

from speechmtp.decoding.engine import Recorded
from speechmtp.decoding.runner import Runner
from speechmtp.decoding.strategies import parse_strategy
from speechmtp.evaluation.peers import run_peer
from speechmtp.heads.block import BlockHeadsConfig
from speechmtp.heads.chain import ChainHeadsConfig
from speechmtp.heads.contract import HeadSet
from speechmtp.heads.hydra import HydraHeadsConfig
from speechmtp.heads.latent import LatentHeadsConfig
from speechmtp.heads.layer import LayerHeadsConfig
from speechmtp.heads.residual import ResidualHeadsConfig
from speechmtp.heads.table import HeadsConfig
from speechmtp.models.bases.encoder_decoder import EncoderDecoder
from speechmtp.types import (
    CtcCharacters,
    CtcText,
    PreviousPass,
    Prompt,
    Reference,
    Request,
    Source,
    TokenSpelling,
    Trace,
    stack_prompts,
)

D = 3
HEADS: tuple[HeadsConfig, ...] = (
    ChainHeadsConfig(D, taps=(0, 1, 2), attention="ttt"),
    BlockHeadsConfig(D, taps=(1,), layers=2),
    LayerHeadsConfig(D),
    ResidualHeadsConfig(D, taps=(0, 2)),
    HydraHeadsConfig(D, blocks=2),
    ChainHeadsConfig(D, taps=(1, 2), attention="ttt", shortlist=7),
    LatentHeadsConfig(D, taps=(1,), mix="weighted"),
    ChainHeadsConfig(D),
    BlockHeadsConfig(D, correction="gru", shortlist=7),
)
# What each token adds to a text; an end token, the start token and whatever follows the last one add nothing.
PIECES = (" kabi", "", "", " tel", "ru", " Onu", " pila", ", vesk", ".", " jor", "é")


def spell(tokens: list[int]) -> str:
    """What tokens say, without the space in front."""
    return "".join(PIECES[token] for token in tokens if token < len(PIECES)).strip()


def spelling() -> TokenSpelling:
    """One that takes the longest piece at every place, and leaves out what no piece begins with."""
    ids = {piece: i for i, piece in enumerate(PIECES) if piece}
    pattern = re.compile("|".join(re.escape(piece) for piece in sorted(ids, key=len, reverse=True)))
    return TokenSpelling(lambda: PIECES, lambda: lambda text: [ids[piece] for piece in pattern.findall(text)])


@dataclass(frozen=True)
class Scene:
    """A model, heads, a ragged batch of requests and the answers."""

    seed: int
    model: EncoderDecoder
    heads: HeadSet
    requests: list[Request]
    answers: list[list[int]]

    def run(
        self, labels: list[str], rows: list[int] | None = None, row_sampling: RowSampling | None = None
    ) -> tuple[list[list[int]], list[Trace]]:  # fmt: skip
        """Some rows (all), each by a strategy of its own, or all by one."""
        chosen = self.requests if rows is None else [self.requests[row] for row in rows]
        runner = Runner(self.model.trunk, {"own": self.heads})
        parsed = [parse_strategy(label) for label in labels] * (len(chosen) if len(labels) == 1 else 1)
        return runner.run(*drawn_rows(chosen, parsed, row_sampling), Recorded(gaps=True))

    @property
    def prompt(self) -> Prompt:
        """All rows' prompts as one padded batch."""
        return stack_prompts([request.prompt for request in self.requests])

    def check(self, labels: list[str]) -> list[Trace]:
        """The batch says what transformers says of each row, and counts it."""
        tokens, traces = self.run(labels)
        for row, (said, trace, wanted) in enumerate(zip(tokens, traces, self.answers, strict=True)):
            assert said == wanted, f"scene {self.seed}, row {row}: {labels}"
            assert trace.emitted == len(said) and trace.finished == (said[-1] == tiny.EOS)
            assert len(said) <= (self.requests[row].limit or 0) and ("limit" in trace.flags) != trace.finished
            assert trace.calls - 1 <= trace.emitted - trace.num_accepted_tokens <= trace.calls
        return traces


def heads_for(model: EncoderDecoder, config: HeadsConfig, seed: int) -> HeadSet:
    """Random heads, in some scenes those at the start of training, which say what the trunk says."""
    built: Any = tiny.random_heads(config, seed, model.trunk.shape)
    if seed % 5 < 2:
        built.start_from(model.trunk)
    found: HeadSet = built
    return found


@lru_cache(maxsize=64)
def make_scene(seed: int, max_rows: int = 6, whisper: bool | None = None) -> Scene:
    """1 to `max_rows` rows; Moonshine's with encoder outputs of 1 to 12 entries, Whisper's of one length; limits from 1
    to 16 tokens, Whisper's sometimes as many as it has positions for."""
    rng = tiny.generator(7000 + seed)
    rows = int(torch.randint(1, max_rows + 1, (), generator=rng))
    whisper = (seed + seed // len(HEADS)) % 3 == 1 if whisper is None else whisper
    model = tiny.tiny_whisper(seed) if whisper else tiny.tiny_moonshine(seed)
    sizes = torch.randint(1, 13, (rows,), generator=rng).tolist()
    prompt = tiny.memory_prompts(model, [sizes[0]] * rows if whisper else sizes, seed)
    heads = heads_for(model, HEADS[seed % len(HEADS)], seed)
    requests, answers = [], []
    for row in range(rows):
        limit = int(torch.randint(1, 17, (), generator=rng))
        limit = model.limit(1000) if whisper and limit > 11 else limit
        one = prompt.row(row)
        answer = run_peer(model.trunk, "greedy", model.start_tokens(), model.rules, limit, memory=one.memory).tokens
        requests.append(
            Request(one, model.rules, limit, (), _sources(answer, seed, row, rng), row)
        )  # fmt: skip
        answers.append(answer)
    return Scene(seed, model, heads, requests, answers)


def _sources(answer: list[int], seed: int, row: int, rng: torch.Generator) -> tuple[Source, ...]:
    """A text, the answer itself, and in most rows a pass before with mistakes."""
    known: tuple[Source, ...] = (
        CtcCharacters(_text(answer, seed + row, rng), spelling()),
        Reference(tuple(answer)),
    )
    return known if row % 3 == 0 else (*known, PreviousPass(tuple(mutate(answer[: 3 * (seed % 5)], 0.25, rng))))


def _text(answer: list[int], kind: int, rng: torch.Generator) -> CtcText:
    """Right, with mistakes, in the wrong case, of letters that no piece has, or empty; some with posteriors."""
    said, half = spell(answer), spell(mutate(answer, 0.3, rng))
    text = [said, half, half.upper(), f"{said[:3]}~€x{said[3:]}", ""][kind % 5]
    return CtcText(text, tuple(torch.rand(len(text), generator=rng).tolist()) if kind % 2 else ())
