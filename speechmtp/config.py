"""Configuration: a dataclass tree, one YAML file, and key=value on the command line, converted into each other.

Defaults live only in the dataclasses. Unknown keys are errors that name the nearest key. Values are converted by
annotation, since PyYAML reads `1e-4` as a string and `no` as False. A choice between several dataclasses is a union
whose members carry a `kind` field with a distinct default.

Annotations also declare the allowed values of a field: a `Literal` lists them, `Annotated[float, Range(0, 1)]` bounds a
number, `Annotated[str, Form("...")]` describes a text in words. `check_fields` checks them, `read_field` converts and
checks one value, `allowed_values` describes them for errors and tables.
"""

import dataclasses
import difflib
import math
import types
import typing
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Annotated, Any, TypeVar

import yaml

from speechmtp.errors import ConfigError

T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class Range:
    """Finite numbers from `low` (exclusive if `above`) to `high` (exclusive if `below`; None: no upper bound)."""

    low: float
    high: float | None = None
    above: bool = False
    below: bool = False

    def holds(self, value: Any) -> bool:
        """Whether `value` is a number in the range."""
        if not isinstance(value, int) and not (isinstance(value, float) and math.isfinite(value)):
            return False
        if self.high is not None and (value > self.high or (self.below and value == self.high)):
            return False
        return value > self.low if self.above else value >= self.low

    def words(self, whole: bool) -> str:
        """The range in words, for errors and tables; `whole` if its numbers are integers."""
        low = f"{self.low}"
        if self.high is None:
            return f"a number above {low}" if self.above else f"{low} or more"
        if self.above or self.below:
            high = f"{'below' if self.below else 'at most'} {self.high}"
            return f"a number above {low}, {high}" if self.above else f"{low} or more, {high}"
        return f"{low} to {self.high}" if whole else f"a number from {low} to {self.high}"


Size = Annotated[int, Range(1, 1 << 16)]  # a width or another size of a model
Count = Annotated[int, Range(1, 1 << 10)]  # a number of layers, heads or blocks of a model
Share = Annotated[float, Range(0, 1)]
Seed = Annotated[int, Range(0, (1 << 64) - 1)]


@dataclasses.dataclass(frozen=True)
class Form:
    """The format of a text, described in words; the class that parses the text checks it."""

    words: str


