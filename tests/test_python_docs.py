"""The page about Python says what is true."""

import doctest
from pathlib import Path

import speechmtp

PAGE = Path(__file__).resolve().parents[1] / "docs" / "python.md"


def test_what_the_page_shows_is_what_comes_out() -> None:
    found = doctest.testfile(str(PAGE), module_relative=False)
    assert found.attempted >= 6 and found.failed == 0


def test_every_public_name_is_on_the_page() -> None:
    page = PAGE.read_text()
    assert all(f"`{name}" in page for name in speechmtp.__all__ if name != "__version__")
