"""the strategies and presets there are: what each does, needs and promises, and its options"""

import argparse
import inspect
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from speechmtp.errors import ConfigError, DataError

if TYPE_CHECKING:
    from speechmtp.decoding.presets import Preset
    from speechmtp.decoding.strategies import Strategy

NEEDS = {
    "heads": "heads", "ctc": "CTC head", "model": "draft model", "reference": "reference", "previous": "previous pass",
}  # fmt: skip
PROMISES = {
    "exact": "follows the trunk's own distribution",
    "lossy": "leaves the trunk's distribution on purpose",
    "reference": "a figure to compare with, not a way to decode",
}
ROW_COLUMNS = ("name", "output", "needs", "summary", "options")
_LONGEST = 24  # characters of a default in a table; longer ones are cut


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `speechmtp strategies`."""
    parser.add_argument("name", nargs="?", metavar="NAME", help="a strategy or preset: everything about it")
    parser.add_argument("--markdown", nargs="?", const="-", metavar="PAGE",
                        help="the tables as markdown; with a page, written into it between its markers")  # fmt: skip


def run(args: argparse.Namespace) -> int:
    """Prints one strategy, or the tables of all."""
    if args.name:
        if args.markdown not in (None, "-"):
            raise ConfigError(f"--markdown {args.markdown}: a page is for the tables of all strategies; leave out NAME")
        print(described(args.name, args.markdown is not None), end="")
    elif args.markdown is None:
        print(_tables(), end="")
    elif args.markdown == "-":
        print("\n".join(marked(name, text) for name, text in page_blocks().items()), end="")
    else:
        _write(Path(args.markdown))
    return 0


def strategy_rows() -> list[dict[str, Any]]:
    """A row for every strategy of the table."""
    from speechmtp.decoding.strategies import make_strategy
    from speechmtp.decoding.strategy_table import STRATEGIES

    rows = []
    for name, row in STRATEGIES.items():
        made = make_strategy(name, {})
        rows.append({"name": name, "output": promise(made), "needs": needs(made), "summary": row.summary,
                     "options": _defaults({key: option.default for key, option in row.options.items()})})  # fmt: skip
    return rows


def preset_rows() -> list[dict[str, Any]]:
    """A row for every preset."""
    from speechmtp.decoding.presets import PRESETS
    from speechmtp.decoding.strategies import make_strategy

    rows = []
    for name, preset in PRESETS.items():
        made = make_strategy(name, {})
        rows.append({"name": name, "output": promise(made), "needs": needs(made), "summary": preset.summary,
                     "row": preset.strategy, "paper": preset.paper})  # fmt: skip
    return rows


def option_rows(name: str) -> list[dict[str, Any]]:
    """A row for every option of a strategy, with its default and allowed values."""
    from speechmtp.config import in_words
    from speechmtp.decoding.strategy_table import STRATEGIES, rules_for

    row = STRATEGIES[name]
    rules = "" if row.drafter is None else in_words(rules_for(row.drafter))
    return [{"option": key, "default": option.default, "allowed": rules if key == "rule" else option.allowed}
            for key, option in row.options.items()]  # fmt: skip


def promise(strategy: "Strategy") -> str:
    """The kind of output that a strategy promises: `exact`, `lossy` or `reference`."""
    if strategy.drafter is None or "reference" in strategy.needs:
        return "reference"
    return "exact" if strategy.exact else "lossy"


def needs(strategy: "Strategy") -> list[str]:
    """What a strategy needs besides the trunk."""
    return [word for key, word in NEEDS.items() if key in strategy.needs]


def described(text: str, markdown: bool = False) -> str:
    """The full description of a strategy or preset, as plain text or markdown; ConfigError for an unknown name."""
    from speechmtp.decoding.presets import PRESETS
    from speechmtp.decoding.strategies import parse_strategy
    from speechmtp.scoring.tables import render_markdown, render_text

    write, render = (_bullets, render_markdown) if markdown else (_paragraphs, render_text)
    strategy = parse_strategy(text)
    preset = PRESETS.get(strategy.name)
    parts = [write(_facts(strategy) if preset is None else _preset_facts(strategy, preset))]
    if preset is None and (rows := option_rows(strategy.name)):
        parts.append(render(rows, ["option", "default", "allowed"]))
        keys = [row["option"] for row in rows]
        parts += [write(_choices(strategy, key)) for key in ("rule", "length") if key in keys]
    return "\n".join(parts)


def _kind(strategy: "Strategy") -> dict[str, str]:
    kind = promise(strategy)
    return {"output": f"{kind}: {PROMISES[kind]}", "needs": ", ".join(needs(strategy)) or "nothing but the trunk"}


def _facts(strategy: "Strategy") -> dict[str, str]:
    from speechmtp.decoding.strategy_table import STRATEGIES

    found = {strategy.name: STRATEGIES[strategy.name].summary, **_kind(strategy)}
    for title, part in (("drafter", strategy.drafter), ("rule", strategy.rule)):
        if part is not None:
            found[title] = _documented(type(part))
    return found


def _preset_facts(strategy: "Strategy", preset: "Preset") -> dict[str, str]:
    from speechmtp.decoding.presets import training_command

    found = {strategy.name: preset.summary, "paper": preset.paper, "row": row_label(preset), **_kind(strategy)}
    if preset.heads:
        found["heads"] = heads_said(preset)
        found["training"] = training_command(strategy.name, "MODEL")
    found["options"] = ", ".join(preset.free) or "none"
    return found | {"differs": preset.differs}


def _choices(strategy: "Strategy", key: str) -> dict[str, str]:
    """The rules or lengths (`key`) that fit a strategy's drafter, with their descriptions and options."""
    from speechmtp.decoding.draft_length import LENGTHS
    from speechmtp.decoding.rules.table import RULES
    from speechmtp.decoding.strategy_table import rules_for

    if strategy.drafter is None:
        return {}
    kinds: dict[str, type] = (
        {name: RULES[name] for name in rules_for(strategy.drafter)} if key == "rule" else {**LENGTHS}
    )
    found = {}
    for name, kind in kinds.items():
        options = _defaults({field.name: getattr(kind(), field.name) for field in fields(kind)})
        found[f"{key}={name}"] = _documented(kind) + (f" Options: {options}." if options else "")
    return found


