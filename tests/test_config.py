"""The configuration: strict, typed by annotation, one YAML file and key=value on top."""

import dataclasses
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest

from speechmtp.config import (
    Form,
    Range,
    allowed_values,
    allows,
    check_fields,
    from_dict,
    load_config,
    read_field,
    read_yaml,
    to_dict,
    write_yaml,
)
from speechmtp.errors import ConfigError

EGS = Path(__file__).parents[1] / "egs"


@dataclass(frozen=True)
class Cat:
    kind: Literal["cat"] = "cat"
    lives: int = 9


@dataclass(frozen=True)
class Dog:
    kind: Literal["dog"] = "dog"
    name: str = "rex"
    weight: float = 10.0


@dataclass(frozen=True)
class Home:
    """One field of every kind that a configuration may have."""

    rate: float = 1e-3
    rooms: int = 3
    open: bool = True
    town: str = "york"
    note: str | None = None
    limit: int | None = None
    level: Literal["low", "high"] = "low"
    sizes: tuple[int, ...] = (1, 2)
    table: dict[str, float] = field(default_factory=dict)
    pet: Cat | Dog = field(default_factory=Cat)
    pets: tuple[Cat | Dog, ...] = (Cat(), Dog())
    spare: Dog | None = None


FULL = Home(
    rate=1e-5, rooms=7, open=False, town="no", note="12:30", limit=5, level="high", sizes=(4,), table={"a": 1e-7},
    pet=Dog(name="010", weight=2.5), pets=(Dog(), Cat(lives=1)), spare=Dog(name="null"),
)  # fmt: skip


def yaml_of(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "x.yaml"
    path.write_text(text)
    return path


@pytest.mark.parametrize("config", [Home(), FULL])
def test_a_written_configuration_reads_back_the_same(tmp_path: Path, config: Home) -> None:
    write_yaml(tmp_path / "x.yaml", config)
    assert load_config(Home, tmp_path / "x.yaml") == config
    assert from_dict(Home, to_dict(config)) == config


def test_plain_scalars_are_read_by_annotation(tmp_path: Path) -> None:
    text = "rate: 1e-4\nrooms: 010\ntown: no\nnote: 12:30\nlimit: null\nopen: False\ntable: {a: 1e3, b: 07}\n"
    config = load_config(Home, yaml_of(tmp_path, text))
    # PyYAML itself gives the string 1e-4, the number 8, False and 750 here.
    assert config == Home(rate=1e-4, rooms=10, town="no", note="12:30", open=False, table={"a": 1000.0, "b": 7.0})
    assert type(config.rate) is float and type(config.rooms) is int and config.limit is None


def test_an_empty_file_gives_the_defaults(tmp_path: Path) -> None:
    assert load_config(Home, yaml_of(tmp_path, "")) == Home()
    assert load_config(Home) == Home()


def test_unions_are_told_apart_by_kind(tmp_path: Path) -> None:
    text = "pet: {kind: dog, name: fido}\npets: [{kind: dog}, {kind: cat, lives: 2}]\nspare: {name: a}\n"
    config = load_config(Home, yaml_of(tmp_path, text))
    assert config.pet == Dog(name="fido")
    assert config.pets == (Dog(), Cat(lives=2))
    assert config.spare == Dog(name="a")


def test_overrides_win_and_reach_into_groups(tmp_path: Path) -> None:
    path = yaml_of(tmp_path, "rooms: 4\npet: {kind: dog, weight: 1}\n")
    config = load_config(Home, path, ["rooms=5", "pet.name=no", "sizes=[3, 010]", "spare.weight=1e-2", "note=a=b"])
    assert config == Home(rooms=5, pet=Dog(name="no", weight=1.0), sizes=(3, 10), spare=Dog(weight=0.01), note="a=b")
    assert load_config(Home, None, ["rate=1e-4"]).rate == 1e-4


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("roms: 3", ["roms", "Home", "'rooms'"]),
        ("pet: {kind: cat, live: 3}", ["pet.live", "Cat", "'lives'"]),
        ("qqqq: 3", ["qqqq", "allowed", "rate"]),
        ("pet: {kind: cow}", ["pet.kind", "'cow'", "cat, dog"]),
        ("pets: [{kind: cat}, {kind: cat, lives: x}]", ["pets[1].lives", "'x'", "int"]),
        ("open: no", ["open", "true or false"]),
        ("rooms: 2.5", ["rooms", "2.5", "int"]),
        ("rate: fast", ["rate", "'fast'", "float"]),
        ("level: mid", ["level", "low, high"]),
        ("sizes: 3", ["sizes", "list"]),
        ("rooms:", ["rooms", "int is expected"]),
        ("pet: 3", ["pet"]),
        ("table: [1]", ["table", "mapping"]),
        ("- 1", ["mapping", "list"]),
        ("a: [", ["not valid YAML"]),
    ],
)
def test_mistakes_are_one_line_that_names_file_key_and_value(tmp_path: Path, text: str, words: list[str]) -> None:
    path = yaml_of(tmp_path, text)
    with pytest.raises(ConfigError) as caught:
        load_config(Home, path)
    message = str(caught.value)
    assert "\n" not in message and str(path) in message
    for word in words:
        assert word in message


