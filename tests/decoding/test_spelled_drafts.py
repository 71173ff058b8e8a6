"""Drafts from the text of a CTC head that spells: exact, recycled among characters, and few calls where it is right."""

import re
from typing import Any

import oracle
import pytest
import tiny
import torch
from cases import Case, make_case, mutate
from engine_runs import RowSampling, Sources, generate

from speechmtp.decoding.drafters.contract import Drafter, Silent
from speechmtp.decoding.drafters.ctc import CtcDraft, CtcHeads
from speechmtp.decoding.drafters.spelled import TextRow
from speechmtp.decoding.rules.greedy_match import GreedyMatch
from speechmtp.decoding.runner import Runner
from speechmtp.decoding.sampling import SamplingConfig
from speechmtp.decoding.strategies import parse_strategy
from speechmtp.types import CtcCharacters, CtcLabels, CtcText, Request, TokenSpelling, Trace

WORDS = (" kabi", " mosu", "", " tel", " rug", " Onu", " pila", " vesk", " Ahm", " jor", " zwei")  # a token each
LETTERS = (" ", "a", "", "b", "ab", " A", ".", " c", "C", "-é", "ß")


def longest_first(pieces: tuple[str, ...]) -> TokenSpelling:
    """A spelling that takes the longest piece at every place, and leaves out what no piece begins with."""
    ids = {piece: i for i, piece in enumerate(pieces) if piece}
    pattern = re.compile("|".join(re.escape(piece) for piece in sorted(ids, key=len, reverse=True)))
    return TokenSpelling(lambda: pieces, lambda: lambda text: [ids[piece] for piece in pattern.findall(text)])


def spell(tokens: list[int], pieces: tuple[str, ...]) -> str:
    """What tokens say, without the space in front."""
    return "".join(pieces[token] for token in tokens).strip()


def random_texts(case: Case, pieces: tuple[str, ...]) -> list[CtcText]:
    """Right, half right, in the wrong case, without punctuation, of random letters, or empty; some with posteriors."""
    rng, found = tiny.generator(case.seed), []
    for row, tokens in enumerate(case.tokens):
        said = spell(tokens, pieces)
        wrong = "".join(chr(c) for c in torch.randint(32, 700, (9,), generator=rng).tolist())
        half = spell(mutate(tokens, 0.3, rng), pieces)
        text = [said, half, half.upper(), said.lower().replace(".", ""), said[:3] + wrong + said[3:], ""][
            (case.seed + row) % 6
        ]
        sure = tuple(torch.rand(len(text), generator=rng).tolist()) if row % 2 else ()
        found.append(CtcText(text, sure))
    return found


def run(
    case: Case,
    drafter: Drafter,
    texts: list[Any],
    pieces: tuple[str, ...] = WORDS,
    row_sampling: RowSampling | None = None,
) -> tuple[list[list[int]], list[Trace]]:
    """The case's batch; heads of random weights for those who ask."""
    heads = tiny.heads("latent", 3, case.seed) if drafter.heads else None
    spelling = longest_first(pieces)
    sources = Sources(ctc=[CtcCharacters(one, spelling) if isinstance(one, CtcText) else one for one in texts])
    return generate(
        case.trunk,
        heads,
        case.prompt,
        drafter,
        GreedyMatch(),
        tiny.EOS,
        sources,
        case.limits,
        row_sampling=row_sampling,
    )


DRAFTERS: list[Any] = [
    *[CtcDraft(mode) for mode in ("whole", "resume", "recycle", "tree")],
    CtcDraft("recycle", depth=2),
    CtcDraft("tree", pointers=5, nodes=9),
    CtcHeads(3, 0.5),
    CtcHeads(2, 1.0, "recycle"),
]