def row_label(preset: "Preset") -> str:
    """The strategy that a preset stands for, as it is written on the command line."""
    from speechmtp.decoding.strategies import make_strategy

    return make_strategy(preset.strategy, dict(preset.options)).label


def heads_said(preset: "Preset") -> str:
    """The configuration that a preset needs of its heads, in words."""
    said = [f"{key} (any)" if value is True else f"{key}={value}" for key, value in preset.heads.items()]
    return ", ".join([*said, f"depth {preset.options.get('depth', 1)} or more"])


def _documented(kind: type) -> str:
    """The name and docstring of a class, on one line."""
    return f"{kind.__name__}. {' '.join((inspect.getdoc(kind) or '').split())}"


def _paragraphs(facts: Mapping[str, str]) -> str:
    """Titles and texts in two columns, the texts wrapped."""
    margin = max(map(len, facts)) + 2
    return "".join(
        textwrap.fill(text, 110, initial_indent=title.ljust(margin), subsequent_indent=" " * margin,
                      break_on_hyphens=False, break_long_words=False) + "\n"
        for title, text in facts.items()
    )  # fmt: skip


def _bullets(facts: Mapping[str, str]) -> str:
    """Titles and texts as a markdown list."""
    return "".join(f"- **{title}**: {text}\n" for title, text in facts.items())


def _defaults(options: Mapping[str, Any]) -> str:
    """Options with their defaults; those without a default come last."""
    given = [f"{key}={_short(value)}" for key, value in options.items() if value is not None]
    return ", ".join([*given, *(key for key, value in options.items() if value is None)])


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 8]}..."


