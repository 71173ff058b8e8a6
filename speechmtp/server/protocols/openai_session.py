"""The session object of OpenAI Realtime transcription: what a client may set, merged deeply into what holds already."""

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from speechmtp.server.messages import Settings
from speechmtp.server.protocols.contract import Offer, Refused
from speechmtp.server.protocols.rules import about, known_language, known_model

LOGPROBS = "item.input_audio_transcription.logprobs"
TAIL, HEARD, FINAL, WORDS = "speechmtp.tail", "speechmtp.heard", "speechmtp.final", "speechmtp.words"
INCLUDES = (LOGPROBS, TAIL, HEARD, FINAL, WORDS)
RATES = (8000, 16000, 24000, 48000)
ENCODINGS = {"audio/pcm": "linear16", "audio/pcmu": "mulaw", "audio/pcma": "alaw"}
SERVER_VAD: Mapping[str, Any] = {
    "type": "server_vad", "threshold": 0.5, "prefix_padding_ms": 300, "silence_duration_ms": 500,
    "create_response": None, "interrupt_response": None, "idle_timeout_ms": None,
}  # fmt: skip
SEMANTIC_VAD: Mapping[str, Any] = {
    "type": "semantic_vad", "eagerness": "auto", "create_response": None, "interrupt_response": None,
}  # fmt: skip
# Seconds of silence after which a turn has ended in any case. Nothing here tells a finished sentence by its meaning.
PATIENCE = {"low": 8.0, "medium": 4.0, "auto": 4.0, "high": 2.0}
LEAST_SILENCE = 200  # ms; shorter ones would cut within words
OWN_PADDING = 1.0  # seconds of audio that the recogniser has before speech by itself; with less it mishears beginnings
_TEXT = 1 << 14  # characters of a prompt or a list of words


def _fresh() -> dict[str, Any]:
    return {
        "format": {"type": "audio/pcm", "rate": 24000},
        "transcription": {},
        "noise_reduction": None,
        "turn_detection": None,
    }


@dataclass(frozen=True)
class SessionConfig:
    """What holds in a session: the `audio.input` of its object, what its events include, and for whom it was opened."""

    offer: Offer
    input: dict[str, Any] = field(default_factory=_fresh)
    include: tuple[str, ...] = ()

    @property
    def encoding(self) -> str:
        """How bytes of audio are read, as `encodings.py` calls it."""
        return ENCODINGS[self.input["format"]["type"]]

    @property
    def rate(self) -> float:
        """Of the audio, in Hz."""
        return float(self.input["format"].get("rate", 8000))

    @property
    def detects(self) -> bool:
        """Whether the server finds turns by itself."""
        return self.input["turn_detection"] is not None

    @property
    def padding(self) -> float:
        """Seconds before speech that a turn begins."""
        return (self.input["turn_detection"] or {}).get("prefix_padding_ms", 0) / 1000

    def settings(self) -> Settings:
        """What the recogniser is told. Refused for a model or a language that is not known."""
        given = self.input["transcription"]
        languages = given.get("languages") or []
        code = given.get("language") or (languages[0] if len(languages) == 1 else "")
        try:
            model = known_model(given.get("model") or "", self.offer)
            language = known_language(code, model, self.offer)
        except Refused as refused:
            raise about(refused, f"session.audio.input.transcription.{refused.param}") from None
        turns = self.input["turn_detection"] or {}
        silence = turns.get("silence_duration_ms", 0) / 1000 or PATIENCE.get(turns.get("eagerness", ""))
        padding = self.padding if self.padding > OWN_PADDING else None
        return Settings(model, language, turns.get("threshold"), silence, padding, WORDS in self.include)

    def object(self, name: str, expires: int) -> dict[str, Any]:
        """The session as clients see it; `name` is its id."""
        model = {"model": self.offer.models[0] if self.offer.models else "default"}
        return {
            "id": name,
            "object": "realtime.transcription_session",
            "type": "transcription",
            "expires_at": expires,
            "include": list(self.include) or None,
            "audio": {"input": {**self.input, "transcription": model | self.input["transcription"]}},
        }

    def updated(self, session: Any) -> "SessionConfig":
        """With the changes of a `session.update`: what is absent stays, null is the default. Refused for a value that
        is not allowed, with its path."""
        given = _object(session, "session")
        kind = given.get("type", "transcription")
        if kind == "realtime":
            raise Refused(400, "unsupported_event", "session.type: 'realtime', expected 'transcription'; "
                          "this server transcribes only", "session.type")  # fmt: skip
        if kind != "transcription":
            raise _wrong("session.type", kind, "'transcription'")
        include = self.include
        if "include" in given:
            asked = given["include"] or []
            if not _strings(asked):
                raise _wrong("session.include", asked, "a list of strings")
            include = tuple(name for name in INCLUDES if name in asked)
        audio = _object(given.get("audio", {}), "session.audio")
        changes = _object(audio.get("input", {}), "session.audio.input")
        merged = copy.deepcopy(self.input)
        for name, merge in (
            ("format", _format), ("transcription", _transcription),
            ("noise_reduction", _noise), ("turn_detection", _turns),
        ):  # fmt: skip
            if name in changes:
                merged[name] = merge(merged[name], changes[name], f"session.audio.input.{name}")
        config = SessionConfig(self.offer, merged, include)
        config.settings()
        return config


