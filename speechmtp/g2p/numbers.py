"""English words for numbers, as US readers say them: no "and", no hyphens, one blank between words."""

ONES = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen"
    " eighteen nineteen"
).split()
TENS = "- ten twenty thirty forty fifty sixty seventy eighty ninety".split()
SCALES = " thousand million billion trillion quadrillion".split(" ")
ORDINALS = {
    "one": "first", "two": "second", "three": "third", "five": "fifth", "eight": "eighth", "nine": "ninth",
    "twelve": "twelfth",
}  # fmt: skip
LONGEST = 18  # digits; longer numbers are read digit by digit
_ROMAN = {"I": 1, "V": 5, "X": 10, "L": 50, "C": 100, "D": 500, "M": 1000}


def digits(text: str) -> str:
    """Digit by digit; other characters are left out."""
    return " ".join(ONES[int(one)] for one in text if one.isdecimal())


def cardinal(number: int) -> str:
    """142 is "one hundred forty two"; beyond 18 digits they are read one by one."""
    if number < 0:
        return f"minus {cardinal(-number)}"
    if number >= 10**LONGEST:
        return digits(str(number))
    words: list[str] = []
    for power in range(len(SCALES) - 1, -1, -1):
        group = number // 1000**power % 1000
        if not group:
            continue
        if group >= 100:
            words += [ONES[group // 100], "hundred"]
        rest = group % 100
        if rest >= 20:
            words.append(TENS[rest // 10])
            rest %= 10
        if rest:
            words.append(ONES[rest])
        if power:
            words.append(SCALES[power])
    return " ".join(words) or "zero"


def ordinal(number: int) -> str:
    """21 is "twenty first"."""
    head, _, last = cardinal(number).rpartition(" ")
    if last in ORDINALS:
        last = ORDINALS[last]
    else:
        last = f"{last[:-1]}ieth" if last.endswith("y") else f"{last}th"
    return f"{head} {last}".strip()


def year(number: int) -> str:
    """Four digits in pairs: 1905 is "nineteen oh five", 2005 "two thousand five", 1800 "eighteen hundred"."""
    high, low = divmod(number, 100)
    if not 10 <= high < 100 or (high % 10 == 0 and low < 10):
        return cardinal(number)
    tail = "hundred" if low == 0 else f"oh {ONES[low]}" if low < 10 else cardinal(low)
    return f"{cardinal(high)} {tail}"


def plural(words: str) -> str:
    """The last word in the plural: "nineteen nineties", "sixths"."""
    return f"{words[:-1]}ies" if words.endswith("y") else f"{words}es" if words.endswith(("x", "s")) else f"{words}s"


def decimal(text: str) -> str:
    """3.14 is "three point one four"; commas are allowed before the point, and no digit need stand there."""
    whole, _, rest = text.replace(",", "").partition(".")
    said = cardinal(int(whole)) if whole else ""
    return f"{said} point {digits(rest)}".strip() if rest else said or "zero"


def code(text: str) -> str:
    """A number that is part of a name ("A380", "room 101b"): three digits as one and two, longer ones one by one."""
    if text[0] == "0" or len(text) > 3:
        return digits(text)
    if len(text) < 3 or text.endswith("00"):
        return cardinal(int(text))
    return f"{ONES[int(text[0])]} {'oh ' if text[1] == '0' else ''}{cardinal(int(text[1:]))}"


def roman(text: str) -> int | None:
    """The number that a Roman numeral means, None if it is none."""
    total = 0
    for one, after in zip(text, [*text[1:], ""], strict=True):
        value = _ROMAN[one]
        total += -value if after and _ROMAN[after] > value else value
    return total if total and _roman_of(total) == text else None


def _roman_of(number: int) -> str:
    pairs = zip(
        "M CM D CD C XC L XL X IX V IV I".split(), (1000, 900, 500, 400, 100, 90, 50, 40, 10, 9, 5, 4, 1), strict=True
    )
    text = ""
    for letters, value in pairs:
        count, number = divmod(number, value)
        text += letters * count
    return text
