"""Names of files as they are printed."""

import os


def shown(name: str | os.PathLike[str]) -> str:
    """The name on one line and in characters that every UTF-8 output takes: bytes that are not UTF-8 and characters
    that cannot be printed are escaped with a backslash."""
    text = os.fsencode(name).decode("utf-8", "backslashreplace")
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in text)
