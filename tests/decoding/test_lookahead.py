"""Lookahead decoding: the window as the paper draws it, its pool, and what it saves."""

from collections.abc import Callable
from typing import Any

import oracle
import pytest
import tiny
import torch
from cases import make_case
from engine_runs import Setup, generate_mixed
from test_lookup import count, cycling
from torch import Tensor

from speechmtp.ancestors import ancestors_of
from speechmtp.decoding.drafters.lookahead import GuessWindow, Lookahead
from speechmtp.decoding.rules.greedy_match import GreedyMatch
from speechmtp.decoding.state import DecodeState
from speechmtp.models.trunk import Trunk
from speechmtp.types import Draft, States


def unfolded(window: GuessWindow) -> tuple[list[list[int]], list[int]]:
    """The ancestors of every node of a window of 5 columns and 3 levels, itself among them, and the depths."""
    trie = window.tree(5, [], 3)
    seen = ancestors_of(torch.tensor([trie.parents]))[0]
    return [torch.nonzero(row).flatten().tolist() for row in seen], (seen.sum(1) - 1).tolist()


def test_mask_and_positions_are_the_papers() -> None:
    """The example that the paper draws, window 5 and n-gram 4. The oldest level is 0 1 2 3 4 (0: the base token), the
    next at positions 1 to 5, the newest 2 to 6; a token sees its own column and the oldest level up to it."""
    window = GuessWindow([[column + 10 * level for column in range(5)] for level in range(3)])
    seen, depth = unfolded(window)
    assert [1 + d for d in depth] == [1, 2, 3, 4, 1, 2, 3, 4, 5, 2, 3, 4, 5, 6]
    for node, mine in enumerate(seen):
        level, column = divmod(node + 1, 5)  # counted with the base token
        assert mine == [*range(column), *(above * 5 + column - 1 for above in range(1, level + 1))]


def test_ngrams_hang_beside_the_window_on_the_base_token() -> None:
    window = GuessWindow([[7, 1], [2, 3]])
    trie = window.tree(2, [(4, 5), (4, 6), (8, 9)], 2)
    assert trie.tokens == [1, 2, 3, 4, 5, 6, 8, 9] and trie.parents == [-1, -1, 0, -1, 3, 3, -1, 6]
    assert window.tree(0, [(4, 5)], 1).tokens == [4], "no deeper than the limit"
    assert window.tree(0, [], 1).tokens == []


def test_the_pool_keeps_the_latest_ngrams_of_a_first_token() -> None:
    window = GuessWindow([[7, 7, 1], [2, 3, 4]])
    window.learn([5, 6, 8], 2)
    assert window.pool == {7: [(3, 6), (2, 5)], 1: [(4, 8)]}
    window.levels = [[7, 7], [2, 9]]
    window.learn([5, 9], 2)
    assert window.pool[7] == [(9, 9), (2, 5)], "what comes again is the latest once more"
    window.learn([1, 1], 0)
    assert window.pool[7] == [(9, 9), (2, 5)]


def test_columns_stay_at_their_positions() -> None:
    """Two tokens were emitted: the guess for three positions ahead is now one ahead."""
    window = GuessWindow([[0, 1, 2, 3], [11, 12, 13, 14]], columns=4)
    window.shift([22, 23, 24, 25], 2)
    assert window.levels == [[12, 13, 14], [23, 24, 25]]
    window.fill(4, [8, 9])
    assert window.levels == [[9, 13, 14, 9], [23, 24, 25, 8]]


class Checked(Lookahead):
    """Compares the window's choices with full forwards of the trunk along each column, and counts them."""

    checked = 0

    def propose(self, state: DecodeState) -> Draft:
        """Keeps the text in front of the draft."""
        self.__dict__["before"] = [list(row.tokens) for row in state.rows]
        return super().propose(state)

    def observe(self, state: DecodeState, emitted: list[list[int]], choices: Tensor | None) -> None:
        """The first row's columns."""
        mine = state.rows[0].kept
        old, first = [list(row) for row in mine.levels], state.rows[0].slot
        super().observe(state, emitted, choices)
        if mine.columns and first == 0:
            prompt, trunk = self.__dict__["prompt"], state.batch.trunk
            said = []
            for column in range(mine.columns):
                path = [*old[0][1 : column + 1], *(row[column] for row in old[1:])]
                hidden = oracle.full_states(trunk, prompt, [*self.__dict__["before"][0], *path])
                said.append(int(trunk.unembed(hidden[-1]).argmax()))
            assert mine.levels[-1] == said[len(emitted[0]) - 1 :]
            self.__dict__["checked"] = self.checked + 1


