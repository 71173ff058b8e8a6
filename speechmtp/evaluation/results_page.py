"""The results page of an experiment: its training, scores, comparisons and delays, between markers."""

import json
import os
import platform
import re
import subprocess
from datetime import date
from pathlib import Path
from typing import Any

from speechmtp.errors import DataError
from speechmtp.evaluation.latency_tables import latency_tables
from speechmtp.evaluation.tables import comparison_columns, comparison_footnote, comparison_rows
from speechmtp.scoring.tables import render_markdown, short_label


def write_results(experiment: str | Path, page_file: str | Path) -> None:
    """Write the tables of an experiment folder (`compare/`, `score/`, `latency/`, `tables/`) into a results page,
    replacing its old ones; text outside its markers is kept. All figures come from JSON files and from tables that
    scripts wrote. DataError if there is no such folder."""
    exp, out = Path(experiment), Path(page_file)
    if not exp.is_dir():
        raise DataError(f"{exp}: no such experiment folder")
    block = _block(exp)
    page = out.read_text(encoding="utf-8") if out.exists() else "# Results\n"
    begin, end = f"<!-- begin {exp.name} -->", f"<!-- end {exp.name} -->"
    new = f"{begin}\n{block}{end}\n"
    if begin in page and end in page:
        rest = page[page.index(end) + len(end) :].lstrip("\n")
        page = page[: page.index(begin)] + new + ("\n" + rest if rest else "")
    else:
        page = page.rstrip("\n") + "\n\n" + new
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(page, encoding="utf-8")


def _block(exp: Path) -> str:
    lines = [f"## {exp.name}", "", _circumstances(exp), ""]
    if (training := _training(exp)) is not None:
        lines += [training]
    for path in sorted(exp.glob("score/*/summary.json")):
        s = json.loads(path.read_text())
        interval = f"{s['wer_low']:.2f} to {s['wer_high']:.2f} by {s['interval']['unit']}"
        lines.append(
            f"- `{path.parent.name}`: WER {s['wer']:.2f} % (95 % interval {interval}), "
            f"{s['words']} words, {s['ins']} ins, {s['del']} del, {s['sub']} sub; CER {s['cer']:.2f} %"
        )
    for path in sorted(exp.glob("compare/*/compare.json")):
        rows, stored = json.loads(path.read_text()), path.parent / "notes.json"
        notes = json.loads(stored.read_text()) if stored.exists() else {}
        table = render_markdown(comparison_rows(rows), comparison_columns(rows))
        lines += ["", f"### {path.parent.name}", "", table, comparison_footnote(rows, notes)]
        lines += _differences(rows)
    for path in sorted(exp.glob("latency/*/latency.json")):
        found = json.loads(path.read_text())
        lines += ["", f"### {path.parent.name}", "", latency_tables(found["rows"], found["facts"], markdown=True)]
    for path in sorted(exp.glob("tables/*.md")):  # of scripts in benchmarks/
        lines += ["", f"### {path.stem}", "", path.read_text(encoding="utf-8").rstrip()]
    return "\n".join(lines) + "\n"


def _circumstances(exp: Path) -> str:
    """Date, commit, machine and command of the experiment."""
    commit, changed, day = ask_git("rev-parse", "HEAD"), bool(ask_git("diff", "HEAD", "--name-only")), str(date.today())
    if (exp / "environment.txt").exists():  # recorded at the start of the training
        lines = (exp / "environment.txt").read_text().splitlines()
        known = dict(line.split(": ", 1) for line in lines if ": " in line)
        commit, changed = known.get("commit", commit), known.get("uncommitted changes", "none") != "none"
        day = known.get("date", day)[:10]
    dirty = " with changes" if changed else ""
    command = ""
    recorded = exp / "run.sh"
    if recorded.exists():
        words = [line for line in recorded.read_text().splitlines() if "run.sh" in line and not line.startswith("#")]
        line = re.sub(r" --(only|stop-stage|stage) \S+", "", words[-1].strip()) if words else ""
        if corpora := os.environ.get("SPEECHMTP_CORPORA"):
            line = line.replace(corpora, "$SPEECHMTP_CORPORA")  # the page should not depend on the machine
        command = f" Command: `{line}`." if line else ""
    return f"{day}, commit {commit[:7] or 'unknown'}{dirty}; {processor_name()}.{command}"


def ask_git(*arguments: str) -> str:
    """The output of a git command; empty if it fails or git is missing."""
    try:
        done = subprocess.run(["git", *arguments], capture_output=True, text=True, check=False)
    except OSError:  # no git: the page shows `unknown`
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def processor_name() -> str:
    """Processor model and PyTorch version."""
    import torch

    names = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    found = re.search(r"model name\s*:\s*(.+)", names)
    name = found.group(1).strip() if found else platform.processor() or platform.machine()
    return f"{name}, PyTorch {torch.__version__.split('+')[0]}"


def _training(exp: Path) -> str | None:
    """A table of training phases with their updates, minutes and development figures; None without phases."""
    rows: list[dict[str, Any]] = []
    for final in sorted(exp.glob("*/final.json"), key=lambda p: p.stat().st_mtime):
        log = [json.loads(line) for line in (final.parent / "train.jsonl").read_text().splitlines()]
        data = json.loads(final.read_text())
        figures = ", ".join(f"{k} {v:.2f}" for k, v in data["figures"].items() if k != "score")
        minutes = sum(row.get("step_s", 0.0) for row in log) / 60
        row = {"phase": final.parent.name, "updates": data.get("steps"), "minutes": round(minutes, 1), "dev": figures}
        rows.append(row)
    return render_markdown(rows, ["phase", "updates", "minutes", "dev"]) if rows else None


def _differences(rows: list[dict[str, Any]]) -> list[str]:
    """A line for every utterance where a row that promises `ar`'s tokens differs from them, with the logit gap."""
    out = []
    for row in rows:
        for kind, found in (("near-tie", row["near_ties"]), ("DIFFERENCE", row["differences"] or [])):
            for d in found:
                name = short_label(row["label"])
                out.append(f"- {kind}: `{name}` {d['utterance']} at token {d['index']}, gap {d['gap']:.2e}")
    return ["", *out] if out else []
