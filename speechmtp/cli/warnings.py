"""Warnings on stderr about suspicious audio and outputs."""

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from speechmtp.cli.streams import report
from speechmtp.errors import SpeechMTPWarning

WARNINGS = {
    "limit": "stopped at the limit of tokens and may be cut",
    "repetition": "end in a repetition",
    "empty": "have no text",
}


def warn_of(flags: Mapping[str, Sequence[str]], what: str) -> None:
    """Print one line on stderr for every kind of suspicious output, with the number and names of the outputs. `flags`
    are given by output name; `what` is the plural noun for them."""
    for flag, warning in WARNINGS.items():
        names = [name for name, found in flags.items() if flag in found]
        if names:
            shown = names if flag == "limit" else names[:5]
            more = f" and {len(names) - len(shown)} more" if len(names) > len(shown) else ""
            report(f"warning: {len(names)} of {len(flags)} {what} {warning}: {', '.join(shown)}{more}")


@contextmanager
def warnings_as_lines() -> Iterator[None]:
    """Return a context in which a SpeechMTPWarning is one line on stderr, without the line of code that warned."""
    others = warnings.showwarning

    def show(message: Warning | str, category: type[Warning], *place: object) -> None:
        if issubclass(category, SpeechMTPWarning):
            report(f"warning: {message}")
        else:
            others(message, category, *place)  # type: ignore[arg-type]

    warnings.showwarning = show  # type: ignore[assignment]
    try:
        yield
    finally:
        warnings.showwarning = others
