"""Times and dates as a reader says them."""

import re
from collections.abc import Callable

from speechmtp.g2p import numbers
from speechmtp.g2p.abbreviations import MONTH, MONTHS
from speechmtp.g2p.patterns import either


def _half(match: "re.Match[str]") -> str:
    """ " A.M" with the period that may also end the sentence; the letters are spelled."""
    if not match["half"]:
        return ""
    text = match.string
    ends = match[0].endswith(".") and match.end() == len(text.rstrip())
    return f" {match['half'].upper()}.M." + ("." if ends else "")


def _time(match: "re.Match[str]") -> str | None:
    hour, minute, second = int(match["hour"]), int(match["minute"]), match["second"]
    if minute > 59 or (second and int(second) > 59):
        return None
    said = numbers.cardinal(hour)
    if minute:
        said += f" {'oh ' if minute < 10 else ''}{numbers.cardinal(minute)}"
    elif second:
        said += " o'clock"
    elif not match["half"]:
        said += " hundred" if hour > 12 else " o'clock"
    if second:
        said += f" and {numbers.cardinal(int(second))} second{'' if int(second) == 1 else 's'}"
    return said + _half(match)


def _hour(match: "re.Match[str]") -> str | None:
    return f"{numbers.cardinal(int(match['hour']))}{_half(match)}" if 0 < int(match["hour"]) <= 12 else None


def _date(year: str, month: int, day: int) -> str | None:
    if not (1 <= month <= 12 and 1 <= day <= 31):
        return None
    if len(year) == 2:
        year = f"{'19' if int(year) > 40 else '20'}{year}"
    return f"{MONTHS[month - 1]} {numbers.ordinal(day)}, {numbers.year(int(year))}"


def _slashes(match: "re.Match[str]") -> str | None:
    """Month first, as in the United States, unless only the second number can be a month."""
    first, second, year = int(match[1]), int(match[2]), match[3]
    return _date(year, first, second) or _date(year, second, first)


def _month_day(match: "re.Match[str]") -> str | None:
    day = int(match["day"])
    return f"{MONTH[match['month']]} {numbers.ordinal(day)}" if 1 <= day <= 31 else None


def _day_month(match: "re.Match[str]") -> str | None:
    day = int(match["day"])
    if not 1 <= day <= 31:
        return None
    period = match[0].endswith(".") and (match["month"] in MONTHS or match.end() == len(match.string.rstrip()))
    return f"{match['the'] or 'the '}{numbers.ordinal(day)} of {MONTH[match['month']]}{'.' if period else ''}"


def _short(match: "re.Match[str]") -> str | None:
    month, _, day = match["it"].partition("/")
    if match["it"] == "9/11":  # a name
        return None
    return (
        f"{MONTHS[int(month) - 1]} {numbers.ordinal(int(day))}"
        if 1 <= int(month) <= 12 and 1 <= int(day) <= 31
        else None
    )


_BEFORE = "on|by|since|until|till|before|after|from|dated|due"
_HALF = r"(?:\s?(?P<half>[AaPp])\.?[Mm]\b\.?)"
_MONTH = f"(?P<month>{either(MONTH)})"
RULES: list[tuple["re.Pattern[str]", Callable[["re.Match[str]"], str | None]]] = [
    (re.compile(rf"(?<![\w:.])(?P<hour>\d{{1,2}}):(?P<minute>\d\d)(?::(?P<second>\d\d))?{_HALF}?(?![\w:])"), _time),
    (re.compile(rf"(?<![\w:.])(?P<hour>\d{{1,2}}){_HALF}(?!\w)"), _hour),
    (re.compile(r"(?<![\w-])(\d{4})-(\d\d)-(\d\d)(?![\w-])"), lambda m: _date(m[1], int(m[2]), int(m[3]))),
    (re.compile(r"(?<![\w/])(\d{1,2})/(\d{1,2})/(\d{4}|\d\d)(?![\w/])"), _slashes),
    (re.compile(rf"(?i:\b(?:{_BEFORE})) (?P<it>\d{{1,2}}/\d{{1,2}})(?![\w/]|\.\d)"), _short),
    (re.compile(rf"\b{_MONTH}\.? (?P<day>\d{{1,2}})(?:st|nd|rd|th)?\b(?![\d:%/]|[.,]\d|-\d{{3}})"), _month_day),
    (re.compile(rf"\b(?P<the>[Tt]he )?(?P<day>\d{{1,2}})(?:st|nd|rd|th)? (?:of )?{_MONTH}\b\.?(?=\W|$)"), _day_month),
]
