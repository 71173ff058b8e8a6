"""The front end: words with their places, units, sentences, and text of any kind."""

import time

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from speechmtp.errors import ConfigError
from speechmtp.g2p.assembly import LONGEST
from speechmtp.g2p.frontend import FrontEnd
from speechmtp.g2p.symbols import SYMBOLS
from speechmtp.g2p.units import Sentence

FRONT_END = FrontEnd()


def read(text: str, front_end: FrontEnd = FRONT_END) -> list[Sentence]:
    return list(front_end.sentences(text))


def check(text: str, found: list[Sentence]) -> None:
    """What holds for the sentences of any text without markup."""
    seen = 0
    covered: set[int] = set()
    for sentence in found:
        assert text[sentence.start : sentence.end] == sentence.text
        assert sentence.start >= seen or sentence.words[0].end > seen  # a very long word goes on
        seen = sentence.start
        assert bool(sentence.words) == bool(sentence.units)
        assert len(sentence.units) <= LONGEST
        assert set(sentence.phones) <= set(SYMBOLS)
        assert not sentence.phones.endswith(" ") and "  " not in sentence.phones
        order = [unit.word for unit in sentence.units]
        assert order == sorted(order)
        for number, word in enumerate(sentence.words):
            assert text[word.start : word.end] == word.text and word.text
            said = "".join(unit.symbol for unit in sentence.units if unit.word == number)
            assert word.phones and word.phones in said
            covered.update(range(word.start, word.end))
        skipped = "".join(sentence.skipped)
        covered.update(i for i in range(sentence.start, sentence.end) if text[i] in skipped)
    lost = [one for i, one in enumerate(text) if one.isalnum() and i not in covered]
    assert not lost


def test_a_sentence_has_words_with_places_and_units_with_words() -> None:
    text = 'He paid "$3.50"  to Dr. Lee.'
    (sentence,) = read(text)
    assert sentence.phones == "hˌi pˈAd “θɹˈi dˈɑləɹz ænd fˈɪfti sˈɛnts” tə dˈɑktəɹ lˈi."
    assert [word.text for word in sentence.words] == ["He", "paid", "$3.50", "to", "Dr.", "Lee"]
    assert [text[word.start : word.end] for word in sentence.words] == [word.text for word in sentence.words]
    assert sentence.words[2].phones == "θɹˈi dˈɑləɹz ænd fˈɪfti sˈɛnts"
    opening = sentence.phones.index("“")
    assert sentence.units[opening].word == 1 and sentence.units[opening + 1].word == 2
    assert sentence.units[-1].symbol == "." and sentence.units[-1].word == 5
    check(text, [sentence])


@pytest.mark.parametrize("text", ["", " \n\n ", "...", "?!", "— –", "😀", "[", "*_*", "\ufffc\ufffc"])
def test_what_says_nothing_has_no_units(text: str) -> None:
    assert not any(sentence.units for sentence in read(text))


def test_what_cannot_be_read_is_skipped_and_named() -> None:
    (sentence,) = read("The word 你好 means hello 😀 in Привет.")
    assert sentence.skipped == ("你好", "😀", "Привет")
    assert sentence.phones == "ðə wˈɜɹd mˈinz həlˈO ˈɪn."


def test_leading_marks_belong_to_the_first_word() -> None:
    (sentence,) = read("“(Well) then”")
    assert [unit.word for unit in sentence.units[:3]] == [0, 0, 0]
    assert sentence.phones.startswith("“(w")


def test_a_long_sentence_is_cut_at_clauses_then_at_blanks() -> None:
    clauses = "the quick brown fox jumps over the lazy dog, " * 30
    words = "the quick brown fox jumps over the lazy dog " * 30
    for text, ends in ((clauses, ","), (words, "ɡzsktiəɹpn")):
        found = read(text.strip() + ".")
        assert len(found) > 3
        assert all(sentence.phones[-1] in ends for sentence in found[:-1])
        assert sum(len(sentence.words) for sentence in found) == 270
        check(text.strip() + ".", found)


def test_a_word_without_end_is_read_in_pieces() -> None:
    text = "b" * 4000 + " " + "banana" * 700
    found = read(text)
    check(text, found)
    assert sum(len(sentence.units) for sentence in found) > 4000


def test_sentences_are_read_lazily() -> None:
    text = "It was a dark night. " * 50000
    started = time.process_time()
    first = next(FRONT_END.sentences(text))
    assert first.text == "It was a dark night."
    assert time.process_time() - started < 1


@settings(max_examples=100, deadline=None)
@given(st.text(max_size=80))
@example("ǅ ⅷ ²½ ㎏ ﬁ ª 𝟘 Ⅻ ① ٣")
@example("a.b@c.de #x @y http://z 1/2 3:4 5-6 $7k 8°C 9' 10\" -1 +2 ~3")
@example("1,2,3.4.5,678,9 00 1e5 0x1F 12:99 99/99 2024-13-40 $1,2")
@example("'''\"\"''a'b''c'd 'e' f'' ''' n't 's")
@example("K\u0327́ o\u0308 \u0301 \u200d\u200b\ufeff\ud800")
def test_any_text_is_read_and_no_letter_is_lost(text: str) -> None:
    check(text, read(text))


@settings(max_examples=100, deadline=None)
@given(st.text(alphabet="aB.,'\"-$€%/:1290 [](){}#@&+=*_~^<>|\\\n—…°é½²ß私", max_size=60))
def test_any_signs_are_read_and_no_letter_is_lost(text: str) -> None:
    check(text, read(text))


def test_nothing_takes_long() -> None:
    """Texts that repeat one sign or one pattern for ever."""
    for piece in (
        "a.",
        "a-",
        "aB",
        "1,",
        "1.",
        "1/2",
        "$1-",
        "'",
        '"',
        ".",
        "[a](/",
        "#",
        "http://",
        "a@",
        "I",
        "(",
        "-",
        " ",
        "\n",
    ):
        started = time.process_time()
        for _ in FRONT_END.sentences(piece * (2500 // len(piece))):
            pass
        assert time.process_time() - started < 1, piece


def test_own_words_win_over_all_rules() -> None:
    front_end = FrontEnd({"kokoro": "kˈOkəɹO", "C++": "sˈi", "US": "ˈʌs", "read": "ɹˈɛd"})
    (sentence,) = read("Kokoro and KOKORO, C++ and the US read kokoro.", front_end)
    assert sentence.phones == "kˈOkəɹO ænd kˈOkəɹO, sˈi ænd ði ˈʌs ɹˈɛd kˈOkəɹO."
    assert sentence.words[3].text == "C++"
    (sentence,) = read("Kokoro's and C++'s.", front_end)
    assert sentence.phones == "kˈOkəɹOz ænd sˈiz."


def test_wrong_arguments_are_named() -> None:
    with pytest.raises(ConfigError, match="lexicon, 'x': 'Z' as symbol 2 of 'kZ', no such phone; write"):
        FrontEnd({"x": "kZ"})
    with pytest.raises(ConfigError, match="markup: 'html', expected 'text' or 'ssml'"):
        list(FRONT_END.sentences("x", markup="html"))  # type: ignore[arg-type]


def test_a_sentence_takes_less_than_five_milliseconds() -> None:
    lines = ["On March 5, 2024 at 9:05 pm, Dr. Smith paid $3.2 billion; I read it, and they live 5 km away."] * 20
    read(lines[0])
    started = time.process_time()
    for line in lines:
        read(line)
    assert (time.process_time() - started) / len(lines) < 0.02  # 2 ms where nothing else runs; 5 ms is the promise
