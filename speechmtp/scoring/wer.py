"""Word, sentence and character error rates of hypotheses joined to references by utterance id."""

import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rapidfuzz.distance import Levenshtein

from speechmtp.errors import DataError
from speechmtp.scoring.align import Pair, align, operation
from speechmtp.text.normalize import Normalizer

ASCII_SPACE = " \t\n\r\f\v"


@dataclass(frozen=True)
class Counts:
    """Counts of an alignment: hits + sub + del_ = reference words, hits + sub + ins = hypothesis words."""

    hits: int = 0
    sub: int = 0
    del_: int = 0
    ins: int = 0

    @property
    def errors(self) -> int:
        """The sum of substitutions, deletions and insertions."""
        return self.sub + self.del_ + self.ins

    @property
    def ref_words(self) -> int:
        """Words in the reference."""
        return self.hits + self.sub + self.del_

    @property
    def hyp_words(self) -> int:
        """Words in the hypothesis."""
        return self.hits + self.sub + self.ins

    def __add__(self, other: "Counts") -> "Counts":
        """The sum of both counts."""
        return Counts(self.hits + other.hits, self.sub + other.sub, self.del_ + other.del_, self.ins + other.ins)


@dataclass(frozen=True)
class UtteranceScore:
    """One utterance's alignment after normalisation, its word counts and its character errors."""

    utterance: str
    pairs: tuple[Pair, ...]
    counts: Counts
    char_errors: int
    chars: int  # reference code points

    @property
    def hypothesis(self) -> tuple[str, ...]:
        """The hypothesis words, normalised."""
        return tuple(hyp for _, hyp in self.pairs if hyp is not None)

    @property
    def reference(self) -> tuple[str, ...]:
        """The reference words, normalised."""
        return tuple(ref for ref, _ in self.pairs if ref is not None)


@dataclass(frozen=True)
class Report:
    """A scored system: utterances in byte order of their ids, and the mismatches of the two lists.

    Missing hypotheses are scored as empty, extra ones are left out; `problems` has one line for each kind of mismatch
    that was not allowed. Rates are percent, None when the references have no word (or character).
    """

    utterances: tuple[UtteranceScore, ...]
    normalizer: Mapping[str, Any]  # the normaliser's record and what it was applied to
    missing: tuple[str, ...] = ()  # references without a hypothesis
    extra: tuple[str, ...] = ()  # hypotheses without a reference
    empty: tuple[str, ...] = ()  # hypotheses without a word
    empty_refs: tuple[str, ...] = ()
    emptied: tuple[str, ...] = ()  # utterances of which a side lost all words in normalisation
    raw: Counts = field(default_factory=Counts)  # without any normaliser
    problems: tuple[str, ...] = ()
    sclite: bool = False
    keep_space: bool = False  # spaces count as characters in the CER

    @property
    def counts(self) -> Counts:
        """Word counts over all utterances."""
        return total(score.counts for score in self.utterances)

    @property
    def wer(self) -> float | None:
        """Errors over reference words, in percent: the corpus rate, not a mean of utterance rates."""
        return percent(self.counts.errors, self.counts.ref_words)

    @property
    def raw_wer(self) -> float | None:
        """The word error rate without normalisation, in percent."""
        return percent(self.raw.errors, self.raw.ref_words)

    @property
    def cer(self) -> float | None:
        """Character errors over reference characters (code points after NFC), in percent."""
        return percent(sum(u.char_errors for u in self.utterances), sum(u.chars for u in self.utterances))

    @property
    def sentence_errors(self) -> int:
        """The number of utterances with an error."""
        return sum(score.counts.errors > 0 for score in self.utterances)

    @property
    def ser(self) -> float | None:
        """Utterances with an error over all utterances, in percent."""
        return percent(self.sentence_errors, len(self.utterances))


def total(counts: Iterable[Counts]) -> Counts:
    """The sum of `counts`."""
    return sum(counts, Counts())


def percent(errors: int, units: int) -> float | None:
    """`errors` per hundred `units`; None for no units."""
    return 100.0 * errors / units if units else None


def split_words(text: str) -> list[str]:
    """The words of `text`, separated by ASCII white space (other Unicode spaces do not separate)."""
    for char in ASCII_SPACE[1:]:
        text = text.replace(char, " ")
    return [word for word in text.split(" ") if word]


def count(pairs: Iterable[Pair]) -> Counts:
    """Hits, substitutions, deletions and insertions of an alignment."""
    kinds = [operation(pair) for pair in pairs]
    return Counts(kinds.count("C"), kinds.count("S"), kinds.count("D"), kinds.count("I"))


