"""The page on heads names every family and every option there is."""

import dataclasses
from pathlib import Path
from typing import get_args, get_type_hints

import pytest

from speechmtp.heads.contract import FamilyConfig
from speechmtp.heads.table import FAMILIES
from speechmtp.training.losses import MultiTokenConfig
from speechmtp.training.tasks.heads import Mode

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "heads.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("config", FAMILIES, ids=lambda config: config.__name__)
def test_every_family_has_its_line_with_its_options(config: type[FamilyConfig]) -> None:
    fields = {field.name: field for field in dataclasses.fields(config)}
    kind = fields["kind"].default
    lines = [line for line in PAGE.partition("## Losses")[0].splitlines() if line.startswith(f"| `{kind}` |")]
    assert len(lines) == 1
    own = set(fields) - {field.name for field in dataclasses.fields(FamilyConfig)} - {"kind"}
    for name in own:
        assert f"`{name}`" in lines[0] or f"`{name}:" in lines[0] or f"{name} " in lines[0], name


def test_common_options_losses_and_modes_are_there() -> None:
    for field in dataclasses.fields(FamilyConfig):
        assert f"`{field.name}`" in PAGE or field.name == "kind"
    for kind in get_args(get_type_hints(MultiTokenConfig)["kind"]):
        assert f"`{kind}`" in PAGE
    for mode in get_args(Mode):
        assert f"| `{mode}` |" in PAGE