def _tables() -> str:
    from speechmtp.scoring.tables import render_text

    return "\n".join([
        render_text(strategy_rows(), ROW_COLUMNS),
        render_text(preset_rows(), ["name", "output", "needs", "summary", "row", "paper"]),
        "options without a default are left out unless given; `speechmtp strategies NAME` says everything about one\n",
    ])  # fmt: skip


def page_blocks() -> dict[str, str]:
    """The generated parts of the page on strategies, by the names of their markers."""
    from speechmtp.scoring.tables import render_markdown

    rows = [row | {"name": f"`{row['name']}`", "options": f"`{row['options']}`" if row["options"] else None}
            for row in strategy_rows()]  # fmt: skip
    presets = [row | {"name": f"[`{row['name']}`](#{row['name']})", "row": f"`{row['row']}`"} for row in preset_rows()]
    return {
        "strategies": render_markdown(rows, ROW_COLUMNS),
        "options": render_markdown(_all_options(), ["option", "strategies and defaults", "allowed"]),
        "presets": render_markdown(presets, ["name", "row", "output", "needs", "summary"]) + _sections(),
    }


def _all_options() -> list[dict[str, Any]]:
    """A row for every option and its allowed values, with the strategies, rules and lengths that have it."""
    from speechmtp.config import allowed_values
    from speechmtp.decoding.draft_length import LENGTHS
    from speechmtp.decoding.rules.table import RULES
    from speechmtp.decoding.strategy_table import STRATEGIES

    found: dict[tuple[str, str], list[str]] = {}

    def add(user: str, option: str, default: Any, allowed: str) -> None:
        shown = "" if default is None else f" ({_short(default)})"
        found.setdefault((option, allowed), []).append(f"`{user}`{shown}")

    for name in STRATEGIES:
        for row in option_rows(name):
            add(name, row["option"], row["default"], row["allowed"])
    tables: dict[str, Mapping[str, type]] = {"rule": RULES, "length": LENGTHS}
    for part, table in tables.items():
        for name, kind in table.items():
            for field in fields(kind):
                add(f"{part}={name}", field.name, getattr(kind(), field.name), allowed_values(kind, field.name))
    return [{"option": f"`{key}`", "strategies and defaults": ", ".join(users), "allowed": words}
            for (key, words), users in sorted(found.items())]  # fmt: skip


def _sections() -> str:
    """A section with a heading for every preset."""
    from speechmtp.decoding.presets import PRESETS, training_command

    lines = []
    for name, preset in PRESETS.items():
        lines += ["", f"### {name}", f"{preset.summary[0].upper()}{preset.summary[1:]} ({preset.paper}).", ""]
        lines += [f"- Row: `{row_label(preset)}`."]
        if preset.heads:
            lines += [f"- Heads: `{heads_said(preset)}`.", f"- Training: `{training_command(name, 'MODEL')}`."]
        if preset.free:
            lines += [f"- Can be given: {', '.join(f'`{key}`' for key in preset.free)}."]
        lines += [f"- Differs from the paper: {preset.differs}."]
    return "\n".join(lines) + "\n"


def marked(name: str, text: str) -> str:
    """A generated part between its markers."""
    return f"<!-- begin {name} -->\n{text}<!-- end {name} -->\n"


def _write(page: Path) -> None:
    """Replace every generated part of a page; DataError for a page without the markers."""
    text = page.read_text(encoding="utf-8")
    for name, block in page_blocks().items():
        text = _placed(text, page, name, block)
    page.write_text(text, encoding="utf-8")
    print(f"strategies: {page}")


def _placed(text: str, page: Path, name: str, block: str) -> str:
    begin, end = marked(name, "\0").rstrip("\n").split("\n\0")
    parts: Sequence[str] = text.partition(begin)
    rest = parts[2].partition(end)
    if not rest[1]:
        raise DataError(f"{page}: no {begin} with {end} behind it, expected both; put them where the tables belong")
    return parts[0] + marked(name, block).rstrip("\n") + rest[2]
