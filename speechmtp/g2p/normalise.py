"""Written forms to words: a list of rules, each a pattern and what a reader says for its matches.

The order matters: what is longer or surer comes first. Every rule sees the text as the rules before it left it.
"""

import re
from collections.abc import Callable

from speechmtp.g2p import calendar, money, numbers, web
from speechmtp.g2p.abbreviations import (
    FRACTIONS,
    GREEK,
    NUMBERED,
    REGNAL,
    SYMBOLS,
    TITLES,
    UNITS,
    WEEK,
    WORDS,
)
from speechmtp.g2p.folding import fold
from speechmtp.g2p.patterns import NUM, either
from speechmtp.g2p.traced import Fixed, Traced

_CLOSING = " )'\"”.,;:!?"
_PAIRS = {(24, 7), (9, 11)}
Rule = tuple["re.Pattern[str]", Callable[["re.Match[str]"], str | Fixed | None]]


def _unit(match: "re.Match[str]") -> str:
    one, many = UNITS[match["unit"]]
    single = match["number"] in ("1", "-1") or match["joint"] == "-"
    period = match["it"].endswith(".") and match.end() == len(match.string.rstrip())
    return f" {one if single else many}{'.' if period else ''}"


def _abbreviation(match: "re.Match[str]") -> str:
    last = match.end() == len(match.string.rstrip()) and match[0].endswith(".")
    return WORDS[match[0]] + ("." if last else "")


def _title(match: "re.Match[str]") -> str:
    return TITLES[match[0].rstrip(".")] + ("." if match.end() == len(match.string.rstrip()) else "")


def _weekdays(match: "re.Match[str]") -> str:
    return f"{WEEK[match['first']]} to {WEEK[match['last']]}"


def _letters(match: "re.Match[str]") -> str:
    """AT&T: each side letter by letter."""
    return " and ".join(".".join(part) for part in match[0].split("&"))


def _feet(match: "re.Match[str]") -> str:
    feet, inches = match["feet"], match["inches"]
    said = f"{numbers.cardinal(int(feet))} {'foot' if feet == '1' else 'feet'}"
    return f"{said} {numbers.cardinal(int(inches))}" if inches else said


def _roman(match: "re.Match[str]") -> str | None:
    number = numbers.roman(match["it"])
    return None if number is None else numbers.cardinal(number)


def _regnal(match: "re.Match[str]") -> str | None:
    number = numbers.roman(match["it"])
    # A lone letter is more often a word or an initial, unless a title stands before or the clause ends after it.
    lone = len(match["it"]) == 1 and not match["title"]
    if number is None or (lone and not re.match(r"\s*(?:[,.;:!?)]|$|of )", match.string[match.end() :])):
        return None
    return f"the {numbers.ordinal(number)}"


def _fraction(match: "re.Match[str]") -> str | None:
    """Common fractions by their names, a few fixed pairs, and "over" between other numbers."""
    whole, over, under = match["whole"], int(match["over"]), int(match["under"])
    first = numbers.cardinal(over)
    if not (0 < over < under and under in FRACTIONS):
        between = " " if (over, under) in _PAIRS or over == under else " over "
        return None if whole else f"{first}{between}{numbers.cardinal(under)}"
    name = FRACTIONS[under]
    if over > 1:
        name = "halves" if under == 2 else f"{name}s"
    elif whole:
        first = "a"
    said = f"{first} {name}"
    return f"{numbers.cardinal(int(whole))} and {said}" if whole else said


def _range(match: "re.Match[str]") -> str:
    """Two numbers with "to" between them; four digits each, or four and two, are years."""
    return f"{integer(match['low'])} to {integer(match['high'])}"


def integer(text: str) -> str:
    """A number without a point, as it is read alone: four digits in pairs, a leading zero digit by digit."""
    if "," in text:
        return numbers.cardinal(int(text.replace(",", "")))
    if len(text) > 1 and text[0] == "0":
        return numbers.digits(text)
    if len(text) == 4:
        return numbers.year(int(text))
    return numbers.cardinal(int(text)) if len(text) <= numbers.LONGEST else numbers.digits(text)


def _number(match: "re.Match[str]") -> str:
    text = match[0]
    before, after = match.string[match.start() - 1 : match.start()], match.string[match.end() : match.end() + 1]
    if text.count(".") > 1:
        said = " point ".join(integer(part) for part in text.split("."))
    elif "." in text:
        said = numbers.decimal(text)
    else:
        said = numbers.code(text) if before.isalpha() and "," not in text else integer(text)
    return f"{' ' if before.isalpha() else ''}{said}{' ' if after.isalpha() else ''}"