@pytest.mark.parametrize("sizes", [(4, 2, 0), (3, 3, 2), (2, 5, 3), (1, 4, 1)])
def test_new_guesses_are_the_trunks_choices_behind_each_column(sizes: tuple[int, int, int]) -> None:
    for seed in (1, 4, 9):
        case = make_case(seed, max_rows=3, most=12)
        drafter = Checked(*sizes)
        drafter.__dict__["prompt"] = case.prompt.row(0)
        tokens, _ = case.run(drafter)
        assert tokens == case.tokens
        assert drafter.checked > 0 or len(tokens[0]) == 1


class UpTo:
    """Draft lengths that differ by row and call, 0 among them."""

    def start(self, state: DecodeState) -> None:
        """Nothing to keep."""

    def limits(self, state: DecodeState) -> list[int]:
        """Anything from 0 to 6."""
        return [(3 * row.slot + 2 * len(row.tokens)) % 7 for row in state.rows]

    def observe(self, state: DecodeState, emitted: list[list[int]]) -> None:
        """Nothing to learn."""


@pytest.mark.parametrize("drafter", [Checked(4, 2, 0), Checked(3, 3, 2), Checked(2, 5, 3)], ids=repr)
def test_a_limited_draft_is_not_cut_behind_the_drafters_back(drafter: Checked) -> None:
    """Choices are read from the right places even where rows have different limits."""
    accepted = 0
    for seed in range(6):
        case = make_case(seed, max_rows=4, most=16)
        drafter.__dict__["prompt"] = case.prompt.row(0)
        limits = [case.limits.of(n) for n in case.prompt.lengths.tolist()]
        bound = Setup(drafter, GreedyMatch(), length=UpTo())
        tokens, traces = generate_mixed(case.trunk, case.prompt, [bound], tiny.EOS, limits)
        assert tokens == case.tokens
        accepted += sum(trace.num_accepted_tokens for trace in traces)
    assert drafter.checked > 4 and accepted > 0


def positional() -> Trunk:
    """A trunk that counts by position alone, as one whose text the audio fixes: wrong guesses do not mislead it."""
    trunk = cycling()
    extend = trunk.extend

    def counting(inputs: Tensor, positions: Tensor, *rest: Any) -> States:
        extend(inputs, positions, *rest)
        before = (positions + tiny.BOS) % tiny.VOCAB  # position 0 is the start token's
        return States(trunk.embed(before))

    trunk.extend = counting  # type: ignore[method-assign]
    return trunk


@pytest.mark.parametrize(
    ("drafter", "trunk", "least"),
    [
        (Lookahead(8, 2, 0), positional, 4),
        (Lookahead(7, 5, 0), positional, 2.9),
        (Lookahead(7, 5, 7), positional, 3.9),
        (Lookahead(7, 5, 7), cycling, 3.3),  # at most 5: only the pool knows what follows the right token
    ],
    ids=lambda value: getattr(value, "__name__", repr(value)),
)
def test_a_source_that_repeats_gives_several_tokens_a_call(
    drafter: Lookahead, trunk: Callable[[], Trunk], least: float
) -> None:
    for trace in count(drafter, 2, 120, trunk=trunk()):
        assert trace.emitted / trace.calls > least


def test_guesses_of_a_chain_alone_do_not_help_where_each_token_hangs_on_the_one_before() -> None:
    """Known of Jacobi decoding; that nothing is gained by chance shows that the counts above are earned."""
    (trace,) = count(Lookahead(8, 2, 0), 1, 60)
    assert trace.calls > 50


def test_without_guesses_and_with_pairs_it_is_jacobi_decoding() -> None:
    """A chain whose every guess is the trunk's choice behind the guess before: by hand on one row."""
    case = next(c for c in (make_case(seed, 1) for seed in range(40)) if len(c.tokens[0]) > 7)
    width, plain = 4, case.plain[0].tokens
    said, guesses, calls = plain[:1], [plain[0]] * width, 1
    while len(said) < len(plain):
        states = oracle.full_states(case.trunk, case.prompt.row(0), [*said, *guesses])[-width - 1 :]
        chosen = case.trunk.unembed(states).argmax(-1).tolist()
        right = oracle.matched(guesses, chosen)
        said, calls = said + chosen[: right + 1], calls + 1
        recent = said[-width - 2 :]
        guesses = chosen[right + 1 :]
        guesses += [recent[(len(guesses) + 1 + i) % len(recent)] for i in range(width - len(guesses))]
        if tiny.EOS in said:
            break
    _, traces = case.run(Lookahead(width + 1, 2, 0), rows=[0])
    assert traces[0].calls == calls


def test_nothing_rides_on_the_prompts_call() -> None:
    (trace,) = count(Lookahead(), 1, 1)
    assert trace.num_draft_tokens == 0 and trace.fed == 2
