"""JSON of a peer: objects only, of bounded depth and width, without numbers and letters that cannot be written."""

import json
import math
from collections.abc import Mapping
from typing import Any, NoReturn

from speechmtp.errors import ProtocolError

DEPTH, KEYS = 16, 64
# A large message is one of audio, which is one string: a million small values would hold up every other session.
LARGE, PARTS = 1 << 14, 1 << 10
_INTEGER = 1 << 63


def read_object(text: str | bytes) -> dict[str, Any]:
    """The object that `text` is. ProtocolError for other JSON and none, for more than `DEPTH` levels or `KEYS` keys in
    one object, for large messages of many parts, for NaN, infinity and numbers beyond a double or 64 bits, and for
    surrogates that stand alone."""
    try:
        if isinstance(text, bytes):
            text = text.decode()
        if len(text) > LARGE and text.count(",") + text.count("[") > PARTS:
            raise ProtocolError(f"message: {len(text)} characters in more than {PARTS} parts; send less at once")
        found = json.loads(text, parse_constant=_constant, parse_float=_number, parse_int=_integer)
    except RecursionError:
        raise ProtocolError(f"message: JSON deeper than {DEPTH} levels; send it flatter") from None
    except ValueError as error:
        problem = (
            f"position {error.pos}" if isinstance(error, json.JSONDecodeError) else "numbers or bytes that are none"
        )
        raise ProtocolError(f"message: no JSON ({problem}), expected an object") from None
    if not isinstance(found, dict):
        raise ProtocolError(f"message: JSON {_name(found)}, expected an object")
    _check(found, DEPTH)
    if "\\u" in text and not _writable(found):
        raise ProtocolError("message: half of a surrogate pair, expected whole characters")
    return found


def write_object(message: Mapping[str, Any]) -> str:
    """The JSON of a message, without spaces."""
    return json.dumps(message, ensure_ascii=False, separators=(",", ":"))


def _constant(text: str) -> NoReturn:
    raise ValueError(text)


def _number(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(text)
    return value


def _integer(text: str) -> int:
    value = int(text) if len(text) <= 20 else _INTEGER
    if not -_INTEGER <= value < _INTEGER:
        raise ValueError(text)
    return value


def _check(value: Any, depth: int) -> None:
    """ProtocolError for objects that are too deep or too wide."""
    if not isinstance(value, dict | list):
        return
    if depth == 0:
        raise ProtocolError(f"message: JSON deeper than {DEPTH} levels; send it flatter")
    if isinstance(value, dict) and len(value) > KEYS:
        raise ProtocolError(f"message: an object of {len(value)} keys, expected at most {KEYS}")
    for inner in value.values() if isinstance(value, dict) else value:
        _check(inner, depth - 1)


def _writable(found: dict[str, Any]) -> bool:
    try:
        write_object(found).encode()
    except UnicodeEncodeError:
        return False
    return True


def _name(value: Any) -> str:
    kinds: list[tuple[type, str]] = [(bool, "boolean"), (str, "string"), (list, "array")]
    return "null" if value is None else next((name for kind, name in kinds if isinstance(value, kind)), "number")
