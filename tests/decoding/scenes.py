"""Random ragged batches for `Runner`, and every exact strategy of the table with its options changed one at a time."""

from dataclasses import dataclass, field, replace
from functools import cache, lru_cache
from typing import Any, get_args

import oracle
import tiny
import torch
from cases import mutate, near
from engine_runs import RowSampling, drawn_rows
from families import CONFIGS
from random_trees import random_shape

from speechmtp.decoding.draft_length import LENGTHS, CostTable
from speechmtp.decoding.drafters.ctc import Mode
from speechmtp.decoding.engine import Recorded
from speechmtp.decoding.presets import PRESETS
from speechmtp.decoding.rules.table import RULES
from speechmtp.decoding.runner import Runner
from speechmtp.decoding.strategies import Strategy, parse_strategy
from speechmtp.decoding.strategy_table import STRATEGIES, rules_for
from speechmtp.heads.contract import HeadSet
from speechmtp.heads.table import FAMILIES
from speechmtp.models.draft_prompt import DraftPrompt
from speechmtp.models.shape import TrunkShape
from speechmtp.models.trunk import Trunk
from speechmtp.types import CtcLabels, PreviousPass, Prompt, Reference, Request, Source, Trace

EXACT_RULES = tuple(name for name, rule in RULES.items() if rule().exact)
CHANGES: dict[str, tuple[Any, ...]] = {
    "depth": (2,), "rule": EXACT_RULES, "length": tuple(LENGTHS), "theta": (0, 0.3, 1),
    "measure": ("product",),
    "mode": get_args(Mode), "match": ("first",), "labels": (0, 2),
}  # fmt: skip
MORE = (
    "verify:depth=0", "verify:depth=1,theta=0.3,measure=product", "dynamic-tree:depth=3,nodes=64,width=7",
    "dynamic-tree:width=1,nodes=2", "tree:paths=5", "ctc:mode=tree,pointers=5,alternatives=6,nodes=64",
    "ctc-heads:theta=1,mode=resume", "suffix:depth=6,factor=3,least=0", "lookup:depth=3,longest=5,shortest=2",
    "jacobi:ngram=2,guesses=0", "jacobi:window=2,ngram=3,guesses=1", "marginal:depth=3,top=2",
    "draft-model:depth=1,theta=0.5", "oracle:depth=0", "oracle:depth=1", "thresholds:depth=3,single=1,acc=1",
)  # fmt: skip


def exact_labels() -> list[str]:
    """Every exact row of the table, with one option changed at a time, every exact preset, and some further ones."""
    texts = [*STRATEGIES, *PRESETS]
    for name, row in STRATEGIES.items():
        legal = [] if row.drafter is None else rules_for(row.drafter)
        texts += [
            f"{name}:{key}={value}"
            for key, values in CHANGES.items()
            if key in row.options
            for value in values
            if key != "rule" or (value in legal and value != "match")
        ]
    return [text for text in (*texts, *MORE) if parse_strategy(text).exact]


LABELS = exact_labels()
# Where tokens are drawn, the other rules follow the trunk's distribution, not its noise.
COUPLED = [text for text in LABELS if parse_strategy(text).rule.draws == "shared"]  # type: ignore[union-attr]


class Priced(Runner):
    """A runner whose costs are not measured: calls become dearer as they become wider."""

    def costs(self, name: str = "", heads: HeadSet | None = None) -> CostTable:
        """A table for drafts of up to 8 tokens."""
        return CostTable((1, 16), (1, 3, 9), ((1.0, 1.2, 2.0), (1.5, 2.0, 5.0)))


@cache
def preset_heads(name: str, shape: TrunkShape) -> HeadSet:
    """Random heads of the kind that a preset wants."""
    preset = PRESETS[name]
    wanted = {key: (0, 1) if value is True else value for key, value in preset.heads.items()}
    kind = wanted.pop("kind")
    family: Any = next(config for config in FAMILIES if config.kind == kind)  # type: ignore[attr-defined]
    built: HeadSet = tiny.random_heads(family(preset.options.get("depth", 1), **wanted), 3, shape)
    return built


