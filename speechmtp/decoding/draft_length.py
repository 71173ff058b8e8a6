"""How many tokens to draft this call, a row each, from what is known before they are drawn."""

from typing import Any, Protocol

from speechmtp.decoding.state import DecodeState


class DraftLength(Protocol):
    """Holds configuration only; what changes is in `state.length_state`."""

    def start(self, state: DecodeState) -> Any:
        """The control's state for the live rows."""

    def limits(self, state: DecodeState) -> list[int]:
        """Most tokens to draft, a live row each."""

    def observe(self, state: DecodeState, emitted: list[list[int]]) -> None:
        """Hear what each live row has just emitted."""
