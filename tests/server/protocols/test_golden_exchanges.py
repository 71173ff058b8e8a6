"""Exchanges of every protocol, step by step, as they were read and found right."""

import re
from itertools import pairwise
from pathlib import Path

import pytest
from exchanges import GOLDEN, replayed, steps_of

from speechmtp.server.protocols.table import PROTOCOLS

FILES = sorted(GOLDEN.glob("*.txt"))


@pytest.mark.parametrize("path", FILES, ids=[path.stem for path in FILES])
def test_an_exchange_is_as_it_was(path: Path) -> None:
    text = path.read_text()
    assert "\n".join(replayed(steps_of(text))) + "\n" == text


def test_every_protocol_has_exchanges() -> None:
    opened = {
        line.split()[1].split("?")[0] for path in FILES for line in path.read_text().splitlines() if "open /" in line
    }
    assert opened == {path for protocol in PROTOCOLS.values() for path in protocol.paths}


def test_finals_of_deepgram_follow_each_other_without_a_gap() -> None:
    text = (GOLDEN / "deepgram_live.txt").read_text()
    spans = re.findall(r'"start":([0-9.]+),"duration":([0-9.]+),"is_final":true', text)
    assert len(spans) == 4
    for (start, length), (after, _) in pairwise(spans):
        assert round(float(start) + float(length), 3) == float(after)
