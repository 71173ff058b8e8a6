"""Predict the acceptance of head sets at every depth by one teacher-forced pass over known outputs."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import torch

from speechmtp.bundle import load_bundle, reads_text
from speechmtp.data.kaldi import read_data_dir
from speechmtp.devices import dtype_name, find_device, parse_dtype
from speechmtp.errors import ConfigError, SpeechMTPError
from speechmtp.evaluation.evaluation_sets import check_data, encode_all, load_recogniser, name_batches
from speechmtp.evaluation.held_out import long_texts, text_dev
from speechmtp.evaluation.reference_outputs import Tokens, plain_tokens, stored_tokens, text_tokens, write_problem
from speechmtp.evaluation.settings import EvaluationSettings
from speechmtp.evaluation.teacher_forced import teacher_forced
from speechmtp.heads.contract import HeadSet
from speechmtp.heads.folder import find_heads, own_heads, trunk_settings
from speechmtp.models.locate import locate
from speechmtp.models.trunk import Trunk
from speechmtp.progress import track
from speechmtp.scoring.acceptance import PRODUCT_NOTE, Forced, acceptance
from speechmtp.scoring.plot_acceptance import plot_acceptance
from speechmtp.scoring.tables import Column, render_markdown
from speechmtp.types import Prompt

TEXT_NOTE = "biased: text, not the model's own output"
MIN_ROWS = 16  # minimum batch size of a teacher-forced pass

ReportReference = Literal["ar", "text"]


@dataclass(frozen=True)
class HeadReport:
    """`summary` is the content of report.json: the settings, and the figures of every head set under `heads`. `folder`
    is where `write_head_report` writes."""

    summary: dict[str, Any]
    folder: Path


@dataclass(frozen=True)
class _Outputs:
    """Head sets, the prompts and output tokens that they are evaluated on by name, the source of these tokens, and the
    batches."""

    trunk: Trunk
    heads: Mapping[str, HeadSet]
    prompts: Mapping[str, Prompt]
    tokens: Tokens
    source: str
    groups: Sequence[Sequence[str]]
    dtype: torch.dtype
    device: torch.device


def head_folders(model: str, heads: Sequence[str] = ()) -> dict[str, Path]:
    """Folders of head sets by name: those of `heads`, or all of the model's own if none is given."""
    folder = locate(model)
    return find_heads(folder, heads) if heads else own_heads(folder)


def report_folder(data: str, folders: Mapping[str, Path], out: str | Path = "") -> Path:
    """The folder of a report: `out`, or `report/DATA` in the first head folder, DATA being the data's name."""
    return Path(out) if out else next(iter(folders.values())) / "report" / Path(data).resolve().name


def report_heads(
    settings: EvaluationSettings, reference: ReportReference = "ar", out: str | Path = "", batch_size: int = 1
) -> HeadReport:
    """Predict the acceptance of every head set of a model.

    With `reference="ar"` the heads are evaluated on the outputs of `ar`, decoded `batch_size` requests at a time and
    stored for the next report. With `reference="text"`, which is biased, they are evaluated on transcripts or on the
    texts themselves. ConfigError for settings that do not fit, a model without heads, and a folder that cannot be
    written.
    """
    if reference not in get_args(ReportReference):
        raise ConfigError(f"reference={reference!r}: expected one of {', '.join(get_args(ReportReference))}")
    text = reads_text(settings.model)
    if not text:
        settings.check_speech()
    check_data(settings.model, [settings.data], text)
    folders = head_folders(settings.model, settings.heads)
    if not folders:
        raise ConfigError(f"heads: {settings.model} has no heads; train some, or give a head folder as heads=")
    folder = report_folder(settings.data, folders, out)
    if problem := write_problem(folder):
        raise ConfigError(f"{folder}: cannot be written ({problem}); give a folder as out=")
    name = Path(settings.data).resolve().name
    files = [folder / f"{name}.json"] * bool(out) + [path / "report" / f"{name}.json" for path in folders.values()]
    found = (_text_outputs if text else _speech_outputs)(settings, reference, files, batch_size)
    summary = {
        "model": settings.model, "data": settings.data, "reference": reference,
        "note": TEXT_NOTE if reference == "text" else None, "utterances": len(found.tokens),
        "tokens": sum(map(len, found.tokens.values())), "reference_source": found.source,
        "dtype": dtype_name(found.dtype), "device": str(found.device),
        "heads": [_figures(found, heads, name, folders[name]) for name, heads in found.heads.items()],
    }  # fmt: skip
    if text:
        summary |= dict(zip(("prompt_tokens", "max_new_tokens"), settings.text_limits()))
    return HeadReport(summary, folder)


