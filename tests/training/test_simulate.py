"""Simulated segments: the errors of the bank at scale 1, on the position axis of the noisy labels."""

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from rapidfuzz.distance import Levenshtein

from speechmtp.data.batch import seeded
from speechmtp.errors import ConfigError, DataError
from speechmtp.models.adapter import CtcMerge, CtcMergeConfig
from speechmtp.models.segments import Segments
from speechmtp.training.simulate import NoiseConfig, SegmentBank, collect, simulate

VOCAB = 10
TOKENS = range(3, VOCAB)
EXACT = NoiseConfig(scale=(1.0, 1.0), clean=0.0)


def peaked(label: int, reference: int, top: float = 0.6, second: float = 0.25) -> np.ndarray:
    """A posterior whose first choice is the label and whose second is the reference."""
    row = np.linspace(0.001, 0.002, VOCAB + 1)
    row[reference], row[label] = second, top
    return row


def recognise(text: Sequence[int], random: np.random.Generator, sub: float, drop: float, add: float) -> list[int]:
    """Labels of a text with these error rates; token t is mostly taken for t + 1."""
    labels = []
    for token in text:
        if random.random() < add:
            labels.append(int(random.choice(TOKENS)))
        draw = random.random()
        if draw < drop:
            continue
        wrong = token + 1 if token + 1 < VOCAB else 3
        labels.append(wrong if draw < drop + sub else token)
    return labels


def random_texts(count: int, seed: int, low: int = 5, high: int = 25) -> list[list[int]]:
    random = np.random.default_rng(seed)
    return [random.integers(3, VOCAB, int(random.integers(low, high))).tolist() for _ in range(count)]


def make_bank(sub: float = 0.06, drop: float = 0.04, add: float = 0.03, error_rate: float | None = None) -> SegmentBank:
    """A bank of 500 texts."""
    bank, random = SegmentBank(VOCAB), np.random.default_rng(1)
    for text in random_texts(500, 2):
        labels = recognise(text, random, sub, drop, add)
        posterior = []
        for op in Levenshtein.opcodes(text, labels):
            for place in range(op.dest_start, op.dest_end):
                meant = VOCAB if op.tag == "insert" else text[op.src_start + place - op.dest_start]
                posterior.append(peaked(labels[place], meant))
        size = len(labels)
        features = np.tile([0.5, 0.6, 1.0, 0.1], (size, 1))
        bank.add(text, labels, np.array(posterior).reshape(size, VOCAB + 1), features)
    bank.freeze(0.1, error_rate)
    return bank


@pytest.fixture(scope="module")
def bank() -> SegmentBank:
    return make_bank()


def labels_of(segments: Segments) -> list[list[int]]:
    return [row[:n] for row, n in zip(segments.labels.tolist(), segments.lengths.tolist())]


def counts(texts: list[list[int]], recognised: list[list[int]]) -> dict[str, int]:
    found = {"replace": 0, "delete": 0, "insert": 0}
    for text, labels in zip(texts, recognised):
        for operation in Levenshtein.editops(text, labels):
            found[operation.tag] += 1
    return found


def test_the_bank_measures_what_it_was_given(bank: SegmentBank) -> None:
    assert bank.error_rate == pytest.approx(0.06 + 0.04 + 0.03, rel=0.1)
    assert float(bank.insertion) == pytest.approx(0.03, rel=0.3)


@pytest.mark.parametrize("scale", [1.0, 2.0])
def test_error_rates_are_those_of_the_bank_times_the_scale(bank: SegmentBank, scale: float) -> None:
    texts = random_texts(600, 5)
    config = NoiseConfig(scale=(scale, scale), clean=0.0)
    recognised = labels_of(simulate(texts, bank, config, np.random.default_rng(0)))
    tokens, found = sum(map(len, texts)), counts(texts, recognised)
    assert sum(found.values()) / tokens == pytest.approx(scale * bank.error_rate, rel=0.2)
    # At twice the rate, insertions beside deletions align as substitutions.
    for tag, rate in (("replace", 0.06), ("delete", 0.04), ("insert", 0.03)) if scale == 1 else ():
        assert found[tag] / tokens == pytest.approx(scale * rate, rel=0.3), tag