def _ordinal(match: "re.Match[str]") -> str:
    return numbers.ordinal(int(match[1].replace(",", "")))


def _decade(match: "re.Match[str]") -> str:
    text = match[1]
    return numbers.plural(numbers.year(int(text)) if len(text) == 4 else numbers.cardinal(int(text)))


def _plural(match: "re.Match[str]") -> str:
    """747s, F-16s, 49ers."""
    said = numbers.code(match[1])
    return f"{said.removesuffix('e')}ers" if match[2] == "ers" else numbers.plural(said)


def _numerals(match: "re.Match[str]") -> str | None:
    """Chapters I-III."""
    low, high = numbers.roman(match["low"]), numbers.roman(match["high"])
    return None if low is None or high is None else f"{numbers.cardinal(low)} to {numbers.cardinal(high)}"


def _phone(match: "re.Match[str]") -> str:
    return ", ".join(numbers.digits(part) for part in re.findall(r"\d+", match[0]))


def _symbol(match: "re.Match[str]") -> str:
    """The name of a symbol, with blanks unless a quote, a bracket or a mark is beside it."""
    before, after = match.string[match.start() - 1 : match.start()], match.string[match.end() : match.end() + 1]
    left = "" if before in ("", *" ('\"“") else " "
    return f"{left}{SYMBOLS[match[0]]}{'' if after in ('', *_CLOSING) else ' '}"


def _rule(pattern: str, reading: Callable[["re.Match[str]"], str | Fixed | None] | str) -> Rule:
    said = reading
    return re.compile(pattern), (lambda match: said) if isinstance(said, str) else said