def _speech_outputs(
    settings: EvaluationSettings, reference: str, files: Sequence[Path], batch_size: int
) -> _Outputs:  # fmt: skip
    """Outputs of a speech model on the utterances of a data directory."""
    recogniser = load_recogniser(settings)
    data = read_data_dir(settings.data, settings.root, reference == "text", settings.allow_pipes)
    requests, _ = encode_all(recogniser, data, settings.allow_pipes)
    if reference == "text":
        tokens, source = text_tokens(recogniser, requests, data.transcripts()), f"{settings.data}/text"
    else:
        tokens, stored = plain_tokens(recogniser, requests, batch_size, files)
        source = "kept tokens" if stored else "decoded now"
    prompts = {name: one.prompt for name, one in requests.items()}
    groups = name_batches(requests, max(batch_size, MIN_ROWS))
    bundle = recogniser.bundle
    return _Outputs(
        bundle.model.trunk, bundle.heads, prompts, tokens, source, groups, recogniser.dtype, recogniser.device
    )


def _text_outputs(settings: EvaluationSettings, reference: str, files: Sequence[Path], batch_size: int) -> _Outputs:
    """Outputs of a text LM that continues the first tokens of texts."""
    prompt_tokens, max_new_tokens = settings.text_limits()
    dtype, device = parse_dtype(settings.dtype), torch.device(find_device(settings.device))
    bundle = load_bundle(settings.model, settings.allow_stale_heads, settings.heads).to(device, dtype)
    lm = bundle.text_model
    texts = long_texts(lm, [settings.data], prompt_tokens)
    held_out = text_dev(lm, texts, prompt_tokens, max_new_tokens)
    names = [str(number) for number in range(1, len(texts) + 1)]
    prompts = dict(zip(names, held_out.prompts()))
    if reference == "text":
        ends = prompt_tokens + max_new_tokens
        tokens, source = {n: text[prompt_tokens:ends] for n, text in zip(names, texts)}, settings.data
    else:
        given = json.dumps([text[:prompt_tokens] for text in texts]).encode()
        key = {"trunk_sha256": bundle.trunk_sha256, "trunk_settings": trunk_settings(bundle.model),
               "prompts_sha256": hashlib.sha256(given).hexdigest(),
               "max_new_tokens": max_new_tokens, "dtype": settings.dtype}  # fmt: skip

        def decode() -> Tokens:
            return dict(zip(prompts, held_out.plain_outputs(list(prompts.values()), batch_size)))

        tokens, stored = stored_tokens(key, bundle.name, decode, files)
        source = "kept tokens" if stored else "decoded now"
    rows = max(batch_size, MIN_ROWS)
    groups = [names[start : start + rows] for start in range(0, len(names), rows)]
    return _Outputs(lm.trunk, bundle.heads, prompts, tokens, source, groups, dtype, device)


