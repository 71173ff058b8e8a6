"""Short forms and what a reader says for them. Keys are as they are written."""

MONTHS = ("January February March April May June July August September October November December").split()
MONTH = {name[:3]: name for name in MONTHS} | {name: name for name in MONTHS} | {"Sept": "September"}
# Before a name; the period is optional.
TITLES = {
    "Mr": "Mister", "Mrs": "Missus", "Ms": "Miz", "Messrs": "Messers", "Mme": "Madame", "Mlle": "Mademoiselle",
    "Dr": "Doctor", "Prof": "Professor", "St": "Saint", "Sts": "Saints", "Mt": "Mount", "Ft": "Fort", "Gen": "General",
    "Gov": "Governor", "Sen": "Senator", "Rep": "Representative", "Capt": "Captain", "Lt": "Lieutenant",
    "Col": "Colonel", "Sgt": "Sergeant", "Cpl": "Corporal", "Cmdr": "Commander", "Maj": "Major", "Adm": "Admiral",
    "Rev": "Reverend", "Hon": "Honorable", "Pres": "President", "Supt": "Superintendent", "Msgr": "Monsignor",
    "Fr": "Father", "Sr": "Sister",
}  # fmt: skip
# With their period, anywhere. `ENDING` ones may also end a sentence.
WORDS = {
    "tsp": "teaspoon", "tbsp": "tablespoon", "tsp.": "teaspoon", "tbsp.": "tablespoon",
    "Jr.": "Junior", "Sr.": "Senior", "Esq.": "Esquire", "Ave.": "Avenue", "Blvd.": "Boulevard", "Rd.": "Road",
    "Ln.": "Lane", "Hwy.": "Highway", "Pkwy.": "Parkway", "St.": "Street", "Apt.": "Apartment", "Bldg.": "Building",
    "Ltd.": "Limited", "Inc.": "Incorporated", "Corp.": "Corporation", "Co.": "Company", "Bros.": "Brothers",
    "Dept.": "Department", "Univ.": "University", "Assn.": "Association", "Govt.": "Government",
    "approx.": "approximately", "est.": "estimated", "vs.": "versus", "vol.": "volume", "Vol.": "Volume",
    "vols.": "volumes", "fig.": "figure", "Fig.": "Figure", "figs.": "figures", "Figs.": "Figures", "eq.": "equation",
    "Eq.": "Equation", "pp.": "pages", "ch.": "chapter", "Ch.": "Chapter", "sec.": "section", "Sec.": "Section",
    "ed.": "edition", "eds.": "editors", "trans.": "translated", "dept.": "department", "ext.": "extension",
    "Ext.": "Extension", "tel.": "telephone", "Tel.": "Telephone", "max.": "maximum", "min.": "minimum",
    "misc.": "miscellaneous", "incl.": "including", "etc.": "etc", "Etc.": "Etc", "cf.": "compare", "al.": "al",
    "viz.": "namely", "ca.": "circa", "et al.": "et al", "i.e.": "that is", "e.g.": "for example",
    "I.e.": "That is", "E.g.": "For example", "a.k.a.": "also known as", "w/o": "without", "w/": "with",
    "vs": "versus", "Mon.": "Monday", "Tue.": "Tuesday", "Tues.": "Tuesday", "Wed.": "Wednesday",
    "Thu.": "Thursday", "Thurs.": "Thursday", "Fri.": "Friday", "Jan.": "January", "Feb.": "February",
    "Apr.": "April", "Aug.": "August", "Sept.": "September", "Oct.": "October", "Nov.": "November",
    "Dec.": "December", "Ph.D.": "P.H.D.",
}  # fmt: skip
WEEK = {
    "Mon": "Monday", "Tue": "Tuesday", "Tues": "Tuesday", "Wed": "Wednesday", "Thu": "Thursday", "Thurs": "Thursday",
    "Fri": "Friday", "Sat": "Saturday", "Sun": "Sunday",
}  # fmt: skip
# After these a capital letter may begin a new sentence.
ENDING = frozenset(
    "Jr. Sr. Esq. Ave. Blvd. Rd. Ln. Hwy. Pkwy. St. Ltd. Inc. Corp. Co. Bros. Dept. etc. Etc. al. a.m. p.m. A.M. P.M."
    " B.C. A.D. D.C. Ph.D. M.D. B.A. M.A.".split()
)
UNITS = {
    "km": ("kilometer", "kilometers"), "m": ("meter", "meters"), "cm": ("centimeter", "centimeters"),
    "mm": ("millimeter", "millimeters"), "nm": ("nanometer", "nanometers"), "µm": ("micrometer", "micrometers"),
    "μm": ("micrometer", "micrometers"), "µg": ("microgram", "micrograms"), "μg": ("microgram", "micrograms"),
    "µs": ("microsecond", "microseconds"), "μs": ("microsecond", "microseconds"), "mi": ("mile", "miles"),
    "ft": ("foot", "feet"), "yd": ("yard", "yards"), "yds": ("yard", "yards"), "kg": ("kilogram", "kilograms"),
    "g": ("gram", "grams"), "mg": ("milligram", "milligrams"), "lb": ("pound", "pounds"), "lbs": ("pound", "pounds"),
    "oz": ("ounce", "ounces"), "L": ("liter", "liters"), "l": ("liter", "liters"),
    "ml": ("milliliter", "milliliters"), "mL": ("milliliter", "milliliters"), "gal": ("gallon", "gallons"),
    "km/h": ("kilometer per hour", "kilometers per hour"), "kph": ("kilometer per hour", "kilometers per hour"),
    "mph": ("mile per hour", "miles per hour"), "m/s": ("meter per second", "meters per second"),
    "km2": ("square kilometer", "square kilometers"), "m2": ("square meter", "square meters"),
    "m3": ("cubic meter", "cubic meters"), "cm3": ("cubic centimeter", "cubic centimeters"),
    "m^2": ("square meter", "square meters"), "km^2": ("square kilometer", "square kilometers"),
    "m^3": ("cubic meter", "cubic meters"), "cm^3": ("cubic centimeter", "cubic centimeters"),
    "m/s^2": ("meter per second squared", "meters per second squared"),
    "hr": ("hour", "hours"), "hrs": ("hour", "hours"), "h": ("hour", "hours"), "min": ("minute", "minutes"),
    "mins": ("minute", "minutes"), "sec": ("second", "seconds"), "secs": ("second", "seconds"),
    "tsp": ("teaspoon", "teaspoons"), "tbsp": ("tablespoon", "tablespoons"),
    "ms": ("millisecond", "milliseconds"), "Hz": ("hertz", "hertz"),
    "kHz": ("kilohertz", "kilohertz"), "MHz": ("megahertz", "megahertz"), "GHz": ("gigahertz", "gigahertz"),
    "KB": ("kilobyte", "kilobytes"), "kB": ("kilobyte", "kilobytes"), "MB": ("megabyte", "megabytes"),
    "GB": ("gigabyte", "gigabytes"), "TB": ("terabyte", "terabytes"), "W": ("watt", "watts"),
    "kW": ("kilowatt", "kilowatts"), "MW": ("megawatt", "megawatts"), "kWh": ("kilowatt hour", "kilowatt hours"),
    "V": ("volt", "volts"), "mA": ("milliamp", "milliamps"), "dB": ("decibel", "decibels"),
    "kcal": ("kilocalorie", "kilocalories"), "cal": ("calorie", "calories"), "ha": ("hectare", "hectares"),
    "psi": ("P S I", "P S I"), "rpm": ("R P M", "R P M"), "bpm": ("beat per minute", "beats per minute"),
    "°C": ("degree Celsius", "degrees Celsius"), "°F": ("degree Fahrenheit", "degrees Fahrenheit"),
    "°": ("degree", "degrees"), "%": ("percent", "percent"), "‰": ("per mille", "per mille"),
    "¢": ("cent", "cents"),
}  # fmt: skip
# One unit, many, one part and many parts of it.
MONEY = {
    "$": ("dollar", "dollars", "cent", "cents"), "£": ("pound", "pounds", "penny", "pence"),
    "€": ("euro", "euros", "cent", "cents"), "¥": ("yen", "yen", "", ""), "₹": ("rupee", "rupees", "paisa", "paise"),
    "₩": ("won", "won", "", ""), "USD": ("dollar", "dollars", "cent", "cents"),
    "EUR": ("euro", "euros", "cent", "cents"), "GBP": ("pound", "pounds", "penny", "pence"),
}  # fmt: skip
COUNTRY_MONEY = {"US": "U.S.", "C": "Canadian", "CA": "Canadian", "A": "Australian", "AU": "Australian",
                 "NZ": "New Zealand", "HK": "Hong Kong"}  # fmt: skip
