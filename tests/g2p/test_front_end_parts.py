"""Parts of the front end: number words, stress, the two networks, the data files."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from speechmtp.g2p import assets, numbers
from speechmtp.g2p import stress as accent
from speechmtp.g2p.phones import from_ipa
from speechmtp.g2p.sentences import sentences
from speechmtp.g2p.student import LETTERS, Student
from speechmtp.g2p.symbols import SYMBOLS
from speechmtp.g2p.tagger import TAGS

TOOLS = Path(__file__).resolve().parents[2] / "tools"


@pytest.mark.parametrize(
    ("number", "cardinal", "ordinal"),
    [
        (0, "zero", "zeroth"),
        (12, "twelve", "twelfth"),
        (40, "forty", "fortieth"),
        (85, "eighty five", "eighty fifth"),
        (300, "three hundred", "three hundredth"),
        (1_001, "one thousand one", "one thousand first"),
        (2_000_017, "two million seventeen", "two million seventeenth"),
        (-9, "minus nine", "minus ninth"),
    ],
)
def test_numbers_in_words(number: int, cardinal: str, ordinal: str) -> None:
    assert (numbers.cardinal(number), numbers.ordinal(number)) == (cardinal, ordinal)


def test_every_number_has_other_words() -> None:
    assert len({numbers.cardinal(number) for number in range(12_000)}) == 12_000
    assert numbers.cardinal(10**18) == "one" + " zero" * 18


def test_roman_numerals_are_read_and_wrong_ones_are_not() -> None:
    assert [numbers.roman(text) for text in ("IV", "XIV", "MCMXCIX", "XL")] == [4, 14, 1999, 40]
    assert [numbers.roman(text) for text in ("IIII", "VX", "IC", "MIX", "DIM")] == [None, None, None, 1009, None]


@pytest.mark.parametrize(
    ("phones", "expected"),
    [
        ("kˈɑmpˌækt", "kˌɑmpækt"),
        ("kˌɑm", "kˌɑm"),
        ("kæt", "kæt"),
    ],
)
def test_weakened_words_have_no_primary_stress(phones: str, expected: str) -> None:
    assert accent.weaken(phones) == expected


def test_stress_settles_on_vowels() -> None:
    assert accent.settled("tˈæʃtˈɡO") == "tˈæʃtɡˌO"
    assert accent.settled("kæt") == "kˈæt" and accent.settled("ktˈ") == "kt"
    assert accent.spelled(["ˈɛf", "bˈi", "ˈI"]) == "ˌɛfbˌiˈI"
    assert (
        accent.raise_to("ðə", 2) == "ðˈə" and accent.raise_to("ðə", 0.5) == "ðˌə" and accent.raise_to("tˌu", 1) == "tˈu"
    )


def test_ipa_has_its_stress_before_the_vowel() -> None:
    assert from_ipa("ˈstriːt", "here") == "stɹˈit" and from_ipa("ˌɪntəˈneɪʃnəl", "here") == "ˌɪntənˈAʃnəl"


def test_the_network_for_unknown_words_is_the_one_that_was_trained(monkeypatch: pytest.MonkeyPatch) -> None:
    torch = pytest.importorskip("torch")
    monkeypatch.syspath_prepend(str(TOOLS))
    import g2p_student

    torch.manual_seed(0)
    trained = g2p_student.Student().eval()
    student = Student({name: tensor.numpy() for name, tensor in trained.state_dict().items()})
    for word in ("a", "o'neill", "antidisestablishmentari"):
        ids = torch.tensor([[LETTERS.index(one) + 1 for one in word]])
        with torch.no_grad():
            np.testing.assert_allclose(student.logits(word), trained(ids)[0].numpy(), atol=1e-5)


def test_arpabet_becomes_misakis_symbols(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(TOOLS))
    from make_g2p import misaki_phones

    assert misaki_phones("B AH1 T ER0".split()) == "bˈʌTəɹ"
    assert misaki_phones("L IH1 T AH0 L".split()) == "lˈɪTᵊl"
    assert misaki_phones("AH0 P OY2 N T IY1".split()) == "əpˌYntˈi"


@pytest.mark.parametrize(
    ("word", "phones"), [("blorf", "blˈɔɹf"), ("snickerdoodle", "snˈɪkəɹdˌudᵊl"), ("flimbering", "flˈɪmbəɹɪŋ")]
)
def test_words_that_nobody_knows_are_read_as_they_are_written(word: str, phones: str) -> None:
    assert accent.settled(assets.student()(word)) == phones


def test_the_tagger_knows_verbs_from_nouns() -> None:
    tags = assets.tagger()("They record the record ; he used to live here .".split())
    assert [tag for tag in tags if tag.startswith(("N", "V"))] == ["VBP", "NN", "VBD", "VB"]
    assert set(tags) <= set(TAGS)


def test_every_phone_of_the_lexicon_is_a_unit() -> None:
    for name in ("gold", "silver", "bronze"):
        entries = assets.lexicon(name).values()
        found = set().union(*(entry if isinstance(entry, str) else "".join(entry.values()) for entry in entries))
        assert found <= set(SYMBOLS)


def test_the_data_files_are_small() -> None:
    assert sum(path.stat().st_size for path in assets.FOLDER.iterdir()) < 2_500_000
    assert (assets.FOLDER / "student.npz.xz").stat().st_size < 1_000_000
    assert (assets.FOLDER / "tagger.npz.xz").stat().st_size < 400_000


def test_the_front_end_needs_no_torch() -> None:
    code = "import sys; from speechmtp.g2p.frontend import FrontEnd; list(FrontEnd().sentences('A blorf.'))"
    done = subprocess.run(
        [sys.executable, "-c", f"{code}; print('torch' in sys.modules)"], capture_output=True, text=True
    )
    assert done.stdout.strip() == "False", done.stderr


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Mr. Lee left. He ran.", ["Mr. Lee left.", "He ran."]),
        ("J. K. Lee of the U.S. Army. So?", ["J. K. Lee of the U.S. Army.", "So?"]),
        ('"Stop!" he said. "No."', ['"Stop!" he said.', '"No."']),
        (
            "It was 3.5. e.g. this... and that… Then. etc. And",
            ["It was 3.5. e.g. this... and that…", "Then. etc.", "And"],
        ),
        ("Ends at 5 p.m. Then sleep", ["Ends at 5 p.m.", "Then sleep"]),
        ("(He left.) She stayed.", ["(He left.)", "She stayed."]),
        ("A title\n\nA text\nof two lines", ["A title", "A text", "of two lines"]),
        ("So did I. She too.", ["So did I.", "She too."]),
        ("See fig. 3 and No. 4. Done!", ["See fig. 3 and No. 4.", "Done!"]),
        ("Main St. is near St. Paul. On Main St. He sat.", ["Main St. is near St. Paul.", "On Main St.", "He sat."]),
        ("No. I said no. Take plan B. He met B. Lee.", ["No.", "I said no.", "Take plan B.", "He met B. Lee."]),
        ("What?! Yes!!! Ok...", ["What?!", "Yes!!!", "Ok..."]),
        ("你好。再见！ok", ["你好。", "再见！", "ok"]),
    ],
)
def test_sentences_end_where_a_reader_ends_them(text: str, expected: list[str]) -> None:
    assert [text[start:end] for start, end in sentences(text)] == expected


def test_wrapped_lines_are_one_paragraph() -> None:
    lines = [
        "It was the best of times, it was the worst of times, it was the",
        "age of wisdom, it was the age of foolishness, it was the epoch",
        "of belief and more",
        "Short line",
    ]
    text = "\n".join(lines)
    found = [text[start:end] for start, end in sentences(text)]
    assert found == ["\n".join(lines[:3]), "Short line"]
