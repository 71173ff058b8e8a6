"""Write the page of results from the JSON files of reports, comparisons and training logs."""

import argparse
import json
import re
import sys
from pathlib import Path
from typing import Any

import yaml

from speechmtp.evaluation.results_page import ask_git, processor_name
from speechmtp.evaluation.tables import interval_title
from speechmtp.scoring.tables import Column, render_markdown

Row = dict[str, Any]


def names(path: str, with_base: bool = False) -> list[Any]:
    """Names, bases where they are asked for, and options of a list of head sets."""
    lines = [line.split() for line in Path(path).read_text().splitlines() if line.strip() and line[0] != "#"]
    return [(name, *([base] if with_base else []), " ".join(options)) for name, base, *options in lines]


def read(path: Path) -> Any:
    """A JSON file, None where it is missing."""
    return json.loads(path.read_text()) if path.exists() else None


def seconds_of(folder: Path) -> tuple[int, float]:
    """Updates and seconds of a training."""
    rows: list[Row] = []
    for log in sorted(folder.glob("training/*/train.jsonl")):
        rows += [json.loads(line) for line in log.read_text().splitlines()]
    steps = sum(json.loads(p.read_text())["steps"] for p in folder.glob("training/*/final.json"))
    times = {row["step"]: row["step_s"] for row in rows if "step_s" in row}
    mean = sum(times.values()) / len(times) if times else 0.0
    return steps, steps * mean


def head_of(report: Any, name: str | None) -> Row:
    """One head set of a report."""
    found = [h for h in report["heads"] if name is None or h["name"] == name] if report else []
    return found[0] if found else {}


def measured(rows: list[Row], name: str | None, depth: int) -> Row:
    """The `verify` row of a head set at a depth."""
    for row in rows or ():
        options = row["options"]
        if row["strategy"] == "verify" and options["depth"] == depth and options.get("heads") == name:
            return row
    return {}


def oracle(rows: list[Row], depth: int) -> Row:
    """The ceiling's row."""
    return next((r for r in rows or () if r["strategy"] == "oracle" and r["options"]["depth"] == depth), {})


def share(row: Row, top: Row) -> float | None:
    """Tokens per call over the oracle's, in percent."""
    return 100 * row["tokens_per_call"] / top["tokens_per_call"] if row and top else None


def at(head: Row, depth: int, key: str) -> float | None:
    """A figure of one depth."""
    return head["depths"][depth - 1][key] if head and len(head["depths"]) >= depth else None


def rates(head: Row) -> str:
    """Conditional acceptance of every depth, in percent."""
    found = [d["conditional"] for d in head.get("depths", [])]
    return " ".join("-" if rate is None else f"{100 * rate:.1f}" for rate in found)


def families(trunk: str) -> list[Row]:
    """Rows of the table of families on one trunk."""
    exp = Path("exp") / trunk
    dev, test = read(exp / "report/dev/report.json"), read(exp / "report/test/report.json")
    compared = read(exp / "compare/test/compare.json")
    rows = []
    for name, _ in names("conf/sets.txt"):
        head = head_of(test, name)
        if not head:
            continue
        steps, seconds = seconds_of(exp / name)
        seven, three = measured(compared, name, 7), measured(compared, name, 3)
        rows.append({
            "name": name, "parameters": head["parameters"], "steps": steps, "seconds": seconds,
            "dev": head_of(dev, name).get("tokens_per_call"), "rates": rates(head),
            "predicted": at(head, 7, "tokens_per_call"), "measured": seven.get("tokens_per_call"),
            "share": share(seven, oracle(compared, 7)), "product": at(head, 7, "product"),
            "three": three.get("tokens_per_call"), "three_share": share(three, oracle(compared, 3)),
            "same": f"{seven['identical_to_ar']}/{seven['utterances']}" if seven else None,
            "draft": seven.get("draft_ms_per_call"), "speed": seven.get("speedup_vs_ar"),
            "three_speed": three.get("speedup_vs_ar"),
        })  # fmt: skip
    return rows


FAMILY_COLUMNS = [
    Column("name", "heads"), "parameters", Column("steps", "updates"), Column("seconds", "training s", 0),
    Column("dev", "dev, predicted"), Column("rates", "conditional acceptance, depths 1 to 7, %"),
    Column("predicted", "predicted", 3), Column("measured", "measured", 3), Column("share", "of oracle %", 1),
    Column("product", "product (biased)"), Column("same", "same as ar"), Column("draft", "draft ms"),
    Column("speed", "speed-up"), Column("three", "D = 3", 3), Column("three_share", "of oracle % ", 1),
    Column("three_speed", "speed-up "),
]  # fmt: skip