SCALES = {
    "k": "thousand", "K": "thousand", "m": "million", "M": "million", "mn": "million", "b": "billion",
    "B": "billion", "bn": "billion", "tn": "trillion", "T": "trillion",
} | {name: name for name in ("hundred", "thousand", "million", "billion", "trillion")}  # fmt: skip
FRACTIONS = {2: "half", 3: "third", 4: "quarter", 5: "fifth", 6: "sixth", 7: "seventh", 8: "eighth", 9: "ninth",
             10: "tenth", 12: "twelfth", 16: "sixteenth", 20: "twentieth", 100: "hundredth"}  # fmt: skip
NUMBERED = (
    "Chapter Part Book Volume Vol Act Scene Section Appendix Phase Type Title Article Class Level Stage Figure Table"
    " War Canto Lesson Unit Division Grade Mark Bowl Psalm Season Episode Category"
).split()
LETTERED = frozenset(f"{' '.join(NUMBERED)} Plan Vitamin Group Team Hepatitis Option Exhibit Gate Room".split())
REGNAL = (
    "Henry Louis Charles George Edward James William Richard John Philip Philippe Francis Frederick Friedrich Peter"
    " Paul Pius Leo Benedict Gregory Clement Innocent Alexander Napoleon Nicholas Elizabeth Mary Catherine Ivan Otto"
    " Ferdinand Alfonso Christian Gustav Victor Rudolf Sixtus Urban Julius Adrian Boniface Celestine Ramses Ptolemy"
    " Xerxes Darius Wilhelm Leopold Joseph Carlos Albert Baldwin Margaret Constantine"
).split()
SYMBOLS = {
    "&": "and", "@": "at", "+": "plus", "=": "equals", "×": "times", "÷": "divided by", "±": "plus or minus",
    "≈": "approximately", "≤": "less than or equal to", "≥": "greater than or equal to", "≠": "not equal to",
    "§": "section", "¶": "paragraph", "©": "copyright", "°": "degrees", "%": "percent", "‰": "per mille",
    "€": "euro", "£": "pound", "$": "dollar", "¥": "yen", "¢": "cent", "#": "hash", "*": "asterisk", "~": "tilde",
    "^": "caret", "<": "less than", ">": "greater than", "/": "slash", "\\": "backslash", "|": "bar", "√": "root",
    "∞": "infinity", "→": "to", "−": "minus", "№": "number", "µ": "micro",
}  # fmt: skip
GREEK = dict(
    zip(
        "αβγδεζηθικλμνξοπρστυφχψω",
        "alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi omicron pi rho sigma tau upsilon phi"
        " chi psi omega".split(),
        strict=True,
    )
)
# Letters that Unicode does not take apart.
FOLDED = {
    "ß": "ss", "æ": "ae", "Æ": "Ae", "œ": "oe", "Œ": "Oe", "ø": "o", "Ø": "O", "ł": "l", "Ł": "L", "đ": "d", "Đ": "D",
    "ð": "th", "Ð": "Th", "þ": "th", "Þ": "Th", "ı": "i", "ŋ": "ng", "Ŋ": "Ng", "ħ": "h", "Ħ": "H", "ſ": "s",
    "²": "^2", "³": "^3", "℃": "°C", "℉": "°F",
    "ŧ": "t", "Ŧ": "T", "ʼ": "'", "‘": "'", "’": "'", "‛": "'", "`": "'", "´": "'", "′": "'", "″": '"', "‐": "-",
    "‑": "-", "‒": "–", "―": "—", "«": "“", "»": "”", "„": "“", "‟": "“", "。": ".", "、": ",", "…": "…",
    "‹": "“", "›": "”", "⁄": "/",
}  # fmt: skip