def score(
    refs: Mapping[str, str],
    hyps: Mapping[str, str],
    normalizer: Normalizer,
    allow_missing: bool = False,
    allow_extra: bool = False,
    *,
    sclite: bool = False,
    keep_space: bool = False,
) -> Report:
    """Score `hyps` against `refs`, both mappings from utterance id to text, with one normaliser for both sides.

    DataError if there is no reference. Totals are recomputed with jiwer and must agree; an AssertionError otherwise is
    a bug of this program, not a fault of the data.
    """
    if not refs:
        raise DataError("references: no utterance to score, at least one expected; check the text file")
    missing = _byte_order(set(refs) - set(hyps))
    extra = _byte_order(set(hyps) - set(refs))
    ids = _byte_order(refs)
    texts = [(refs[utterance], hyps.get(utterance, "")) for utterance in ids]
    sides = [(split_words(normalizer(ref)), split_words(normalizer(hyp))) for ref, hyp in texts]
    scores = tuple(_score_one(utterance, ref, hyp, sclite, keep_space) for utterance, (ref, hyp) in zip(ids, sides))
    raw_sides = [(split_words(ref), split_words(hyp)) for ref, hyp in texts]
    raw = total(u.counts for u in scores)
    if raw_sides != sides:
        raw = total(count(align(ref, hyp, sclite=sclite)) for ref, hyp in raw_sides)
    emptied = [
        utterance
        for utterance, before, after in zip(ids, raw_sides, sides)
        if any(words and not left for words, left in zip(before, after))
    ]
    report = Report(
        utterances=scores,
        normalizer={**normalizer.record(), "applied_to": ["reference", "hypothesis"]},
        missing=missing,
        extra=extra,
        empty=tuple(u for u, (_, hyp) in zip(ids, sides) if not hyp and u in hyps),
        empty_refs=tuple(u for u, (ref, _) in zip(ids, sides) if not ref),
        emptied=tuple(emptied),
        raw=raw,
        problems=_problems(missing, extra, len(refs), allow_missing, allow_extra),
        sclite=sclite,
        keep_space=keep_space,
    )
    _check_against_jiwer(report, sides)
    return report


def _score_one(utterance: str, ref: list[str], hyp: list[str], sclite: bool, keep_space: bool) -> UtteranceScore:
    pairs = tuple(align(ref, hyp, sclite=sclite))
    ref_chars, hyp_chars = _characters(ref, keep_space), _characters(hyp, keep_space)
    return UtteranceScore(utterance, pairs, count(pairs), Levenshtein.distance(ref_chars, hyp_chars), len(ref_chars))


def _characters(words: Sequence[str], keep_space: bool) -> str:
    return unicodedata.normalize("NFC", (" " if keep_space else "").join(words))


def _byte_order(ids: Iterable[str]) -> tuple[str, ...]:
    return tuple(sorted(ids, key=lambda utterance: utterance.encode("utf-8", "surrogatepass")))


def _problems(
    missing: Sequence[str], extra: Sequence[str], refs: int, allow_missing: bool, allow_extra: bool
) -> tuple[str, ...]:
    """One line for each kind of mismatch that was not allowed."""
    problems = []
    if missing and not allow_missing:
        problems.append(
            f"hypotheses: {len(missing)} of {refs} utterances missing ({_some(missing)}), all expected; "
            "decode them, or allow missing ones, which count as deletions"
        )
    if extra and not allow_extra:
        problems.append(
            f"hypotheses: {len(extra)} utterances without a reference ({_some(extra)}), none expected; "
            "check the data directory, or allow extra ones, which are left out"
        )
    return tuple(problems)


def _some(ids: Sequence[str], max_shown: int = 5) -> str:
    return ", ".join(ids[:max_shown]) + (", …" if len(ids) > max_shown else "")


def _check_against_jiwer(report: Report, sides: Sequence[tuple[list[str], list[str]]]) -> None:
    """Raise an AssertionError unless jiwer finds the same word and character errors."""
    import jiwer

    words = jiwer.ReduceToListOfListOfWords()
    refs, hyps = [" ".join(ref) for ref, _ in sides], [" ".join(hyp) for _, hyp in sides]
    other = jiwer.process_words(refs, hyps, words, words)
    theirs = other.substitutions + other.deletions + other.insertions
    ours = report.counts
    # sclite's costs may prefer a path with more errors, but never one with fewer
    agree = ours.errors >= theirs if report.sclite else ours.errors == theirs
    if not agree or ours.ref_words != sum(len(ref) for ref, _ in sides):
        raise AssertionError(f"scoring: {ours.errors} word errors here, {theirs} by jiwer; please report this")
    chars = jiwer.ReduceToListOfListOfChars()
    refs = [_characters(ref, report.keep_space) for ref, _ in sides]
    hyps = [_characters(hyp, report.keep_space) for _, hyp in sides]
    check = jiwer.process_characters(refs, hyps, chars, chars)
    theirs = check.substitutions + check.deletions + check.insertions
    mine = sum(score.char_errors for score in report.utterances)
    if mine != theirs:
        raise AssertionError(f"scoring: {mine} character errors here, {theirs} by jiwer; please report this")
