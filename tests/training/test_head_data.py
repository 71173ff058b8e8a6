"""What heads are trained on: which rows make a batch, where calls can start, whose texts they are."""

from collections import Counter

import pytest
import tiny
import torch
from engine_runs import Limits
from torch import Tensor

from speechmtp.errors import DataError
from speechmtp.evaluation.held_out import HeldOut, text_prompt
from speechmtp.heads.labels import IGNORED, shifted_labels
from speechmtp.training.tasks.head_bases import read_prompts, write_prompts
from speechmtp.training.tasks.head_data import HeardData, HeardText, PackedText, own_continuations
from speechmtp.training.tasks.heads import likely_tokens


def heard(count: int) -> list[HeardText]:
    """Prompts of 2 to 6 entries with texts of 1 to 3 tokens; the position of the text is the number of the prompt."""
    rng = tiny.generator(0)
    sizes = torch.randint(2, 7, (count,), generator=rng).tolist()
    vectors = [torch.randn(n, tiny.WIDTH, generator=rng, dtype=torch.float64) for n in sizes]
    return [HeardText(v, torch.arange(len(v)), i, [3 + i % 8, 4, 5][: 1 + i % 3]) for i, v in enumerate(vectors)]


def heard_data(count: int, rows: int, seed: int = 0) -> HeardData:
    return HeardData(tiny.trunk(0), heard(count), rows, tiny.BOS, tiny.EOS, seed)