@pytest.mark.parametrize("pieces", [WORDS, LETTERS])
@pytest.mark.parametrize("seed", range(12))
def test_every_text_gives_the_tokens_of_plain_greedy_decoding(seed: int, pieces: tuple[str, ...]) -> None:
    case = make_case(500 + seed, max_rows=5, most=10)
    texts: list[Any] = random_texts(case, pieces)
    for drafter in DRAFTERS:
        assert run(case, drafter, texts, pieces)[0] == case.tokens
    texts[::2] = [CtcLabels(tuple(tokens[:2])) for tokens in case.tokens[::2]]
    assert run(case, DRAFTERS[seed % len(DRAFTERS)], texts, pieces)[0] == case.tokens, "and beside rows with labels"


@pytest.mark.parametrize("seed", range(12))
def test_every_text_gives_the_tokens_of_plain_sampling_with_the_same_seed(seed: int) -> None:
    config = SamplingConfig(temperature=0.9, top_p=0.9, repetition_penalty=1.2)
    case = make_case(seed, max_rows=3, most=8)
    rows = len(case.tokens)
    row_sampling = RowSampling(config.processors(), [seed] * rows, list(range(rows)))
    plain, _ = run(case, Silent(), [], row_sampling=row_sampling)
    texts = [CtcText(spell(tokens, WORDS)[: 4 * seed]) for tokens in plain]
    for drafter in DRAFTERS[seed % 2 :: 2]:
        assert run(case, drafter, texts, row_sampling=row_sampling)[0] == plain


