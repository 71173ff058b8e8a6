"""Lines that are hard to read out: what a reader would say for each, written by hand."""

from pathlib import Path

import pytest

from speechmtp.g2p.frontend import FrontEnd
from speechmtp.g2p.normalise import normalise
from speechmtp.g2p.traced import Traced

LINES = [line.split("\t") for line in Path(__file__).with_name("tricky_lines.tsv").read_text().splitlines()]
PHONES = [
    ("I read it yesterday, and I will read it again.", "ˌI ɹˈɛd ɪt jˈɛstəɹdˌA, ænd ˌI wɪl ɹˈid ɪt əɡˈɛn."),
    ("They live near a live band.", "ðˌA lˈɪv nˌɪɹ ɐ lˈIv bˈænd."),
    ("He used to use the used car.", "hˌi jˈust tə jˈuz ðə jˈuzd kˈɑɹ."),
    ("Keep a record; we record it.", "kˈip ɐ ɹˈɛkəɹd; wi ɹəkˈɔɹd ɪt."),
    ("The wind blew; now wind it up.", "ðə wˈɪnd blˈu; nˈW wˈInd ɪt ˌʌp."),
    ("Close the door; they are close.", "klˈOz ðə dˈɔɹ; ðA ɑɹ klˈOs."),
    ("The end of the day; an apple a day.", "ði ˈɛnd ʌv ðə dˈA; ɐn ˈæpᵊl ɐ dˈA."),
    ("To eat, to go, to.", "tʊ ˈit, tə ɡˌO, tu."),
    ("NASA, the FBI and the USA.", "nˈæsə, ði ˌɛfbˌiˈI ænd ðə jˌuˌɛsˈA."),
    ("Paul met Andy.", "pˈɔl mˈɛt ˈændi."),
    ("A well-known mother-in-law.", "ɐ wˌɛlnˈOn mˈʌðəɹənlˌɔ."),
    ("Who'll say they shouldn't've?", "hˈul sˈA ðA ʃˈʊdᵊntv?"),
    ("He said, 'I can't,' and left the boys' room.", "hˌi sˈɛd, “ˌI kˈænt,” ænd lˈɛft ðə bˈYz ɹˈum."),
]  # fmt: skip


@pytest.mark.parametrize(("line", "said"), LINES, ids=[line for line, _ in LINES])
def test_a_line_is_read_as_a_reader_would(line: str, said: str) -> None:
    assert normalise(Traced.of(line)).text == said


@pytest.mark.parametrize("line", [line for line, _ in LINES])
def test_a_line_is_one_sentence_whose_words_have_phones(line: str) -> None:
    sentences = list(FrontEnd().sentences(line))
    assert len(sentences) == 1 or line.startswith("Wait")
    assert all(word.phones for sentence in sentences for word in sentence.words)


@pytest.mark.parametrize(("line", "phones"), PHONES)
def test_a_line_has_the_phones_that_its_meaning_asks_for(line: str, phones: str) -> None:
    assert " ".join(sentence.phones for sentence in FrontEnd().sentences(line)) == phones


def test_there_are_sixty_lines() -> None:
    assert len(LINES) >= 60
