"""Addresses as a reader says them: e-mail, URLs, handles and hashtags."""

import re
from collections.abc import Callable

from speechmtp.g2p import numbers

_TOP = "com org net edu gov io co uk de fr info biz us ca au tv me ly ai dev app eu jp ch nl se"
_SAID = {".": "dot", "/": "slash", "-": "dash", "_": "underscore", "@": "at", ":": "colon", "?": "question mark",
         "=": "equals", "&": "and", "#": "hash", "%": "percent", "+": "plus", "~": "tilde"}  # fmt: skip
_SPELLED = frozenset("www uk de fr io us ca au tv eu jp ch nl se http https ftp html php".split())


def _address(match: "re.Match[str]") -> str:
    """Words, names of the signs between them and digits, with blanks; the scheme is not read."""
    text = re.sub(r"^(?:https?|ftp)://", "", match[0]).rstrip("/")
    words = []
    for part in re.findall(r"[A-Za-z]+|\d+|[^A-Za-z\d]", text):
        if part.isdigit():
            words.append(numbers.code(part))
        elif part.isalpha():
            words.append(".".join(part.upper()) if part.lower() in _SPELLED else part)
        else:
            words.append(_SAID.get(part, " "))
    return " ".join(words)


def _hashtag(match: "re.Match[str]") -> str:
    words = re.sub(r"(?<=[a-z\d])(?=[A-Z])|(?<=[A-Za-z])(?=\d)|_", " ", match[1])
    return f"hashtag {words}"


_PLACE = r"(?:[\w-]+\.)+"
RULES: list[tuple["re.Pattern[str]", Callable[["re.Match[str]"], str | None]]] = [
    (re.compile(r"(?<![\w.+-])[\w.+-]*\w@[\w-]+(?:\.[\w-]+)+"), _address),
    (re.compile(r"(?<!\w)(?:(?:https?|ftp)://|www\.)[^\s<>\"“”()]*[\w/]", re.I), _address),
    (
        re.compile(rf"(?<![\w.@-]){_PLACE}(?:{'|'.join(_TOP.split())})(?:/[\w./?=&%#+~-]*[\w/])?(?![\w-]|\.\w)"),
        _address,
    ),
    (re.compile(r"(?<!\w)#([A-Za-z]\w*)"), _hashtag),
    (re.compile(r"(?<!\w)(?P<it>@)[A-Za-z]\w*"), lambda match: "at "),
]
