"""Warnings on stderr about suspicious outputs."""

import sys
from collections.abc import Mapping, Sequence

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
            print(
                f"speechmtp: warning: {len(names)} of {len(flags)} {what} {warning}: {', '.join(shown)}{more}",
                file=sys.stderr,
            )