@pytest.mark.parametrize(("measured", "wanted"), [(0.1, 0.2), (0.1, 0.04), (0.004, 0.1), (0.0, 0.05)])
def test_a_bank_can_be_scaled_to_a_wanted_error_rate(measured: float, wanted: float) -> None:
    """Even where the bank has next to no errors of its own: the development set has."""
    bank = make_bank(measured / 2, measured / 4, measured / 4, error_rate=wanted)
    texts = random_texts(600, 5)
    found = counts(texts, labels_of(simulate(texts, bank, EXACT, np.random.default_rng(0))))
    assert sum(found.values()) / sum(map(len, texts)) == pytest.approx(wanted, rel=0.2)


def test_confusions_are_those_of_the_bank(bank: SegmentBank) -> None:
    texts = [[4] * 15] * 400
    recognised = np.concatenate(labels_of(simulate(texts, bank, EXACT, np.random.default_rng(0))))
    wrong = recognised[recognised != 4]
    assert np.mean(wrong == 5) > 0.5  # most of the substitutions, beside insertions and 10 % smoothing
    assert recognised.min() >= 0 and recognised.max() < VOCAB


def test_posteriors_belong_to_their_label_and_rows_are_padded(bank: SegmentBank) -> None:
    texts = random_texts(50, 6)
    segments = simulate(texts, bank, EXACT, np.random.default_rng(0))
    filled = torch.arange(segments.labels.shape[1]) < segments.lengths[:, None]
    assert segments.states is None
    assert torch.equal(segments.posterior.argmax(-1)[filled], segments.labels[filled])
    assert bool((segments.labels[~filled] == -1).all()) and bool((segments.posterior[~filled] == 0).all())
    assert bool((segments.features[~filled] == 0).all()) and bool((segments.features[filled] != 0).any())
    assert segments.posterior.dtype == segments.features.dtype == torch.float32


def test_an_insertion_moves_all_later_positions_by_one() -> None:
    bank = make_bank(sub=0.0, drop=0.0, add=0.05)
    bank.deletion[:] = bank.substitution[:] = 0.0  # the half counts of smoothing
    texts = random_texts(300, 7)
    segments = simulate(texts, bank, EXACT, np.random.default_rng(3))
    torch.manual_seed(0)
    adapter = CtcMerge(CtcMergeConfig(), 4, VOCAB + 1, 8)
    prompt = adapter(segments)
    seen = 0
    for row, (text, labels) in enumerate(zip(texts, labels_of(segments))):
        edits = Levenshtein.editops(text, labels).as_list()
        if [tag for tag, *_ in edits] != ["insert"]:
            continue
        seen += 1
        at = edits[0][2]
        for index, token in enumerate(text):
            place = index + (index >= at)
            assert labels[place] == token
            assert int(prompt.positions[row, place]) == place
            alone = adapter(_one(segments, row, place)).embeddings[0, 0]
            assert torch.allclose(prompt.embeddings[row, place], alone, atol=1e-6)
        assert int(prompt.lengths[row]) == len(text) + 2  # the inserted one and the end mark
    assert seen > 50


def _one(segments: Segments, row: int, place: int) -> Segments:
    part = slice(place, place + 1)
    return Segments(
        segments.posterior[row : row + 1, part], None, segments.features[row : row + 1, part],
        segments.labels[row : row + 1, part], torch.tensor([1]),
    )  # fmt: skip


def test_a_deletion_takes_its_segment_away() -> None:
    bank = make_bank(sub=0.0, drop=0.1, add=0.0)
    bank.substitution[:] = 0.0
    texts = random_texts(100, 8)
    for text, labels in zip(texts, labels_of(simulate(texts, bank, EXACT, np.random.default_rng(0)))):
        rest = iter(text)
        assert all(label in rest for label in labels)  # a subsequence


def test_the_clean_share_has_no_errors(bank: SegmentBank) -> None:
    texts = random_texts(800, 9, low=20, high=25)
    config = NoiseConfig(scale=(3.0, 3.0), clean=0.3)
    recognised = labels_of(simulate(texts, bank, config, np.random.default_rng(0)))
    assert np.mean([text == labels for text, labels in zip(texts, recognised)]) == pytest.approx(0.3, abs=0.05)
    silent = labels_of(simulate(texts, bank, NoiseConfig(scale=(3.0, 3.0), clean=1.0), np.random.default_rng(0)))
    assert silent == texts


def test_scales_differ_between_utterances(bank: SegmentBank) -> None:
    texts = [[3, 5, 7, 9] * 25] * 200
    spread = []
    for scale in ((1.0, 1.0), (0.0, 2.0)):
        recognised = labels_of(simulate(texts, bank, NoiseConfig(scale=scale, clean=0.0), np.random.default_rng(0)))
        spread.append(np.std([Levenshtein.distance(t, h) for t, h in zip(texts, recognised)]))
    assert spread[1] > 1.5 * spread[0]