_ROMAN = r"(?P<it>[IVXLCDM]+)\b(?!['’]\w|\.\w)"
_UNIT = f"(?P<joint>[ -]?)(?P<unit>{either(UNITS)})"
_GREEK = "α-ωΑ-Ω"
RULES: list[Rule] = [
    *web.RULES,
    _rule(r"-+>", " to "),
    _rule(r"(?<=[apAP][mM]|m\.)\s?[-–]\s?(?=\d)", " to "),
    _rule(rf"\b(?P<first>{either(WEEK)})\.?\s?[-–]\s?(?P<last>{either(WEEK)})\b", _weekdays),
    _rule(r"(?<=[.!?…])(?:\s*\.)+(?=\s|$)|\.{3,}|(?<=\s)\.(?: \.)+", "…"),
    _rule(r"(?<=\d)\s?–\s?(?=[$£€]?\d)", "-"),
    _rule(r"\s?--+\s?|\s?–\s?(?=\D)", "—"),
    _rule(r"(?<=\s)-+(?=\s|$)", "—"),
    *calendar.RULES,
    _rule(r"(?<![\w.-])(?:\+?\d{1,3}[ .-])?(?:\(\d{3}\) ?|\d{3}[-.])?\d{3}[-.]\d{4}(?![\w-]|\.\d)", _phone),
    _rule(r"(?<=[A-Za-z])-(?=\d)", " "),
    *money.RULES,
    _rule(r"(?<![\w.,])'?(\d{4}|\d0)'?s\b", _decade),
    _rule(r"(?<![\w.,])(\d+)'?(s|ers)\b", _plural),
    _rule(r"(?<!\w)(?P<it>')\d\d(?!\d)", ""),
    _rule(r"\b[A-Z]{2} (?P<it>\d{5}(?:-\d{4})?)(?![\w,.]\d|\w)", lambda match: numbers.digits(match["it"])),
    _rule(r"(?:llars?|cents?|euros?|pounds?|pence)(?P<it>/)(?=[a-z])", " per "),
    _rule(r"(?<![\w.,/])(?:(?P<whole>\d+)[ -])?(?P<over>\d{1,3})/(?P<under>\d{1,3})(?![\w/]|\.\d)", _fraction),
    _rule(r"(?<![\w.])\d+\.\d+(?P<it>/)\d+(?![\w/])", " out of "),
    _rule(rf"(?<![\w.])(?P<number>-?{NUM})(?P<it>{_UNIT}(?:\.(?= [a-z\d]|$))?)(?![\w'°]|/\w)", _unit),
    _rule(r"(?<=\d)(?P<it>[ -]in\.)(?= [a-z])", " inches"),
    _rule(r"\bkm/h\b", "kilometers per hour"),
    _rule(r"(?<=[\s\d])(?<!\w )[x×](?=\s?\d)|(?<=\d) ?[x×*] ?(?=\d)", " times "),
    _rule(r"(?<=\d)[x×](?=[\s,.;:!?)]|$)(?!\s?[+=-])", " times"),
    _rule(r"(?<![\w.:])(?P<low>\d{1,3}):(?P<high>\d{1,3})(?![\w:])", _range),
    _rule(r"(?<![\w.])(?P<feet>\d)'(?: ?(?P<inches>\d{1,2})(?:\"|''))?(?!\w)", _feet),
    _rule(r"(?<![\w.,-])(?P<low>\d{1,4}(?:,\d{3})*)\s?-\s?(?P<high>\d{1,4}(?:,\d{3})*)(?![\w-]|[.,]\d)", _range),
    _rule(r"\b[A-Z]\w+ (?P<it>St\b\.?)(?! ?[A-Z])", "Street"),
    _rule(r"(?<=\w )[A-Z]\w+ (?P<it>St\.)(?= [A-Z])", "Street"),
    _rule(r"\b[A-Z]\w+ (?P<it>Dr\.)(?! ?[A-Z])", "Drive"),
    _rule(rf"\b(?:{either(TITLES)})\.?(?= ?[A-Z])", lambda match: TITLES[match[0].rstrip(".")]),
    _rule(r"\b(?:Mr|Mrs|Ms|Dr|Prof|Rev|Capt|Sgt|Lt|Col|Gen|Gov|Sen)\.(?=[ ,;]|$)", _title),
    _rule(rf"(?<![\w.])(?:{either(WORDS)})(?![\w])", _abbreviation),
    _rule(r"\b[A-Z]{1,3}(?:&[A-Z]{1,3})+\b", _letters),
    _rule(r"\b[A-Z](?P<it>#)(?!\w)", " sharp"),
    _rule(r"(?<=[a-z\d])\.(?=[a-z]{2,})", " dot "),
    _rule(r"\b[Nn]os\. ?(?=\d)", "numbers "),
    _rule(r"\b[Nn]o\. ?(?=\d)", "number "),
    _rule(r"\bp\. ?(?=\d)", "page "),
    _rule(r"\b([A-Z])\.(?= ?[A-Z][\w.])", lambda match: None if match.string[match.end()] != " " else match[1]),
    _rule(rf"(?P<title>\b(?:King|Queen|Pope|Emperor|Tsar|Czar|Prince)\s)?\b(?:{either(REGNAL)}) {_ROMAN}", _regnal),
    _rule(rf"(?i:\b(?:{either(NUMBERED)})s?) (?P<it>(?P<low>[IVXLC]+)\s?-\s?(?P<high>[IVXLC]+))\b", _numerals),
    _rule(rf"(?i:\b(?:{either(NUMBERED)})) {_ROMAN}", _roman),
    _rule(r"\b[A-Z][a-z]+ (?P<it>[IVX]{2,})\b(?!['’]\w|\.\w)", _roman),
    _rule(r"(?<![\w&])#\s?(?=\d)", "number "),
    _rule(r"(?<![\w.,])(\d{1,3}(?:,\d{3})+|\d+)(?:st|nd|rd|th|ST|ND|RD|TH)\b", _ordinal),
    _rule(r"(?<![\w.,)-])[-−](?=[.\d])", "minus "),
    _rule(r"(?<!\w)\+(?=\d)", "plus "),
    _rule(r"(?<!\w)~(?=\d)", "about "),
    _rule(r"(?<=\d)-(?=\w)", " "),
    _rule(r"(?<=\w)\^2(?!\d)", " squared"),
    _rule(r"(?<=\w)\^3(?!\d)", " cubed"),
    _rule(r"(?<=\w)\^(?=\w)", " to the "),
    _rule(r"\d{1,3}(?:,\d{3})+(?!\d|,\d)(?:\.\d+)?|\d+(?:\.\d+)+|(?<![\w.])\.\d+|\d+", _number),
    _rule(r"\*+(?=\w)|(?<=\w)\*+|(?<=[.!?,;:])\*+|_+", " "),
    _rule(f"(?<![{_GREEK}])[{_GREEK}](?![{_GREEK}])", lambda match: f" {GREEK[match[0].lower()]} "),
    _rule(f"[{re.escape(''.join(SYMBOLS))}]", _symbol),
    _rule("–", "—"),
    _rule(r"[\[{]", "("),
    _rule(r"[\]}]", ")"),
    _rule(r"(?<![A-Za-z'])-+|-+(?![A-Za-z'])", " "),
    _rule(r"^ +", ""),
    _rule(r" {2,}", " "),
    _rule(r" +(?=[,.;:!?…])", ""),
]


def normalise(traced: Traced) -> Traced:
    """A sentence in words and punctuation alone: no digits, no symbols; other scripts stay as they are."""
    traced = fold(traced)
    for pattern, reading in RULES:
        traced = traced.rewrite(pattern, reading)
    return traced