class _Loader(yaml.SafeLoader):
    """YAML loader that keeps plain scalars as strings; annotations decide their types."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in pairs if tag in ("tag:yaml.org,2002:null", "tag:yaml.org,2002:merge")]
    for first, pairs in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def read_yaml(path: str | Path) -> dict[str, Any]:
    """Read the mapping in a YAML file, plain scalars as strings; ConfigError for a file that cannot be read or has no
    mapping at its top."""
    try:
        data = yaml.load(Path(path).read_text(encoding="utf-8"), Loader=_Loader)
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror or error}; give an existing configuration file") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from error
    if data is None:
        return {}
    if not isinstance(data, dict):
        raise ConfigError(f"{path}: a mapping of keys is expected at the top, found {type(data).__name__}")
    return data


def write_yaml(path: str | Path, config: Any) -> None:
    """Write a dataclass tree or a plain mapping as YAML."""
    data = to_dict(config) if dataclasses.is_dataclass(config) else config
    Path(path).write_text(yaml.safe_dump(data, sort_keys=False, allow_unicode=True), encoding="utf-8")


def load_config(cls: type[T], path: str | Path | None = None, overrides: Sequence[str] = ()) -> T:
    """A `cls` from a YAML file and `key.sub=value` overrides, which take precedence."""
    data = with_overrides(read_yaml(path) if path is not None else {}, overrides)
    return from_dict(cls, data, where=str(path) if path is not None else cls.__name__)


def with_overrides(data: dict[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """`data` with `key.sub=value` items put in; it is changed in place. ConfigError for an item that is not
    key=value."""
    for item in overrides:
        key, equals, value = item.partition("=")
        if not equals:
            raise ConfigError(f"override {item!r}: expected key=value")
        node = data
        *parents, last = key.split(".")
        for part in parents:
            child = node.setdefault(part, {})
            if not isinstance(child, dict):
                raise ConfigError(f"override {item!r}: {part!r} is a value, not a group of keys")
            node = child
        try:
            node[last] = yaml.load(value, Loader=_Loader)
        except yaml.YAMLError as error:
            raise ConfigError(f"override {item!r}: not valid YAML: {' '.join(str(error).split())}") from error
    return data


def from_dict(cls: type[T], data: Mapping[str, Any], where: str = "config") -> T:
    """A dataclass from a mapping; unknown keys and wrong values are ConfigErrors."""
    return _build(cls, data, where, "")


def read_field(cls: type, name: str, value: Any, where: str) -> Any:
    """Convert a field's value (for instance from text) by its annotation and check it; ConfigError if it is not
    allowed."""
    hint, bounds = _declared(cls)[name]
    try:
        read = _convert(hint, value, where, name)
    except ConfigError:
        raise _not_allowed(cls, name, value, where) from None
    if isinstance(bounds, Range) and read is not None and not bounds.holds(read):
        raise _not_allowed(cls, name, read, where)
    return read


def check_fields(config: Any, where: str) -> None:
    """Raise a ConfigError if a field of a dataclass is outside its declared `Range` or `Literal`."""
    kind: Any = type(config)
    for name, (hint, bounds) in _declared(kind).items():
        value = getattr(config, name)
        if not _allows(hint, bounds, value):
            raise _not_allowed(kind, name, value, where)


def allows(cls: type, name: str, value: Any) -> bool:
    """Whether a field may have a value, by its declared `Range` or `Literal`."""
    return _allows(*_declared(cls)[name], value)


def _allows(hint: Any, bounds: Range | Form | None, value: Any) -> bool:
    choices = _choices(hint)
    if value is None and type(None) in typing.get_args(hint):
        return True
    return not (choices and value not in choices) and not (isinstance(bounds, Range) and not bounds.holds(value))


def allowed_values(cls: type, name: str) -> str:
    """The allowed values of a field in words: `token or product`, `0 or more`, `a number from 0 to 1`."""
    hint, bounds = _declared(cls)[name]
    if choices := _choices(hint):
        return in_words(choices)
    kind = next(member for member in (typing.get_args(hint) or (hint,)) if member is not type(None))
    if isinstance(bounds, Range):
        return bounds.words(kind is int)
    return bounds.words if bounds is not None else {int: "a whole number", float: "a number"}.get(kind, "a name")


def in_words(choices: Sequence[Any]) -> str:
    """Choices as errors and tables list them."""
    return (" or " if len(choices) == 2 else ", ").join(map(str, choices))


def _not_allowed(cls: type, name: str, value: Any, where: str, prefix: str = "") -> ConfigError:
    several = "one of " if len(_choices(_declared(cls)[name][0])) > 2 else ""
    return ConfigError(f"{where}: {prefix}{name}={value!r}, expected {several}{allowed_values(cls, name)}")


@cache
def _declared(cls: Any) -> dict[str, tuple[Any, Range | Form | None]]:
    """Annotation and bounds of every field of a dataclass."""
    hints = typing.get_type_hints(cls, include_extras=True)
    found: dict[str, tuple[Any, Range | Form | None]] = {}
    for field in dataclasses.fields(cls):
        hint, bounds = hints[field.name], None
        if typing.get_origin(hint) is Annotated:
            hint, *extras = typing.get_args(hint)
            bounds = next((extra for extra in extras if isinstance(extra, Range | Form)), None)
        found[field.name] = hint, bounds
    return found


def _choices(hint: Any) -> tuple[Any, ...]:
    """The values of a `Literal`, or of a union with one; empty otherwise."""
    for member in (hint, *typing.get_args(hint)):
        if typing.get_origin(member) is typing.Literal:
            return typing.get_args(member)
    return ()


def to_dict(config: Any) -> Any:
    """A dataclass tree as plain mappings and lists."""
    if dataclasses.is_dataclass(config) and not isinstance(config, type):
        return {f.name: to_dict(getattr(config, f.name)) for f in dataclasses.fields(config)}
    if isinstance(config, (list, tuple)):
        return [to_dict(item) for item in config]
    if isinstance(config, dict):
        return {key: to_dict(value) for key, value in config.items()}
    return str(config) if isinstance(config, Path) else config


def _build(cls: Any, data: Any, where: str, prefix: str) -> Any:
    if not isinstance(data, Mapping):
        raise ConfigError(f"{where}: {prefix.rstrip('.') or 'top'}: a group of keys is expected, found {data!r}")
    hints = typing.get_type_hints(cls)
    names = [f.name for f in dataclasses.fields(cls)]
    values: dict[str, Any] = {}
    for key, value in data.items():
        if key not in names:
            near = difflib.get_close_matches(str(key), names, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else f"; allowed: {', '.join(names)}"
            raise ConfigError(f"{where}: {prefix}{key}: no such key in {cls.__name__}{hint}")
        values[key] = _convert(hints[key], value, where, f"{prefix}{key}")
        if not allows(cls, key, values[key]):
            raise _not_allowed(cls, key, values[key], where, prefix)
    try:
        return cls(**values)
    except TypeError as error:
        raise ConfigError(f"{where}: {prefix.rstrip('.') or cls.__name__}: {error}") from error


def _convert(hint: Any, value: Any, where: str, name: str) -> Any:
    origin = typing.get_origin(hint)
    if origin in (typing.Union, types.UnionType):
        return _convert_union(typing.get_args(hint), value, where, name)
    if dataclasses.is_dataclass(hint):
        return value if isinstance(value, typing.cast(type, hint)) else _build(hint, value, where, name + ".")
    if origin in (list, tuple):
        if isinstance(value, str) or not isinstance(value, Sequence):
            raise ConfigError(f"{where}: {name}: a list is expected, found {value!r}")
        item_hint = typing.get_args(hint)[0]
        items = [_convert(item_hint, item, where, f"{name}[{i}]") for i, item in enumerate(value)]
        return tuple(items) if origin is tuple else items
    if origin is dict:
        if not isinstance(value, Mapping):
            raise ConfigError(f"{where}: {name}: a mapping is expected, found {value!r}")
        return {str(k): _convert(typing.get_args(hint)[1], v, where, f"{name}.{k}") for k, v in value.items()}
    if origin is typing.Literal:
        allowed = typing.get_args(hint)
        for choice in allowed:
            if str(choice) == str(value):
                return choice
        raise ConfigError(f"{where}: {name}: {value!r} is not one of {', '.join(map(str, allowed))}")
    return _scalar(hint, value, where, name)


def _convert_union(members: tuple[Any, ...], value: Any, where: str, name: str) -> Any:
    if value is None or (isinstance(value, str) and value in ("null", "none", "") and type(None) in members):
        if type(None) in members:
            return None
        raise ConfigError(f"{where}: {name}: a value is needed")
    members = tuple(m for m in members if m is not type(None))
    classes = [m for m in members if dataclasses.is_dataclass(m)]
    if classes and isinstance(value, Mapping):
        if len(classes) == 1:
            return _build(classes[0], value, where, name + ".")
        by_kind = {next(f.default for f in dataclasses.fields(c) if f.name == "kind"): c for c in classes}
        kind = value.get("kind")
        if not isinstance(kind, str) or kind not in by_kind:
            raise ConfigError(f"{where}: {name}.kind: {kind!r} is not one of {', '.join(map(str, by_kind))}")
        return _build(by_kind[kind], value, where, name + ".")
    error: ConfigError | None = None
    for member in members:
        try:
            return _convert(member, value, where, name)
        except ConfigError as caught:
            error = caught
    raise error or ConfigError(f"{where}: {name}: cannot read {value!r}")


def _scalar(hint: Any, value: Any, where: str, name: str) -> Any:
    if hint is Any:
        return value
    if hint is bool:
        text = str(value).lower()
        if text in ("true", "false"):
            return text == "true"
        raise ConfigError(f"{where}: {name}: true or false is expected, found {value!r}")
    if isinstance(value, (Mapping, list, tuple)) or value is None:
        raise ConfigError(f"{where}: {name}: a {hint.__name__} is expected, found {value!r}")
    try:
        if hint is int and isinstance(value, float) and value != int(value):
            raise ValueError
        return hint(value)
    except (TypeError, ValueError):
        raise ConfigError(f"{where}: {name}: {value!r} is not a valid {hint.__name__}") from None