def _figures(outputs: _Outputs, heads: HeadSet, name: str, folder: Path) -> dict[str, Any]:
    """The figures of one head set."""
    passes: list[Forced] = []
    for group in track(outputs.groups, f"heads {name}"):
        prompts, tokens = [outputs.prompts[n] for n in group], [outputs.tokens[n] for n in group]
        passes += teacher_forced(outputs.trunk, heads, prompts, tokens)
    return {
        "name": name, "folder": str(folder), "family": heads.config.kind, "depth": heads.depth,
        "taps": list(heads.taps), "shortlist": heads.config.shortlist or None,
        "parameters": sum(p.numel() for p in heads.parameters()),
    } | acceptance(passes).as_dict()  # fmt: skip


def report_tables(summary: Mapping[str, Any]) -> list[tuple[str, list[dict[str, Any]], list[Column | str]]]:
    """A headline, rows and columns for every head set of a report."""
    return [(_headline(head, summary["note"] or ""), *_table(head)) for head in summary["heads"]]


def _columns(rows: Sequence[Mapping[str, Any]]) -> list[Column | str]:
    outside = [Column("outside", "outside %", 1)] if any(row["outside"] for row in rows) else []
    return [
        "depth", "labels", Column("top1", "top-1 %", 1), Column("top5", "top-5 %", 1), *outside,
        Column("cross_entropy", "nats", 3), Column("unconditional", "all right %", 1),
        Column("conditional", "conditional %", 1), Column("walked", "in real calls %", 1),
        Column("tokens_per_call", "tokens/call"), "ceiling", Column("share", "share %", 1),
        Column("product", "product (biased)"),
    ]  # fmt: skip


def _table(head: Mapping[str, Any]) -> tuple[list[dict[str, Any]], list[Column | str]]:
    """Rows, shares in percent, and columns of a head set's table."""
    shares = ("top1", "top5", "outside", "unconditional", "conditional", "walked", "share")
    rows = [
        {key: 100 * value if key in shares and value is not None else value for key, value in row.items()}
        for row in head["depths"]
    ]
    return rows, _columns(rows)


def _headline(head: Mapping[str, Any], note: str) -> str:
    """One line on a head set; `note` names the bias of the reference, if any."""
    text = f"{head['name']} ({head['family']}, depth {head['depth']})"
    if head["tokens_per_call"] is not None:
        text += f": {head['tokens_per_call']:.2f} tokens per call of at most {head['ceiling']:.2f}"
        text += f" ({100 * head['share']:.1f} %)"
    return f"{text}; {note}" if note else text


def report_footnote(summary: Mapping[str, Any]) -> str:
    """The explanation below a report's tables: data, settings and what each column means."""
    against = "what `ar` says" if summary["reference"] == "ar" else f"the text itself ({TEXT_NOTE})"
    behind = f", each behind the first {summary['prompt_tokens']} of its text" if "prompt_tokens" in summary else ""
    return (
        f"{summary['utterances']} utterances, {summary['tokens']} tokens of {against}{behind}, {summary['dtype']} on "
        f"{summary['device']}; one teacher-forced pass. all right: the first tokens up to this depth, conditional: "
        f"given that those before are right, in real calls: the same where decoding would have drafted. Tokens per "
        f"call walk the accepted runs with drafts of that depth, prompt's call and end tokens counted; ceiling: every "
        f"draft right. Product: 1 + the sum of `all right` ({PRODUCT_NOTE})."
    )


def write_head_report(report: HeadReport) -> str:
    """Write report.json, report.md and report.png. Return why there is no plot; empty if there is one."""
    summary, out = report.summary, report.folder
    page = [f"# Acceptance of heads on {summary['data']}\n"]
    page += [f"## {headline}\n\n{render_markdown(rows, columns)}" for headline, rows, columns in report_tables(summary)]
    (out / "report.json").write_text(json.dumps(summary, indent=1) + "\n")
    problem = ""
    try:
        plot_acceptance(summary["heads"], out / "report.png", summary["note"] or "")
        page.append("![Acceptance per depth](report.png)\n")
    except SpeechMTPError as error:
        problem = str(error)
    (out / "report.md").write_text("\n".join([*page, report_footnote(summary)]) + "\n", encoding="utf-8")
    return problem
