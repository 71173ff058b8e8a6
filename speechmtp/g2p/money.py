"""Amounts of money as a reader says them."""

import re
from collections.abc import Callable

from speechmtp.g2p import numbers
from speechmtp.g2p.abbreviations import COUNTRY_MONEY, MONEY, SCALES
from speechmtp.g2p.patterns import NUM, either


def _plain(text: str) -> str:
    return numbers.decimal(text) if "." in text else numbers.cardinal(int(text.replace(",", "")))


def _amount(match: "re.Match[str]") -> str:
    one, many, part, parts = MONEY[match["sign"]]
    country = COUNTRY_MONEY.get(match["country"] or "")
    before = "minus " if match["minus"] else ""
    if country:
        one, many = f"{country} {one}", f"{country} {many}"
    low, high, scale = match["low"], match["high"], match["scale"]
    if high:
        return f"{before}{_plain(low)} to {_plain(high)} {SCALES[scale] + ' ' if scale else ''}{many}"
    if scale:
        return f"{before}{_plain(low)} {SCALES[scale]} {many}"
    whole, _, rest = low.replace(",", "").partition(".")
    if len(rest) != 2 or not part:
        return f"{before}{_plain(low)} {one if low == '1' else many}"
    cents = f"{numbers.cardinal(int(rest))} {part if int(rest) == 1 else parts}"
    amount = f"{numbers.cardinal(int(whole))} {one if int(whole) == 1 else many}"
    if int(rest) == 0:
        return before + amount
    return before + (f"{amount} and {cents}" if int(whole) else cents)


_SCALE = rf"(?:[ -]?(?P<scale>{either(SCALES)})(?!\w))?"
_RANGE = rf"(?:\s?(?:-|to)\s?(?P=sign)?(?P<high>{NUM}))?"
RULES: list[tuple["re.Pattern[str]", Callable[["re.Match[str]"], str | None]]] = [
    (
        re.compile(
            rf"(?<![\w$£€¥])(?P<minus>[-−])?(?P<country>{either(COUNTRY_MONEY)})?(?P<sign>{either(MONEY)})\s?"
            rf"(?P<low>{NUM}){_RANGE}{_SCALE}"
        ),
        _amount,
    ),
    (
        re.compile(rf"(?<![\w.])(?P<low>{NUM})(?P<it>\s?[€£])(?!\w)"),
        lambda m: f" {MONEY[m['it'].strip()][m['low'] != '1']}",
    ),
]
