"""Pronunciations and pauses in plain text, SSML, and lexicon files; what is wrong in them is named."""

import itertools
import re
from pathlib import Path

import pytest

from speechmtp.errors import DataError
from speechmtp.g2p.frontend import FrontEnd
from speechmtp.g2p.units import Sentence

FRONT_END = FrontEnd()


def plain(text: str) -> list[Sentence]:
    return list(FRONT_END.sentences(text))


def ssml(inside: str) -> list[Sentence]:
    return list(FRONT_END.sentences(f"<speak>{inside}</speak>", markup="ssml"))


def pauses(sentence: Sentence) -> list[tuple[int, str, float]]:
    """Index, symbol and seconds of the units of fixed length."""
    return [(i, unit.symbol, unit.seconds) for i, unit in enumerate(sentence.units) if unit.seconds is not None]


def test_a_given_pronunciation_is_read_as_it_is() -> None:
    text = "Say [Kokoro 82](/kˈOkəɹO/) and [end.](/ˈɛnd/) it."
    (sentence,) = plain(text)
    assert sentence.phones == "sˈA kˈOkəɹO ænd ˈɛnd ɪt."
    word = sentence.words[1]
    assert (word.text, text[word.start : word.end], word.phones) == ("Kokoro 82", "Kokoro 82", "kˈOkəɹO")


def test_a_given_pronunciation_shapes_its_neighbours() -> None:
    assert plain("The [x](/ˈæpᵊl/) and the [y](/kˈæt/).")[0].phones == "ði ˈæpᵊl ænd ðə kˈæt."


def test_symbols_that_voices_lack_become_their_like() -> None:
    assert plain("[x](/wˈɔɾəʔg/)")[0].phones == "wˈɔTətɡ"


def test_a_pause_is_the_length_of_the_mark_before_it_or_of_a_new_comma() -> None:
    (after_mark,) = plain("Well, [pause 300ms] go on.")
    assert [(symbol, length) for _, symbol, length in pauses(after_mark)] == [(",", 0.3)]
    assert after_mark.phones == "wˈɛl, ɡˌO ˌɔn."
    (without,) = plain("Well [pause 1.5s][pause 500 ms] go on.")
    assert [(symbol, length) for _, symbol, length in pauses(without)] == [(",", 2.0)]
    assert without.phones == "wˈɛl, ɡˌO ˌɔn."


def test_a_pause_between_sentences_ends_the_first_one() -> None:
    first, second = plain("One. [pause 1s] Two.")
    assert pauses(first) == [(len(first.units) - 1, ".", 1.0)] and not pauses(second)
    (last,) = plain("One. [pause 2s]")
    assert pauses(last) == [(len(last.units) - 1, ".", 2.0)]


def test_a_pause_before_everything_is_a_comma() -> None:
    (sentence,) = plain("[pause 1s] One.")
    assert pauses(sentence) == [(0, ",", 1.0)] and sentence.phones == ",wˈʌn."


@pytest.mark.parametrize("text", ["[pause]", "[pause for effect]", "[word](http://x.y)", "[a] (/b/)"])
def test_other_brackets_are_text(text: str) -> None:
    assert plain(text)[0].words


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("Say [x](/kZk/).", "text, character 5: 'Z' as symbol 2 of 'kZk', no such phone; write misaki's symbols"),
        ("[x](//)", "text, character 1: no phones, expected at least one; write"),
        ("A. [pause 99s]", "text, character 4: a pause of '99s', expected 0ms to 30s; write it as 300ms or 1.5s"),
        ("A. [pause 1.2.3s]", "text, character 4: a pause of '1.2.3s', expected"),
    ],
)
def test_wrong_markup_is_named_before_anything_is_read(text: str, message: str) -> None:
    with pytest.raises(DataError, match=re.escape(message)):
        next(FRONT_END.sentences(f"{text}"))


def test_ssml_has_places_in_its_source() -> None:
    text = '<speak>\n<p>Tom &amp; <sub alias="World Wide Web">WWW</sub> &#233;t</p> <s>Is it. Yes</s></speak>'
    first, second = list(FRONT_END.sentences(text, markup="ssml"))
    assert [word.text for word in first.words] == ["Tom", "&amp;", "WWW", "&#233;t"]
    assert all(text[word.start : word.end] == word.text for word in (*first.words, *second.words))
    assert first.words[2].phones == "wˈɜɹld wˈId wˈɛb"
    assert second.phones == "ɪz ɪt. jˈɛs" or second.phones == "ˌɪz ɪt. jˈɛs"  # one sentence, as the tag says


def test_ssml_breaks_are_pauses() -> None:
    (sentence,) = ssml('One <break time="250ms"/> two, <break strength="strong"/> three <break strength="none"/> four')
    assert [(symbol, length) for _, symbol, length in pauses(sentence)] == [(",", 0.25), (",", 0.75)]
    (bare,) = ssml("One.<break/>")
    assert [(symbol, length) for _, symbol, length in pauses(bare)] == [(".", 0.5)]


def test_ssml_phonemes_are_misakis_or_ipa() -> None:
    (sentence,) = ssml(
        '<phoneme alphabet="x-misaki" ph="pəkˈɑn">pecan</phoneme> <phoneme alphabet="ipa" ph="ˈtʃɛroʊkiː">x</phoneme>'
        ' <phoneme ph="rəˈpɔɹt deɪ ˈaɪdl̩">y</phoneme>'
    )
    assert sentence.phones == "pəkˈɑn ʧˈɛɹOki ɹəpˈɔɹt dA ˈIdᵊl"
    assert [word.text for word in sentence.words] == ["pecan", "x", "y"]


