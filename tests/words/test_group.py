"""Which tokens make each word, for pieces with word marks, bytes and scripts without blanks."""

import pytest

from speechmtp.bundle import load_without_heads
from speechmtp.words.group import WordTokens, group_words, split_words
from speechmtp.words.word import Word, word_spans


def words(text: str) -> list[str]:
    return [text[start:end] for start, end in split_words(text)]


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("", []),
        ("one", ["one"]),
        ('"I knew," he  said - that...', ['"I', 'knew,"', "he", "said -", "that..."]),
        ("- hi", ["- hi"]),
        ("(hi) (", ["(hi) ("]),
        ("...", ["..."]),
        ("one ( two", ["one", "( two"]),
        ("costs $5", ["costs", "$5"]),
        ("你好，世界「日本です」 ok", ["你", "好，", "世", "界", "「日", "本", "で", "す」", "ok"]),
        ("ABC你(好)吗？ yes", ["ABC", "你", "(好)", "吗？", "yes"]),
        ("コーヒー", ["コー", "ヒー"]),
        ("naïve “café”", ["naïve", "“café”"]),
    ],
)
def test_words_of_a_text(text: str, wanted: list[str]) -> None:
    assert words(text) == wanted
    spans = word_spans(text, wanted)
    assert spans == split_words(text)
    outside = "".join(text[a:b] for a, b in zip([0, *(end for _, end in spans)], [*(s for s, _ in spans), len(text)]))
    assert not outside.strip(), "words joined by their own spacing give the text back"


def test_tokens_of_words() -> None:
    model = load_without_heads("default").model
    text = "A strange landscape, naïve 你好，世界 ok."
    tokens = [*model.encode(text), *model.eos]
    found = group_words(tokens, model.decode, model.eos)
    assert [one.text for one in found] == words(text)
    for one in found:
        assert model.decode(tokens[one.first : one.last]).strip() == one.text
    assert max(one.last for one in found) == len(tokens) - 1


def test_two_words_may_share_a_token() -> None:
    pieces = {1: "a", 2: " b c", 3: "d", 9: ""}
    found = group_words([1, 2, 9, 3, 0], lambda ids: "".join(pieces[i] for i in ids).strip(), (0,))
    assert found == [WordTokens("a", 0, 1), WordTokens("b", 1, 2), WordTokens("cd", 1, 4)]


def test_half_characters_belong_to_all_their_tokens() -> None:
    data = "é ü".encode()

    def decode(ids: object) -> str:
        return bytes(ids).decode(errors="replace")  # type: ignore[call-overload]

    assert group_words(list(data), decode) == [WordTokens("é", 0, 2), WordTokens("ü", 3, 5)]
    assert [one.text for one in group_words(list(data[:-1]), decode)] == ["é", "\N{REPLACEMENT CHARACTER}"]


def test_texts_that_change_further_back_keep_their_words() -> None:
    """A decoder whose first token changes the rest."""

    def decode(ids: object) -> str:
        text = "".join("abc"[i] + " " for i in ids).strip()  # type: ignore[attr-defined]
        return text.upper() if text.startswith("a") else text

    assert group_words([0, 1, 2], decode) == [WordTokens("A", 0, 1), WordTokens("B", 1, 2), WordTokens("C", 2, 3)]


def test_confidence_is_the_product_of_probabilities() -> None:
    word = WordTokens("x", 1, 3)
    assert word.confidence([-9.0, -0.5, -0.25, -9.0]) == pytest.approx(2.718281828**-0.75)
    assert word.confidence([-9.0, -0.5]) is None, "not all were recorded"
    assert word.confidence([0.0, 1e-9, 1e-9]) == 1.0


def test_a_word_moves() -> None:
    assert Word("x", 1.0, 1.5, 0.5).moved(2) == Word("x", 3.0, 3.5, 0.5)
    assert Word("x").moved(2) == Word("x")
    with pytest.raises(ValueError, match="not found"):
        word_spans("one two", ["two", "one"])