def losses(model: str) -> list[Row]:
    """Rows of the table of losses and modes."""
    exp = Path("exp") / model
    rows = []
    if not Path("conf/losses.txt").exists():
        return rows
    listed = names("conf/losses.txt", with_base=True)
    sets = dict(names("conf/sets.txt"))
    for base in dict.fromkeys(base for _, base, _ in listed):
        for name, given in [(base, sets[base]), *[(name, given) for name, of, given in listed if of == base]]:
            own = (exp / name / "model").is_dir()
            folder = exp / name / "report/test" if own else exp / "report" / ("test" if name == base else "losses")
            head = head_of(read(folder / "report.json"), None if own else name)
            if not head:
                continue
            compared = read((exp / name if own else exp) / "compare/test/compare.json")
            plain = next((r for r in compared or () if r["strategy"] == "ar"), {})
            changed = [o for o in given.split() if not o.startswith(("--", "heads.")) and o not in ("chain", "block")]
            rows.append({
                "name": name, "change": " ".join(changed) or "cross-entropy, 0.8^d, own targets, frozen",
                "seconds": seconds_of(exp / name)[1], "rates": rates(head),
                "predicted": at(head, 7, "tokens_per_call"), "share": 100 * (at(head, 7, "share") or 0),
                "three": at(head, 3, "tokens_per_call"), "wer": plain.get("wer"),
                "interval": f"{plain['wer_low']:.2f}-{plain['wer_high']:.2f}" if plain else None,
                "wer_unit": plain.get("wer_unit"),
            })  # fmt: skip
    return rows


LOSS_COLUMNS = [
    Column("name", "heads"), Column("change", "what differs"), Column("seconds", "training s", 0),
    Column("rates", "conditional acceptance, depths 1 to 7, %"), Column("predicted", "tokens per call, D = 7", 3),
    Column("share", "of ceiling %", 1), Column("three", "D = 3", 3), Column("wer", "WER % of ar"),
]  # fmt: skip


def page(models: list[str]) -> str:
    """Everything between the markers."""
    changed = " with changes" if ask_git("diff", "HEAD", "--name-only") else ""
    chosen = yaml.safe_load(Path("conf/chosen.yaml").read_text())
    lines = [
        f"Commit {ask_git('rev-parse', 'HEAD')[:7]}{changed}; {processor_name()}, one thread a training, float32, "
        f"batch size 1, seed 0 where no other is named. Command: `./run.sh`.", "",
    ]  # fmt: skip
    for trunk in models:
        rows = families(trunk)
        if rows:
            lines += [f"## Families on the frozen trunk `{trunk}`", "", render_markdown(rows, FAMILY_COLUMNS)]
            compared = read(Path("exp") / trunk / "compare/test/compare.json") or []
            tops = {d: oracle(compared, d).get("tokens_per_call") for d in (3, 7)}
            if tops[7]:
                lines += [f"Oracle rows: {tops[3]:.2f} tokens per call at D = 3, {tops[7]:.2f} at D = 7.", ""]
    rows = losses(models[-1])
    if rows:
        columns = [*LOSS_COLUMNS, Column("interval", interval_title(rows))]
        lines += [f"## Losses and modes on `{models[-1]}`", "", render_markdown(rows, columns)]
    head = ("heads", "CPU seconds an update", "learning rate", "calls per 100 tokens on dev")
    lines += [f"## Choices on dev, on `{models[0]}`", "", f"| {' | '.join(head)} |", "|---|---|---|---|"]
    for name, line in chosen.items():
        tried = ", ".join(f"{rate}: {score}" for rate, score in line["dev_calls_per_100_tokens"].items())
        lines.append(f"| {name} | {line['update_seconds']:.3f} | {line['lr']} | {tried} |")
    return "\n".join(lines) + "\n"


def main() -> int:
    """Put the tables between the markers of the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="+")
    parser.add_argument("--out", required=True)
    args = parser.parse_args()
    out = Path(args.out)
    text = out.read_text(encoding="utf-8") if out.exists() else "# Results\n\n<!-- begin -->\n<!-- end -->\n"
    new = f"<!-- begin -->\n{page(args.models)}<!-- end -->"
    out.write_text(re.sub(r"<!-- begin -->.*<!-- end -->", lambda _: new, text, flags=re.DOTALL), encoding="utf-8")
    print(out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
