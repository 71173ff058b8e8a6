"""Texts on one line: every break of Python, Unicode and Kaldi."""

import pytest

from speechmtp.text.lines import one_line


@pytest.mark.parametrize(
    "mark", ["\n", "\r\n", "\r", "\v", "\f", "\x1c", "\x1d", "\x1e", "\x85", "\u2028", "\u2029", "\t", "\t\n\n"]
)
def test_breaks_become_one_space(mark: str) -> None:
    found = one_line(f"{mark}one {mark} two{mark}three{mark}")
    assert found == "one two three"
    assert found.splitlines() == [found]


@pytest.mark.parametrize("text", ["", " one", "one  two ", "caf\u00e9\u00a0\u3000x", "two\u200bparts"])
def test_a_text_without_breaks_is_unchanged(text: str) -> None:
    assert one_line(text) == text
