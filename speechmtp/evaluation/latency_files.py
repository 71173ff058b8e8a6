"""The files of live recognition that was measured."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from speechmtp.config import write_yaml
from speechmtp.data.tables import write_table
from speechmtp.errors import SpeechMTPError
from speechmtp.evaluation.latency import Latency
from speechmtp.evaluation.latency_tables import latency_tables
from speechmtp.scoring.plot_delays import plot_delays
from speechmtp.text.lines import one_line


def write_latency(latency: Latency, settings: Mapping[str, Any], folder: str | Path) -> str:
    """Write latency.json, latency.md, latency.png, config.yaml (`settings`) and `text/LABEL/text` of every row;
    `folder` is created if needed. Return why there is no plot; empty if there is one."""
    out = Path(folder)
    out.mkdir(parents=True, exist_ok=True)
    content = {"facts": latency.facts, "rows": latency.rows}
    (out / "latency.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    page = latency_tables(latency.rows, latency.facts, markdown=True)
    (out / "latency.md").write_text(page, encoding="utf-8")
    write_yaml(out / "config.yaml", dict(settings))
    for label, texts in latency.texts.items():
        name = "".join(one if one.isalnum() or one in ".-=" else "_" for one in label)
        write_table(out / "text" / name / "text", {key: one_line(text).rstrip() for key, text in texts.items()})
    try:
        plot_delays(latency.rows, out / "latency.png")
    except SpeechMTPError as error:
        return str(error)
    return ""