def texts(count: int) -> list[list[int]]:
    """Texts of 4 to 9 tokens that differ."""
    return [[3 + i // 8 % 8, 3 + i % 8, *[4] * (2 + i % 6)] for i in range(count)]


def packed(count: int = 23, rows: int = 1, size: int = 16, prompt_tokens: int = 3, seed: int = 0) -> PackedText:
    return PackedText(tiny.trunk(0), texts(count), rows, size, prompt_tokens, seed)


def samples(batch: tuple[Tensor, Tensor, Tensor]) -> list[list[int]]:
    """The texts of a packed batch."""
    ids, segments, _ = batch
    return [
        row[numbers == n].tolist() for row, numbers in zip(ids, segments) for n in range(int(numbers.max()) + 1)
    ]  # fmt: skip


def test_batches_are_functions_of_their_number() -> None:
    one, other = heard_data(40, 4), heard_data(40, 4)
    forwards = [[i.text_position for i in one.batch(n)] for n in range(25)]
    assert [[i.text_position for i in other.batch(n)] for n in reversed(range(25))] == forwards[::-1]
    assert [i.text_position for i in heard_data(40, 4, 1).batch(0)] != forwards[0]
    first, again = packed(rows=3), packed(rows=3)
    rows = [first.batch(n) for n in range(12)]
    for n in reversed(range(12)):
        assert all(torch.equal(a, b) for a, b in zip(again.batch(n), rows[n]))
    assert samples(packed(rows=3, seed=1).batch(0)) != samples(rows[0])


@pytest.mark.parametrize(("count", "rows"), [(70, 4), (140, 4), (10, 4), (3, 8)])
def test_no_prompt_comes_twice_in_an_epoch_and_none_is_left_out_for_ever(count: int, rows: int) -> None:
    data = heard_data(count, rows)
    length = max(1, count // rows)
    epochs = []
    for epoch in range(8):
        batches = [data.batch(epoch * length + n) for n in range(length)]
        assert {len(batch) for batch in batches} == {min(rows, count)}
        epochs.append([item.text_position for batch in batches for item in batch])
        assert len(set(epochs[-1])) == len(epochs[-1]) > count - rows
    assert {number for epoch in epochs for number in epoch} == set(range(count))
    assert epochs[0] != epochs[1] or count < rows


def test_rows_of_a_batch_are_of_about_one_length() -> None:
    data = heard_data(64, 4)
    spread = [max(s) - min(s) for s in ([len(i.positions) + len(i.text) for i in data.batch(n)] for n in range(16))]
    assert sum(spread) / 16 <= 1


def test_count_is_the_number_of_tokens_asked_of_the_trunk() -> None:
    for data in (heard_data(20, 4), packed(rows=2)):
        for number in range(3):
            batch = data.batch(number)  # type: ignore[attr-defined]
            rows = data.sequences(batch)  # type: ignore[attr-defined]
            labels = shifted_labels(rows.ids, rows.segments, 0, rows.wanted, rows.starts)
            assert data.count(batch) == int((labels != IGNORED).sum()) > 0  # type: ignore[attr-defined]


def test_calls_start_behind_the_audio() -> None:
    data = heard_data(20, 4)
    batch = data.batch(0)
    rows = data.sequences(batch)
    for row, item in enumerate(batch):
        audio, size = len(item.positions), len(item.text) + 2
        wanted = [False] * audio + [True] * size + [False] * (rows.ids.shape[1] - audio - size)
        assert rows.starts[row].tolist() == wanted
        assert rows.ids[row, audio : audio + size].tolist() == [tiny.BOS, *item.text, tiny.EOS]
        assert torch.equal(rows.embeddings[row, :audio], item.embeddings)
    assert data.tokens()[7][-1] == tiny.EOS


@pytest.mark.parametrize("rows", [1, 3])
def test_packed_rows_hold_every_text_once_an_epoch(rows: int) -> None:
    data, whole = packed(rows=rows), Counter(map(tuple, texts(23)))
    length = len(data._packs)
    found = [pack for n in range(length) for pack in _rows_of(data.batch(n))]  # `rows` epochs
    for epoch in range(rows):
        part = found[epoch * length : (epoch + 1) * length]
        assert Counter(tuple(text) for row in part for text in row) == whole
    assert rows == 1 or found[:length] != found[length : 2 * length]
    assert any(len(row) > 1 for row in found)


def _rows_of(batch: tuple[Tensor, Tensor, Tensor]) -> list[list[list[int]]]:
    return [samples((ids[None], segments[None], ids)) for ids, segments in zip(*batch[:2])]


def test_packing_never_exceeds_and_positions_start_anew() -> None:
    data = PackedText(tiny.trunk(0), [*texts(9), [5] * 40], 2, 12, 3, 0)
    for number in range(6):
        ids, segments, positions = data.batch(number)
        assert ids.shape == segments.shape == positions.shape == (2, 12)
        assert torch.equal(ids < 0, segments < 0)
        for row in range(2):
            inside = int((segments[row] >= 0).sum())
            assert bool((segments[row, inside:] < 0).all())
            for n in range(int(segments[row].max()) + 1):
                places = positions[row, segments[row] == n]
                assert places.tolist() == list(range(len(places)))
    assert any([5] * 12 in samples(data.batch(n)) for n in range(6))  # cut, not lost


def test_no_call_starts_before_the_end_of_an_opening() -> None:
    data = packed(rows=2, prompt_tokens=3)
    batch = data.batch(0)
    rows = data.sequences(batch)
    labels = shifted_labels(rows.ids, rows.segments, 2, rows.wanted, rows.starts)
    for d in range(3):
        expected = torch.where(rows.starts, rows.positions + 1 + d, 0)
        assert bool((expected[labels[..., d] != IGNORED] >= 3 + d).all())
    asked = labels[..., 0][labels[..., 0] != IGNORED].tolist()
    assert Counter(asked) == Counter(token for text in samples(batch) for token in text[3:])
    assert data.tokens()[0] == data._texts[0][3:]
    with pytest.raises(DataError, match="no text longer than its prompt of 9 tokens"):
        packed(prompt_tokens=9)
    with pytest.raises(DataError, match="rows of 4"):
        packed(size=4, prompt_tokens=4)


def test_the_shortlist_keeps_frequent_tokens_and_the_end() -> None:
    said = [[5, 5, 5, 7], [7, 9, 5], []]
    assert likely_tokens(said, 3, 11, [2]).tolist() == [2, 5, 7]
    assert likely_tokens(said, 1, 11, [2]).tolist() == [2]
    assert likely_tokens(said, 6, 11, [2]).tolist() == [0, 1, 2, 5, 7, 9]
    assert likely_tokens([[]], 2, 11, [10]).tolist() == [0, 10]


@pytest.mark.parametrize("family", tiny.TRUNKS)
def test_own_continuations_are_the_trunks_greedy_ones(family: str) -> None:
    trunk = tiny.trunk(3, family)
    given = [[1, 4, 5, 6, 7, 8, 9, 3], [1, 7, 7], [1, 9, 3, 4], [1, 8, 5, 3, 3, 3, 3, 3, 3, 3, 3, 3]]
    found = own_continuations(trunk, given, 3, tiny.EOS)
    assert [t[:3] for t in found] == [given[2][:3], given[0][:3], given[3][:3]]
    for text, known in zip(found, (given[2], given[0], given[3])):
        ids, steps = torch.tensor([text]), torch.arange(len(text))[None]
        best = trunk.unembed(trunk(trunk.embed(ids), steps, torch.zeros_like(ids)).hidden)[0].argmax(-1)
        assert text[3:] == best[2:-1].tolist()
        assert len(text) == len(known) or text[-1] == tiny.EOS


def test_a_moved_trunk_says_and_opens_anew() -> None:
    """Prompts hold embeddings of the trunk: figures of a trunk that moved are those of a set made afresh."""
    trunk, heads = tiny.trunk(0), tiny.heads("latent", 3)

    def held_out() -> HeldOut:
        return HeldOut(
            trunk, lambda: [text_prompt(trunk, [[1, 5, n]]) for n in range(3, 9)], tiny.RULES, Limits(0.0, 9, 9)
        )

    kept = held_out()
    before = kept.figures(heads, False)
    known = kept._known
    tiny.randomise(trunk, 5, 3.0)
    kept.figures(heads, False)
    assert kept._known is known  # outputs of a trunk that stands still are made once
    after = kept.figures(heads, True)
    assert after == held_out().figures(heads, True) != before
    assert kept.figures(heads, False) == after


def test_prompts_on_file_are_those_of_the_same_model(tmp_path) -> None:
    items = [*heard(5), HeardText(torch.ones(2, tiny.WIDTH, dtype=torch.float64), torch.arange(2), 2, [])]
    path = tmp_path / "deep" / "prompts.safetensors"
    write_prompts(path, items, "key")
    assert [p.name for p in path.parent.iterdir()] == [path.name]
    for item, found in zip(items, read_prompts(path, "key"), strict=True):
        assert torch.equal(item.embeddings, found.embeddings) and torch.equal(item.positions, found.positions)
        assert (found.text, found.text_position) == (item.text, item.text_position)
    with pytest.raises(DataError, match="another model"):
        read_prompts(path, "other")
    from safetensors.torch import save_file

    save_file({"x": torch.zeros(1)}, path)
    with pytest.raises(DataError, match="another model"):
        read_prompts(path, "key")
    path.write_bytes(b"torn")
    with pytest.raises(DataError, match="cannot be read"):
        read_prompts(path, "key")