def test_ssml_rates_are_speeds() -> None:
    (sentence,) = ssml(
        'a <prosody rate="120%">b <prosody rate="slow">c</prosody></prosody> <prosody rate="0.7">d</prosody>'
    )
    speeds = {word.text: {unit.speed for unit in sentence.units if unit.word == i and unit.symbol != " "}
              for i, word in enumerate(sentence.words)}  # fmt: skip
    assert speeds == {"a": {1.0}, "b": {1.2}, "c": {1.2 * 0.85}, "d": {0.7}}


def test_ssml_of_any_length_is_read_in_order() -> None:
    inside = "".join(f"<p>Number {i}. It goes on &amp; on.</p>" for i in range(100))
    found = ssml(inside)
    assert len(found) == 200
    assert all(one.end <= other.start for one, other in itertools.pairwise(found))
    running = ssml("It was a dark night. " * 400)
    assert len(running) == 400 and {sentence.text for sentence in running} == {"It was a dark night."}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("<speak>a", "SSML, line 1, column 9: no element found, expected well-formed XML; close every tag"),
        ("<speak>\n a < b</speak>", "SSML, line 2, column 5: not well-formed (invalid token), expected"),
        ("<speak>a & b</speak>", "expected well-formed XML; close every tag and write & as &amp;"),
        ("<speak><p>a</speak>", "SSML, line 1, column 14: mismatched tag, expected"),
        ("plain", "SSML, line 1, column 1: syntax error, expected"),
        ("", "SSML, line 1, column 1: no element found, expected"),
        (
            "<speak><audio src='x'/></speak>",
            "SSML, line 1, column 8: the tag <audio>, expected a tag that a voice obeys",
        ),
        ("<p>a</p>", "SSML, line 1, column 1: the tag <p>, expected one <speak> around everything"),
        ("<speak><speak>a</speak></speak>", "column 8: the tag <speak>, expected one <speak> around everything"),
        (
            "<speak><prosody pitch='high'>a</prosody></speak>",
            "the attribute 'pitch' of <prosody>, expected rate; leave",
        ),
        ("<speak><prosody>a</prosody></speak>", "<prosody> without 'rate', expected this attribute; write"),
        ("<speak><prosody rate='300%'>a</prosody></speak>", "the rate '300%', expected 0.7 to 1.4; write a number"),
        ("<speak><prosody rate='wow'>a</prosody></speak>", "the rate 'wow', expected 0.7 to 1.4"),
        ("<speak><break time='1h'/></speak>", "SSML, line 1, column 8: a pause of '1h', expected 0ms to 30s"),
        ("<speak><break strength='big'/></speak>", "the strength 'big', expected none, x-weak"),
        ("<speak><phoneme ph='q!'>a</phoneme></speak>", "SSML, line 1, column 8: 'Ж'"),
        (
            "<speak><phoneme alphabet='x-sampa' ph='k'>a</phoneme></speak>",
            "the alphabet 'x-sampa', expected ipa or x-mi",
        ),
        ("<speak><sub alias='b'>a<break/></sub></speak>", "the tag <break> inside <sub>, expected text alone"),
        ("<!DOCTYPE x [<!ENTITY a 'b'>]><speak>&a;</speak>", "a document type, expected none; leave it out"),
        ("<speak>&nbsp;</speak>", "undefined entity, expected well-formed XML"),
    ],
)
def test_wrong_ssml_is_one_clear_line(text: str, message: str) -> None:
    text = text.replace("q!", "kЖ")
    with pytest.raises(DataError) as caught:
        next(FRONT_END.sentences(text, markup="ssml"))
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_wrong_ssml_at_the_end_is_found_before_the_first_sentence() -> None:
    with pytest.raises(DataError, match="the tag <mark>"):
        next(FRONT_END.sentences(f"<speak>{'A. ' * 9000}<mark name='x'/></speak>", markup="ssml"))


def test_a_lexicon_file_has_words_and_phones(tmp_path: Path) -> None:
    path = tmp_path / "names.txt"
    path.write_text(
        "# names\nKokoro\tkˈOkəɹO\n\nnginx ˈɛnʤɪnˌɛks # a server\nGPT-4\tʤˌipˌitˈi fˈɔɹ\n", encoding="utf-8"
    )
    (sentence,) = FrontEnd(path).sentences("Kokoro, Nginx and GPT-4.")
    assert sentence.phones == "kˈOkəɹO, ˈɛnʤɪnˌɛks ænd ʤˌipˌitˈi fˈɔɹ."


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a\tk\nb\n", "names.txt:2: 'b', expected a word and its phones; write `word<TAB>phones`"),
        ("x kЖ\n".encode(), "names.txt:1: 'Ж' as symbol 2 of 'kЖ', no such phone; write misaki's symbols"),
        (b"\xff\xfe", "names.txt: not UTF-8, expected a lexicon; give a file of lines `word<TAB>phones`"),
    ],
)
def test_a_wrong_lexicon_file_is_named_with_its_line(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "names.txt").write_bytes(content)
    with pytest.raises(DataError, match=re.escape(message)):
        FrontEnd(tmp_path / "names.txt")


def test_a_missing_lexicon_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none\.txt: No such file or directory, expected a lexicon"):
        FrontEnd(tmp_path / "none.txt")
