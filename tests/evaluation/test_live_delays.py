"""The arithmetic of live delays, on words and events that are written down."""

import pytest

from speechmtp.evaluation.live_delays import Delays, SaidLive, Shown, WordMatcher, delay_figures, retracted, shown_since
from speechmtp.streaming.events import Committed, Ended, Final, Reason, SpeechStarted, StreamEvent, Tail
from speechmtp.text.normalize import get_normalizer
from speechmtp.words.word import Word

NORMALISE = get_normalizer("whisper-en")
REFERENCE = [Word(text, end - 0.2, end) for text, end in (("A", 0.5), ("CAT", 1.0), ("DID", 1.5), ("NOT", 2.0))]


def committed(text: str, time: float) -> Committed:
    """An event of these words."""
    return Committed(text, tuple(Word(word) for word in text.split()), time)


def final(text: str, time: float, reason: Reason = "endpoint") -> Final:
    """The end of a segment."""
    return Final(text, tuple(Word(word) for word in text.split()), 0.0, time, reason, time)


EVENTS: list[StreamEvent] = [
    SpeechStarted(0.2, 0.4),
    Tail("A cap", 1.0),
    committed("A", 1.5), Tail(" cat did", 1.5),
    committed(" cat", 2.0), Tail(" dig on", 2.0),
    committed(" didn't.", 2.75), Tail("", 2.75),
    final("A cat didn't.", 2.75), Ended(3.0),
]  # fmt: skip


def test_events_become_words_and_texts() -> None:
    said = SaidLive.of(EVENTS)
    assert said.text == "A cat didn't." and said.words == (("A", 1.5), ("cat", 2.0), ("didn't.", 2.75))
    assert said.shown == (
        Shown(1.0, "A cap"), Shown(1.5, "A cat did"), Shown(2.0, "A cat dig on"), Shown(2.75, "A cat didn't.")
    )  # fmt: skip
    assert said.ends == ((2.75, 3),), "the segment that silence ended, with the words committed by then"


def test_only_silence_ends_a_segment_in_time() -> None:
    for reason in ("finish", "flush", "full", "pause"):
        assert not SaidLive.of([committed("a", 1.0), final("a", 1.0, reason)]).ends
    assert not SaidLive.of([final("", 1.0)]).ends


def test_delays_are_from_the_end_of_each_word_that_is_right() -> None:
    found = Delays.of(REFERENCE, SaidLive.of(EVENTS), NORMALISE)
    # "didn't" says "did" and "not", and is committed once both are.
    assert found.committed == pytest.approx([1.0, 1.0, 1.25, 0.75])
    assert found.shown == pytest.approx([0.5, 0.5, 1.25, 0.75]), "`cat` was `cap` at first, `did` was taken back"
    assert found.ends == pytest.approx([0.75]) and found.first_word == pytest.approx(1.0)
    assert found.first_text == pytest.approx(1.0 - 0.3), "from the start of the first word"
    assert (found.words, found.final_words, found.retracted) == (4, 3, 1 + 1 + 2), "cap; did; dig, on"


def test_wrong_and_unaligned_words_have_no_delay_but_count() -> None:
    said = SaidLive.of([committed("the", 1.0), committed(" cat", 1.5), final("the cat", 1.5)])
    reference = [Word("a", 0.3, 0.5), Word("cat", None, None), Word("sat", 1.1, 1.4)]
    found = Delays.of(reference, said, NORMALISE)
    assert (found.committed, found.shown, found.ends, found.first_word, found.words) == ([], [], [], None, 3)
    assert found.first_text == pytest.approx(0.7)
    figures = delay_figures([found])
    assert figures["coverage"] == 0.0 and figures["delay_mean"] is None and figures["delays"] == []


def test_without_words_there_is_nothing_to_tell() -> None:
    for reference in ([], REFERENCE):
        found = Delays.of(reference, SaidLive.of([]), NORMALISE)
        assert (found.committed, found.first_word, found.first_text, found.retracted) == ([], None, None, 0)
    assert delay_figures([])["coverage"] is None and delay_figures([])["flicker"] is None


def test_a_word_said_twice_is_matched_in_the_order_of_speech() -> None:
    matcher = WordMatcher(NORMALISE)
    assert matcher.match("the cat the dog".split(), ["the"]) == [0, None, None, None], "not the later one"
    assert matcher.match("the cat the dog".split(), "the the dog".split()) == [0, None, 1, 2]
    assert matcher.match(["uh", "Mr.", "Fox"], ["Mister", "fox,"]) == [None, 0, 1]
    assert matcher.said_at_all(["uh", "Mr.", "Fox"]) == 2


def test_a_word_is_shown_since_it_stays() -> None:
    matcher = WordMatcher(NORMALISE)
    texts = ["a", "a b", "a", "a b", "x a b"]
    said = SaidLive("x a b", (), tuple(Shown(float(i), text) for i, text in enumerate(texts)))
    assert shown_since(said, matcher) == (("x", 4.0), ("a", 0.0), ("b", 3.0))
    assert retracted(said, matcher) == 1


def test_case_and_punctuation_do_not_flicker() -> None:
    said = SaidLive("Yes, I do.", (), (Shown(1.0, "yes I"), Shown(2.0, "Yes, I do."), Shown(3.0, "Yes, I do.")))
    matcher = WordMatcher(NORMALISE)
    assert retracted(said, matcher) == 0 and [time for _, time in shown_since(said, matcher)] == [1.0, 1.0, 2.0]


def test_figures_are_over_the_words_of_all_recordings() -> None:
    one = Delays(4, [1.0, 2.0], [0.5], [0.6], 1.0, 0.2, 1, 2)
    two = Delays(6, [3.0], [], [], None, 0.4, 0, 2)
    found = delay_figures([one, two])
    assert (found["delay_mean"], found["delay_median"], found["coverage"]) == (2.0, 2.0, 0.3)
    assert found["delay_p90"] == pytest.approx(2.8) and found["delay_p99"] == pytest.approx(2.98)
    assert (found["first_word_mean"], found["finals"], found["flicker"]) == (1.0, 1, 0.25)
    assert found["first_text_mean"] == pytest.approx(0.3) and found["delays"] == [1.0, 2.0, 3.0]