@pytest.mark.parametrize("override", ["rooms", "rooms.x.y=3", "roms=4", "rooms=[", "rooms=", "pet.kind=cow"])
def test_wrong_overrides_are_errors(tmp_path: Path, override: str) -> None:
    path = yaml_of(tmp_path, "rooms: 4")
    with pytest.raises(ConfigError) as caught:
        load_config(Home, path, [override])
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.yaml"):
        load_config(Home, tmp_path / "none.yaml")


def _training_files() -> list[Path]:
    return [p for p in sorted(EGS.glob("**/conf/*.yaml")) if "phases" in read_yaml(p)]


@pytest.mark.parametrize("path", _training_files() or [None], ids=lambda p: str(p.relative_to(EGS)) if p else "none")
def test_every_training_configuration_of_the_recipes_loads(path: Path | None) -> None:
    if path is None:
        pytest.skip("no recipe has a training configuration")
    from speechmtp.training.tasks.asr import AsrConfig

    config = load_config(AsrConfig, path)
    assert config.phases


def test_the_training_configuration_survives_a_round_trip(tmp_path: Path) -> None:
    from speechmtp.models.adapter import StackConfig
    from speechmtp.training.tasks.asr import AsrConfig

    config = AsrConfig()
    changed = dataclasses.replace(config, model=dataclasses.replace(config.model, adapter=StackConfig(frames=2)))
    for each in (config, changed):
        write_yaml(tmp_path / "x.yaml", each)
        assert load_config(AsrConfig, tmp_path / "x.yaml") == each


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("loop.evaluate_every=0", "evaluate_every"),
        ("phases=[{kind: ctc}, {kind: ctc}]", "names must differ"),
        ("phases=[{kind: ctc, optim: {betas: [0.9]}}]", "betas"),
        ("phases=[{kind: ctc, batch: {seconds: 0}}]", "seconds"),
        ("phases=[{kind: text, noise: {scale: [1]}}]", "scale"),
        ("phases=[{kind: text, texts: []}]", "texts"),
        ("features.num_mels=40", "num_mels"),
    ],
)
def test_training_values_that_cannot_work_are_refused(override: str, words: str) -> None:
    from speechmtp.training.tasks.asr import AsrConfig

    with pytest.raises(ConfigError, match=words):
        load_config(AsrConfig, None, [override])


@dataclass(frozen=True)
class Bounded:
    """Fields of every kind that can be bounded."""

    ratio: Annotated[float, Range(0, 1)] = 0.5
    share: Annotated[float, Range(0, 1, above=True)] = 0.5
    decay: Annotated[float, Range(0, 1, below=True)] = 0.5
    count: Annotated[int, Range(1, 9)] = 1
    limit: Annotated[int | None, Range(0)] = None
    scale: Annotated[float, Range(0, above=True)] = 1.0
    mode: Literal["a", "b", "c"] = "a"
    side: Literal["left", "right"] | None = None
    path: Annotated[str, Form("digits and dots")] = ""
    size: int = 0
    weight: float = 0.0
    name: str = ""


WORDS = {
    "ratio": "a number from 0 to 1", "share": "a number above 0, at most 1", "decay": "0 or more, below 1",
    "count": "1 to 9", "limit": "0 or more", "scale": "a number above 0", "mode": "a, b, c", "side": "left or right",
    "path": "digits and dots", "size": "a whole number", "weight": "a number", "name": "a name",
}  # fmt: skip


def test_what_fields_may_be_in_words() -> None:
    assert {field.name: allowed_values(Bounded, field.name) for field in fields(Bounded)} == WORDS


@pytest.mark.parametrize(
    ("name", "right", "wrong"),
    [
        ("ratio", (0, 1, 0.3), (-0.1, 1.1, float("nan"))), ("share", (1e-9, 1), (0, 2)), ("decay", (0, 0.9), (1, -1)),
        ("count", (1, 9), (0, 10)), ("limit", (None, 0, 5), (-1,)), ("scale", (0.1, 1e9), (0, float("inf"))),
        ("mode", ("a", "c"), ("d",)), ("side", (None, "left"), ("up",)),
    ],
)  # fmt: skip
def test_fields_are_checked_by_their_annotations(name: str, right: tuple[Any, ...], wrong: tuple[Any, ...]) -> None:
    for value in right:
        assert allows(Bounded, name, value)
        check_fields(Bounded(**{name: value}), "here")
    for value in wrong:
        assert not allows(Bounded, name, value)
        with pytest.raises(ConfigError) as caught:
            check_fields(Bounded(**{name: value}), "here")
        several = "one of " if name == "mode" else ""
        assert str(caught.value) == f"here: {name}={value!r}, expected {several}{WORDS[name]}"


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [("ratio", "1e-1", 0.1), ("count", "3", 3), ("limit", "", None), ("limit", "4", 4), ("side", "right", "right"),
     ("path", "0.1", "0.1")],
)  # fmt: skip
def test_one_field_is_read_from_text(name: str, text: str, value: Any) -> None:
    assert read_field(Bounded, name, text, "here") == value


@pytest.mark.parametrize(("name", "text"), [("ratio", "high"), ("count", "2.5"), ("count", "12"), ("mode", "z")])
def test_text_that_is_no_such_value_is_named(name: str, text: str) -> None:
    with pytest.raises(ConfigError, match=f"^here: {name}=.*, expected .*{WORDS[name]}$"):
        read_field(Bounded, name, text, "here")