@dataclass(frozen=True)
class Scene:
    """A model, heads of one family, a draft model, a ragged batch of requests, and the answer of plain greedy decoding
    to each alone."""

    seed: int
    trunk: Trunk
    draft: Trunk
    family: str
    heads: HeadSet = field(repr=False)
    requests: list[Request] = field(repr=False)
    plain: list[oracle.Plain] = field(repr=False)

    @property
    def tokens(self) -> list[list[int]]:
        """The answers' tokens."""
        return [row.tokens for row in self.plain]

    def run(
        self, strategies: list[str], rows: list[int] | None = None, row_sampling: RowSampling | None = None,
        recorded: Recorded | None = None,
    ) -> tuple[list[list[int]], list[Trace]]:  # fmt: skip
        """Some rows (all) by a strategy each, or all by one; those that need it know the greedy answer."""
        chosen = [self.requests[row] for row in (range(len(self.requests)) if rows is None else rows)]
        parsed = [parse_strategy(text) for text in strategies] * (1 if len(strategies) > 1 else len(chosen))
        presets = {s.name: preset_heads(s.name, self.trunk.shape) for s in parsed if s.preset and s.preset.heads}
        runner = Priced(self.trunk, {"own": self.heads, **presets}, draft=self.draft)
        return runner.run(*drawn_rows(chosen, parsed, row_sampling), recorded)

    def drafting_itself(self) -> "Scene":
        """The same with the trunk as its own draft model."""
        requests = [r.knowing(DraftPrompt(self.trunk, r.prompt)) for r in self.requests]
        return replace(self, draft=self.trunk, requests=requests)

    def transcribed(self, labels: list[list[int]]) -> "Scene":
        """The same with these CTC labels."""
        requests = [r.knowing(CtcLabels(tuple(said))) for r, said in zip(self.requests, labels, strict=True)]
        return replace(self, requests=requests)

    def tree(self) -> str:
        """A tree of up to 64 nodes."""
        paths = random_shape(self.seed, 160).split(".")  # parents stand before their children
        return f"tree:paths={'.'.join(paths[:64])}"

    def some(self, labels: list[str], count: int, salt: int = 0) -> list[str]:
        """As many of these labels, chosen by chance."""
        chosen = torch.randint(0, len(labels), (count,), generator=tiny.generator(10_000 * salt + self.seed))
        return [labels[i] for i in chosen.tolist()]


@lru_cache(maxsize=64)
def make_scene(seed: int, max_rows: int = 16, most: int = 12) -> Scene:
    """1 to `max_rows` rows whose prompts are ids, embeddings or some of each and whose limits are 1 to `most`; CTC
    labels are the greedy answer with mistakes, heads and draft model sometimes of the trunk's opinion."""
    rng = tiny.generator(3000 + seed)
    rows = 1 + int(max_rows * torch.rand((), generator=rng) ** 2)  # small ones more often
    trunk = tiny.trunk(seed, tiny.TRUNKS[seed % 2])
    # Every family comes with trunks and prompts of each kind.
    family = list(CONFIGS)[(seed + seed // len(CONFIGS)) % len(CONFIGS)]
    heads = tiny.random_heads(CONFIGS[family], seed, trunk.shape)
    if seed % 3 == 0:
        heads.start_from(trunk)
    limits = torch.randint(1, most + 1, (rows,), generator=rng).tolist()
    requests, answers = [], []
    draft = near(trunk, seed, 0.1)
    for row, limit in enumerate(limits):
        prompt, ids = _prompt(trunk, seed % 3, rng)
        plain = oracle.plain_greedy(trunk, prompt, tiny.EOS, limit)
        # The draft model hears more or less than the trunk.
        own = prompt if seed % 2 else _prompt(trunk, 0, rng)[0]
        labels = _labels(plain.tokens, rng)
        before = mutate(plain.tokens[: 3 * (seed % 5)], 0.2, tiny.generator(1000 * seed + row)) if row % 3 else None
        known: list[Source] = [labels, Reference(tuple(plain.tokens)), DraftPrompt(draft, own)]
        known += [] if before is None else [PreviousPass(tuple(before))]
        requests.append(Request(prompt, tiny.RULES, limit, tuple(ids), tuple(known), row))
        answers.append(plain)
    return Scene(seed, trunk, draft, family, heads, requests, answers)


def _prompt(trunk: Trunk, kind: int, rng: torch.Generator) -> tuple[Prompt, list[int]]:
    """Embeddings (0), ids (1) or either (2) of 1 to 9 entries."""
    size, ids = int(torch.randint(1, 10, (), generator=rng)), int(torch.randint(0, 2, (), generator=rng))
    if kind == 0 or (kind == 2 and ids):
        return tiny.prompts(trunk, [size], int(torch.randint(0, 10**6, (), generator=rng))), []
    tokens = torch.randint(0, tiny.VOCAB, (1, size), generator=rng)
    length = torch.tensor([size])
    return Prompt(trunk.embed(tokens).detach(), torch.arange(size)[None], length, length), tokens[0].tolist()


def _labels(tokens: list[int], rng: torch.Generator) -> CtcLabels:
    """The answer with mistakes, their runners-up (or a blank) and what may have been missed."""
    said = [token for token in mutate(tokens, 0.3, rng) if token != tiny.EOS]
    sure = (0.4 + 0.6 * torch.rand(len(said), generator=rng)).tolist()
    others = torch.randint(0, tiny.VOCAB + 1, (len(said),), generator=rng).tolist()
    gaps = [(i, token, 0.5) for i, token in enumerate(tokens[: len(said)]) if i % 4 == 2]
    return CtcLabels(tuple(said), tuple(sure), tuple(others), tuple(1 - s for s in sure), tuple(gaps))


def ceiling(strategy: Strategy, tokens: list[int]) -> int:
    """Calls of a drafter that heads' timing and all knowledge have: n tokens cost 1 + ceil((n - 1) / block)."""
    return 1 + -(-(len(tokens) - 1) // (strategy.options["depth"] + 1))