def test_segments_are_a_pure_function_of_texts_bank_and_generator(bank: SegmentBank) -> None:
    texts = random_texts(20, 10)
    first, second, other = (simulate(texts, bank, EXACT, seeded("draw", seed)) for seed in (0, 0, 1))
    for name in ("posterior", "features", "labels", "lengths"):
        assert torch.equal(getattr(first, name), getattr(second, name))
    assert labels_of(first) != labels_of(other)


def single_error_bank() -> SegmentBank:
    """Tokens 3 and 4 recognised right, and 3 taken for 4 once."""
    bank = SegmentBank(VOCAB)
    bank.add([3, 4, 3], [3, 4, 4], np.array([peaked(3, 8), peaked(4, 8), peaked(4, 3)]), np.ones((3, 4)))
    bank.freeze(0.1)
    return bank


PAIRS = [(r, t) for r in TOKENS for t in TOKENS if r != t]


@pytest.mark.parametrize(("reference", "label"), PAIRS)
def test_unseen_pairs_borrow_an_error_with_both_tokens_exchanged(reference: int, label: int) -> None:
    posterior, features = single_error_bank().draw(np.array([reference]), np.array([label]), np.random.default_rng(0))
    row = posterior[0]
    assert row[label] == pytest.approx(0.6) and row[reference] == pytest.approx(0.25)
    assert sorted(row) == pytest.approx(sorted(peaked(4, 3)))  # the same numbers at other places
    assert features.tolist() == [[1.0] * 4]


def test_unseen_correct_tokens_come_out_on_top_and_seen_pairs_as_they_were() -> None:
    bank = single_error_bank()
    tokens = np.array([5, 3, 3, 4])
    posterior, _ = bank.draw(tokens, np.array([5, 3, 4, 4]), np.random.default_rng(0))
    assert posterior[0].argmax() == 5
    for row, wanted in zip(posterior[1:], (peaked(3, 8), peaked(4, 3), peaked(4, 8))):
        assert row == pytest.approx(wanted)
    assert bank.posterior.max() == pytest.approx(0.6)  # the bank itself was not changed
    again, _ = bank.draw(tokens, np.array([5, 3, 4, 4]), np.random.default_rng(0))
    assert np.array_equal(posterior, again)


def test_a_bank_without_any_error_serves_all_pairs() -> None:
    bank = SegmentBank(VOCAB)
    bank.add([3, 4], [3, 4], np.array([peaked(3, 8), peaked(4, 8)]), np.ones((2, 4)))
    bank.freeze(0.1)
    pairs = [(r, t) for r in (3, 4, 5, 6) for t in (3, 4, 5, 6)]
    posterior, _ = bank.draw(*np.array(pairs).T, np.random.default_rng(0))
    assert posterior.argmax(1).tolist() == [label for _, label in pairs]
    simulate([[3, 4, 5]], bank, NoiseConfig(scale=(2.0, 2.0)), np.random.default_rng(0))


def test_an_empty_bank_is_an_error() -> None:
    with pytest.raises(DataError, match="no segment"):
        SegmentBank(VOCAB).freeze(0.1)


def test_real_segments_go_into_the_bank_in_half_precision() -> None:
    posterior = torch.rand(2, 3, VOCAB + 1)
    segments = Segments(
        posterior, None, torch.rand(2, 3, 4), torch.tensor([[3, 4, 5], [6, -1, -1]]), torch.tensor([3, 1])
    )
    bank = SegmentBank(VOCAB)
    collect(bank, [[3, 5], [6]], segments)
    assert bank.error_rate == pytest.approx(1 / 3)
    bank.freeze(0.1)
    assert sorted(zip(bank.reference.tolist(), bank.label.tolist())) == [(3, 3), (5, 5), (6, 6), (VOCAB, 4)]
    drawn, _ = bank.draw(np.array([6]), np.array([6]), np.random.default_rng(0))
    assert drawn[0] == pytest.approx(posterior[1, 0].half().float().numpy())


@pytest.mark.parametrize("wrong", [{"scale": (1.0,)}, {"scale": (2.0, 1.0)}, {"smooth": 0.0}])
def test_noise_that_cannot_be_drawn_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match="noise"):
        NoiseConfig(**wrong)  # type: ignore[arg-type]