def _object(value: Any, path: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise _wrong(path, value, "an object")
    return value


def _strings(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(one, str) for one in value)


def _wrong(path: str, value: Any, expected: str) -> Refused:
    shown = f"{value!r:.40}" if isinstance(value, str | int | float | None) else f"a {type(value).__name__}"
    return Refused(400, "invalid_value", f"{path}: {shown}, expected {expected}", path)


def _format(now: dict[str, Any], given: Any, path: str) -> dict[str, Any]:
    """The format of audio; a bare name is taken too."""
    if given is None:
        return dict(_fresh()["format"])
    given = _object(given, path)
    kind = given.get("type", now["type"])
    if not isinstance(kind, str) or kind not in ENCODINGS:
        raise _wrong(f"{path}.type", kind, f"one of {', '.join(ENCODINGS)}")
    fixed = kind != "audio/pcm"
    rate = given.get("rate", 8000 if fixed else now.get("rate", 24000))
    if isinstance(rate, bool) or not isinstance(rate, int | float) or rate not in ((8000,) if fixed else RATES):
        raise _wrong(f"{path}.rate", rate, "8000" if fixed else f"one of {', '.join(map(str, RATES))}")
    return {"type": kind} if fixed else {"type": kind, "rate": int(rate)}


def _transcription(now: dict[str, Any], given: Any, path: str) -> dict[str, Any]:
    if given is None:
        return {}
    merged = dict(now)
    for name, value in _object(given, path).items():
        lists = name in ("languages", "keywords")
        if name not in ("model", "language", "prompt", "delay") and not lists:
            continue
        if value is None:
            merged.pop(name, None)
        elif not (_strings(value) if lists else isinstance(value, str)):
            raise _wrong(f"{path}.{name}", value, "a list of strings" if lists else "a string")
        elif len(value if isinstance(value, str) else "".join(value)) > _TEXT:
            raise Refused(400, "invalid_value", f"{path}.{name}: longer than {_TEXT} characters", f"{path}.{name}")
        else:
            merged[name] = value
    return merged


def _noise(now: dict[str, Any] | None, given: Any, path: str) -> dict[str, Any] | None:
    """Accepted without effect."""
    if given is None:
        return None
    kind = _object(given, path).get("type", (now or {}).get("type", "near_field"))
    if kind not in ("near_field", "far_field"):
        raise _wrong(f"{path}.type", kind, "'near_field' or 'far_field'")
    return {"type": kind}


# Numbers of turn detection: from, to, and whether they are whole.
_NUMBERS = {
    "threshold": (0, 1, False), "prefix_padding_ms": (0, 10_000, True), "silence_duration_ms": (0, 60_000, True),
    "idle_timeout_ms": (0, 3_600_000, True),
}  # fmt: skip


def _turns(now: dict[str, Any] | None, given: Any, path: str) -> dict[str, Any] | None:
    if given is None:
        return None
    given = _object(given, path)
    kind = given.get("type", (now or SERVER_VAD)["type"])
    if kind not in ("server_vad", "semantic_vad"):
        raise _wrong(f"{path}.type", kind, "'server_vad', 'semantic_vad', or null to turn it off")
    defaults = SERVER_VAD if kind == "server_vad" else SEMANTIC_VAD
    merged = dict(now if now is not None and now["type"] == kind else defaults)
    for name, value in given.items():
        if name not in defaults or name == "type":
            continue
        merged[name] = defaults[name] if value is None else _turn_value(name, value, f"{path}.{name}")
    return merged


def _turn_value(name: str, value: Any, path: str) -> Any:
    if name == "eagerness":
        if not isinstance(value, str) or value not in PATIENCE:
            raise _wrong(path, value, f"one of {', '.join(PATIENCE)}")
        return value
    if name in ("create_response", "interrupt_response"):
        if not isinstance(value, bool):
            raise _wrong(path, value, "true or false")
        return value
    low, high, whole = _NUMBERS[name]
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not low <= value <= high or (whole and value != int(value)):
        raise _wrong(path, value, f"{'a whole number' if whole else 'a number'} from {low} to {high}")
    value = int(value) if whole else float(value)
    return max(LEAST_SILENCE, value) if name == "silence_duration_ms" else value
