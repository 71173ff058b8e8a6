"""What looks wrong about texts, on stderr."""

import sys
from collections.abc import Mapping, Sequence

WARNINGS = {
    "limit": "stopped at the limit of tokens and may be cut",
    "repetition": "end in a repetition",
    "empty": "have no text",
}


def warn_of(flags: Mapping[str, Sequence[str]], what: str) -> None:
    """One line on stderr for every way in which outputs look wrong: how many, and which. `flags` are by name."""
    for flag, warning in WARNINGS.items():
        names = [name for name, found in flags.items() if flag in found]
        if names:
            shown = names if flag == "limit" else names[:5]
            more = f" and {len(names) - len(shown)} more" if len(names) > len(shown) else ""
            print(
                f"speechmtp: warning: {len(names)} of {len(flags)} {what} {warning}: {', '.join(shown)}{more}",
                file=sys.stderr,
            )
