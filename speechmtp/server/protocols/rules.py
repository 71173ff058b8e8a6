"""What all protocols have in common: names of models and languages, faults in a row, and how a session is closed."""

from collections.abc import Mapping
from dataclasses import replace

from speechmtp.server.messages import Close, Failed
from speechmtp.server.protocols.contract import EndReason, Offer, Refused

FAULTS = 10  # in a row that end a session
BINARIES = 3  # binary messages that end a session of a protocol that has none
ANSWER = 20.0  # seconds without a word of the recogniser after which its last ones are not waited for
REASON = 123  # bytes of the reason of a close

CODES: Mapping[EndReason, int] = {
    "idle": 1011, "too_long": 1000, "policy": 1008, "slow": 1008, "stopping": 1012, "full": 1013, "too_fast": 1008,
}  # fmt: skip
# What was said until then is answered before these close.
ANSWERED: frozenset[EndReason] = frozenset({"idle", "too_long", "stopping"})
FAILURES: Mapping[str, int] = {"engine_lost": 1012, "poisoned": 1011, "overloaded": 1013, "failed": 1011}


def close(code: int, reason: str) -> Close:
    """A close with as much of the reason as fits."""
    return Close(code, reason.encode()[:REASON].decode(errors="ignore"))


def close_failed(event: Failed) -> Close:
    """How a session is closed that the recogniser gave up."""
    return close(FAILURES.get(event.code, 1011), event.message)


class Faults:
    """Counts messages of a client that break the protocol, one after the other."""

    def __init__(self) -> None:
        self._running = self._binaries = 0

    def passed(self) -> None:
        """A message was understood."""
        self._running = 0

    def found(self) -> Close | None:
        """A message was not understood: what ends the session, if it does."""
        self._running += 1
        return (
            close(1008, f"{FAULTS} wrong messages in a row; see the error of each") if self._running >= FAULTS else None
        )

    def binary(self) -> Close | None:
        """A binary message came where there are none: what ends the session, if it does."""
        self._binaries += 1
        return close(1003, "binary messages, expected JSON text") if self._binaries >= BINARIES else None


def known_model(name: str, offer: Offer) -> str:
    """The model of a name: names that the server does not know are other names of its first one, unless it is strict;
    Refused then."""
    if name in offer.models:
        return name
    if offer.strict and name:
        known = ", ".join(offer.models)
        raise Refused(404, "model_not_found", f"model: {name[:64]!r}, expected one of {known}", "model")
    return offer.models[0] if offer.models else ""


def known_language(code: str, model: str, offer: Offer) -> str:
    """The language that the recogniser is told: `en` of en-US, and none where the model knows one only. Refused for a
    language that is not among those of the model."""
    known = offer.languages.get(model, ())
    short = code.replace("_", "-").split("-")[0].lower()
    if not short or not known:
        return ""
    if short not in known:
        some = ", ".join([*known[:12], "..."] if len(known) > 12 else known)
        raise Refused(400, "unsupported_language", f"language: {code[:32]!r}, expected one of {some}", "language")
    return short if len(known) > 1 else ""


def about(refused: Refused, param: str) -> Refused:
    """The same refusal, of a parameter with another name."""
    return replace(refused, param=param)
