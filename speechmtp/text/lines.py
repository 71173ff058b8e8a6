"""Texts as single lines, for Kaldi files and standard output."""

import re

# All that ends a line for Python, a terminal or Unicode, and TAB, which separates the fields of a Kaldi line.
_BREAKS = re.compile("[\t\n\r\v\f\x1c-\x1e\x85\u2028\u2029]+")


def one_line(text: str) -> str:
    """The text with a single space for every run of line breaks and tabs, none at its ends; a text without them is
    returned unchanged."""
    parts = _BREAKS.split(text)
    return text if len(parts) == 1 else " ".join(filter(None, (part.strip(" ") for part in parts)))
