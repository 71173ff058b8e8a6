"""Standard output and standard error: of any encoding, closed, broken or full."""

import json
import os
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from speechmtp.text.lines import one_line

if TYPE_CHECKING:
    from speechmtp.words.word import Word


def settle_streams() -> None:
    """Let standard output and standard error take every text: characters that their encoding lacks, and bytes of names
    that are not UTF-8, are escaped with a backslash. A closed stream is replaced by one that leads nowhere."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115
        elif getattr(stream, "errors", "") in ("strict", "surrogateescape") and hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def release_streams() -> None:
    """Flush standard output and standard error. What a broken or full one does not take is dropped, so that the end of
    the process does not fail on it again."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            with suppress(OSError, ValueError), open(os.devnull, "w") as nowhere:
                os.dup2(nowhere.fileno(), stream.fileno())


def report(message: str) -> None:
    """Print a message as one line on standard error. A standard error that is broken or full stops nothing."""
    with suppress(OSError):
        print(f"speechmtp: {one_line(message)}", file=sys.stderr, flush=True)


def print_json(value: Any) -> None:
    """Print a value as indented JSON; where standard output lacks a character of it, all but ASCII is escaped."""
    text = json.dumps(value, ensure_ascii=False, indent=1)
    try:
        text.encode(sys.stdout.encoding or "utf-8")
    except UnicodeEncodeError:
        text = json.dumps(value, indent=1)
    print(text)


def word_row(word: "Word") -> dict[str, Any]:
    """The JSON object of a word; null for what is not known."""
    numbers = {"start": word.start, "end": word.end, "confidence": word.confidence}
    return {"text": word.text} | {key: None if value is None else round(value, 3) for key, value in numbers.items()}