@pytest.mark.parametrize("seed", range(12))
def test_a_right_text_costs_one_call_and_a_wrong_letter_two(seed: int) -> None:
    """Where the letter is one of the last word, the trunk's own token behind the draft already mends it."""
    case = make_case(seed, max_rows=6, most=30)
    right = [spell(tokens, WORDS) for tokens in case.tokens]
    for text in (right, [said.replace(" ", "  ") + " " for said in right]):
        tokens, traces = run(case, CtcDraft(), [CtcText(said) for said in text])
        assert tokens == case.tokens and {trace.calls for trace in traces} == {1}
    wrong = []
    for said in right:
        at = [i for i, letter in enumerate(said) if letter != " "][len(said.replace(" ", "")) // 3 :][:1]
        wrong.append("".join("q" if [i] == at else letter for i, letter in enumerate(said)))
    tokens, traces = run(case, CtcDraft(), [CtcText(said) for said in wrong])
    assert tokens == case.tokens and max(trace.calls for trace in traces) <= 2


@pytest.mark.parametrize("seed", range(6))
def test_case_costs_calls_but_not_the_place(seed: int) -> None:
    """A small letter for a capital one is a wrong token, behind which the text goes on."""
    case = make_case(seed, max_rows=6, most=30)
    texts = [CtcText(spell(tokens, WORDS).lower()) for tokens in case.tokens]
    tokens, traces = run(case, CtcDraft(), texts)
    assert tokens == case.tokens
    for said, trace in zip(case.tokens, traces):
        assert trace.calls <= 1 + sum(WORDS[token] != WORDS[token].lower() for token in said)


def row_of(text: str, sure: tuple[float, ...] = ()) -> TextRow:
    """A row whose tokens are single letters: an id is the letter's code."""
    pieces = [chr(i) for i in range(200)]
    pieces[0] = ""
    return TextRow(
        CtcText(text, sure), TokenSpelling(lambda: pieces, lambda: lambda part: [ord(letter) for letter in part]), 0
    )


@pytest.mark.parametrize(
    ("text", "emitted", "left"),
    [
        ("hello world", " hallo", " world"),  # a wrong letter
        ("hello world", " Hello,", " world"),  # case and punctuation that the text lacks
        ("Hello, world", " Hello", ", world"),  # punctuation that may come
        ("Hello, world", " Hello!", " world"),  # and that came otherwise
        ("mister smith", " mistersm", "ith"),  # the trunk joins words
        ("dont go", " don't g", "o"),
        ("hello", " hello", ""),
        ("", " hello", ""),
        ("?", " a?", ""),
    ],
)
def test_the_rest_is_what_the_text_says_behind_the_best_place(text: str, emitted: str, left: str) -> None:
    row = row_of(text)
    heard = [ord(letter) for letter in emitted]
    for end in (len(heard) // 2, len(heard)):
        row.take_in(heard[:end])
    [(number, start)] = row.pointers.best(1)
    assert row.rest(number, start, None).tokens == [*(ord(letter) for letter in left), 0]


@pytest.mark.parametrize("seed", range(30))
def test_the_place_is_the_best_prefix_by_edit_distance(seed: int) -> None:
    rng = tiny.generator(seed)
    text, said = (
        "".join("abC"[i] for i in torch.randint(0, 3, (n,), generator=rng).tolist()) for n in (9, 1 + seed % 8)
    )
    row = row_of(text)
    row.take_in([ord(letter) for letter in said])
    [(number, start)] = row.pointers.best(1)
    ends = range(len(text) + 2)
    distances = [oracle.edit_distance([*said.lower()], [*f" {text}".lower()[:end]]) for end in ends]
    assert distances[start] == min(distances)
    assert row.rest(number, start, None).tokens == [*(ord(letter) for letter in f" {text}"[start:]), 0]


def test_a_rest_is_cut_between_words_and_then_has_no_end_token() -> None:
    row = row_of("word " * 60)
    assert len(row.rest(0, 0, None).tokens) == 5 * 60 + 1, "the whole text behind the prompt"
    row.take_in([32])
    rest = row.rest(0, 1, None)
    assert "".join(map(chr, rest.tokens)) == ("word " * 16).strip() and len(rest.confidence) == 79
    assert row.rest(0, 1, 3).tokens == [ord(letter) for letter in "wor"]
    unbroken = row_of("x" * 200)
    unbroken.take_in([32])
    assert unbroken.rest(0, 1, None).tokens == [ord("x")] * 80


def test_a_token_is_as_sure_as_its_least_sure_character() -> None:
    spelling = longest_first((" ", "ab", "c", "d"))
    row = TextRow(CtcText("abcd ab", (0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.95)), spelling, 9)
    rest = row.rest(0, 0, None)
    assert rest.tokens == [0, 1, 2, 3, 0, 1, 9] and rest.confidence == [1.0, 0.8, 0.7, 0.6, 0.5, 0.4, 1.0]
    row.take_in([0])
    assert row.rest(0, 1, 2).confidence == [0.8, 0.7]
    assert set(TextRow(CtcText("abcd"), spelling, 9).rest(0, 0, None).confidence) == {1.0}


def test_heads_are_asked_where_a_character_is_unsure() -> None:
    asked = 0
    for seed in range(8):
        case = make_case(seed, max_rows=1, most=6)
        wrong = "tel tel tel tel tel"
        counts = []
        for sure in (0.95, 0.5):
            _, [trace] = run(case, CtcHeads(3, 0.9), [CtcText(wrong, (sure,) * len(wrong))])
            counts.append(trace.num_draft_tokens)
        asked += counts[1] > counts[0]
    assert asked > 2


@pytest.mark.parametrize("strategy", ["ctc", "ctc:mode=tree,depth=4", "ctc-heads"])
def test_the_runner_hands_texts_on(strategy: str) -> None:
    case = make_case(4, max_rows=4)
    texts = [CtcText(spell(tokens, WORDS)) for tokens in case.tokens]
    most = [case.limits.of(n) for n in case.prompt.lengths.tolist()]
    spelling = longest_first(WORDS)
    requests = [
        Request(case.prompt.row(i), tiny.RULES, most[i], sources=(CtcCharacters(text, spelling),))
        for i, text in enumerate(texts)
    ]
    runner = Runner(case.trunk, {"own": tiny.heads("latent", 3)})
    tokens, traces = runner.run(requests, [parse_strategy(strategy)] * len(requests))
    assert tokens == case.tokens
    assert "depth" in strategy or all(trace.calls == 1 for trace in traces)
