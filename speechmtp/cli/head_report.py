"""What every report on heads shares: where it goes, the figures of a head set, tables, files and the picture."""

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from speechmtp.errors import SpeechMTPError

if TYPE_CHECKING:
    from speechmtp.heads.contract import HeadSet
    from speechmtp.models.trunk import Trunk
    from speechmtp.types import Prompt

TEXT_NOTE = "biased: text, not the model's own output"
ROWS = 16  # outputs of one teacher-forced forward, at least


def places(args: argparse.Namespace, folders: Mapping[str, Path]) -> tuple[Path, list[Path]]:
    """The folder of the report, and the files where `ar`'s tokens may be: the first is the one to write."""
    from speechmtp.cli.reference import make_writable

    name = Path(args.data).resolve().name
    beside = [folder / "report" / f"{name}.json" for folder in folders.values()]
    out = Path(args.out) if args.out else beside[0].parent / name
    make_writable(out)
    return out, [out / f"{name}.json", *beside] if args.out else beside


def judged(
    trunk: "Trunk", heads: "HeadSet", name: str, folder: Path, prompts: Mapping[str, "Prompt"],
    tokens: Mapping[str, list[int]], groups: Sequence[Sequence[str]],
) -> dict[str, Any]:  # fmt: skip
    """The figures of one head set on outputs `tokens` behind `prompts`, both by name; `groups` go together."""
    from speechmtp.evaluation.teacher_forced import teacher_forced
    from speechmtp.progress import track
    from speechmtp.scoring.acceptance import Forced, acceptance

    passes: list[Forced] = []
    for group in track(groups, f"heads {name}"):
        passes += teacher_forced(trunk, heads, [prompts[n] for n in group], [tokens[n] for n in group])
    return {
        "name": name, "folder": str(folder), "family": heads.config.kind, "depth": heads.depth,
        "taps": list(heads.taps), "shortlist": heads.config.shortlist or None,
        "parameters": sum(p.numel() for p in heads.parameters()),
    } | acceptance(passes).as_dict()  # fmt: skip


def summary_of(
    args: argparse.Namespace, tokens: Mapping[str, list[int]], source: str, dtype: Any, device: Any,
    found: Sequence[dict[str, Any]],
) -> dict[str, Any]:  # fmt: skip
    """report.json: head sets `found`, judged on `tokens` that are from `source`."""
    return {
        "model": args.model, "data": args.data, "reference": args.reference,
        "note": TEXT_NOTE if args.reference == "text" else None, "utterances": len(tokens),
        "tokens": sum(map(len, tokens.values())), "reference_source": source,
        "dtype": str(dtype).removeprefix("torch."), "device": str(device), "heads": list(found),
    }  # fmt: skip


def _columns(rows: Sequence[Mapping[str, Any]]) -> list[Any]:
    from speechmtp.scoring.tables import Column

    outside = [Column("outside", "outside %", 1)] if any(row["outside"] for row in rows) else []
    return [
        "depth", "labels", Column("top1", "top-1 %", 1), Column("top5", "top-5 %", 1), *outside,
        Column("cross_entropy", "nats", 3), Column("unconditional", "all right %", 1),
        Column("conditional", "conditional %", 1), Column("walked", "in real calls %", 1),
        Column("tokens_per_call", "tokens/call"), "ceiling", Column("share", "share %", 1),
        Column("product", "product (biased)"),
    ]  # fmt: skip


def _table(head: Mapping[str, Any]) -> tuple[list[dict[str, Any]], list[Any]]:
    """Rows, shares in percent, and columns of a head set's table."""
    shares = ("top1", "top5", "outside", "unconditional", "conditional", "walked", "share")
    rows = [
        {key: 100 * value if key in shares and value is not None else value for key, value in row.items()}
        for row in head["depths"]
    ]
    return rows, _columns(rows)


def _headline(head: Mapping[str, Any], note: str) -> str:
    """One line on a head set, with the bias of its reference if it has one."""
    text = f"{head['name']} ({head['family']}, depth {head['depth']})"
    if head["tokens_per_call"] is not None:
        text += f": {head['tokens_per_call']:.2f} tokens per call of at most {head['ceiling']:.2f}"
        text += f" ({100 * head['share']:.1f} %)"
    return f"{text}; {note}" if note else text


def _footnote(summary: Mapping[str, Any]) -> str:
    from speechmtp.scoring.acceptance import PRODUCT_NOTE

    against = "what `ar` says" if summary["reference"] == "ar" else f"the text itself ({TEXT_NOTE})"
    behind = f", each behind the first {summary['prompt_tokens']} of its text" if "prompt_tokens" in summary else ""
    return (
        f"{summary['utterances']} utterances, {summary['tokens']} tokens of {against}{behind}, {summary['dtype']} on "
        f"{summary['device']}; one teacher-forced pass. all right: the first tokens up to this depth, conditional: "
        f"given that those before are right, in real calls: the same where decoding would have drafted. Tokens per "
        f"call walk the accepted runs with drafts of that depth, prompt's call and end tokens counted; ceiling: every "
        f"draft right. Product: 1 + the sum of `all right` ({PRODUCT_NOTE})."
    )


def write_report(summary: dict[str, Any], out: Path) -> None:
    """Tables on the screen, report.json, report.md and report.png."""
    from speechmtp.scoring.plot_acceptance import plot_acceptance
    from speechmtp.scoring.tables import render_markdown, render_text

    foot, found, note = _footnote(summary), summary["heads"], summary["note"] or ""
    page = [f"# Acceptance of heads on {summary['data']}\n"]
    for head in found:
        rows, columns = _table(head)
        print(f"{_headline(head, note)}\n{render_text(rows, columns)}")
        page.append(f"## {_headline(head, note)}\n\n{render_markdown(rows, columns)}")
    print(foot)
    (out / "report.json").write_text(json.dumps(summary, indent=1) + "\n")
    try:
        plot_acceptance(found, out / "report.png", note)
        page.append("![Acceptance per depth](report.png)\n")
    except SpeechMTPError as error:
        print(f"no picture: {error}")
    (out / "report.md").write_text("\n".join([*page, foot]) + "\n", encoding="utf-8")
    print(f"report: {out}")
