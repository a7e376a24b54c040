"""Values of a source header: decoded, and kept only where the standard allows them (PS3.5 section 6.2).

Each ``clean_*`` function returns the value in its standard form, or None when no standard form says the same.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from datetime import date
from typing import Final

_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f]")

# ASCII: other scripts have digits of their own, which int() and float() take too, and no value may have.
_DATE: Final = re.compile(r"(\d{4})([.-]?)(\d{2})\2(\d{2})", re.ASCII)
_TIME: Final = re.compile(r"([01]\d|2[0-3])(?:(:?)([0-5]\d)(?:\2([0-5]\d)(\.\d{1,6})?)?)?", re.ASCII)
_AGE: Final = re.compile(r"(\d{1,3})([DWMY])", re.ASCII)
_DECIMAL: Final = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?", re.ASCII)
_WHOLE: Final = re.compile(r"[+-]?\d{1,11}", re.ASCII)
_OFFSET: Final = re.compile(r"([+-])(\d{2})([0-5]\d)", re.ASCII)
#: Of an attribute that may have any number. A report doesn't grow with what a header repeats.
MAX_VALUES: Final = 64
_SEXES: Final = {"M": "M", "F": "F", "O": "O", "MALE": "M", "FEMALE": "F", "OTHER": "O"}


def guess(raw: bytes) -> str | None:
    """Decode a value that no declared encoding fits, of a header that declares no unknown one: UTF-8, else Latin-1.

    Latin-1 is what viewers and Orthanc take for undeclared text. It gives a letter to every byte, right or
    wrong, but other encodings leave control characters behind; such a value is given up.
    """
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError:
        text = raw.decode("latin-1")
    return None if _CONTROL.search(text) else text


def is_plain(text: str, limit: int) -> bool:
    r"""Whether `text` can be one value of LO (`limit` 64) or SH (16): no control characters, no backslash."""
    return len(text) <= limit and "\\" not in text and not _CONTROL.search(text)


def clean_long(text: str) -> str | None:
    """Clean a Long String (LO)."""
    return text if is_plain(text, 64) else None


def clean_longs(text: str) -> str | None:
    """Clean a Long String (LO) that may have several values, each by itself."""
    parts = [part for part in text.split("\\") if part.strip(" ") and is_plain(part, 64)]
    return "\\".join(parts[:MAX_VALUES]) or None


def clean_short(text: str) -> str | None:
    """Clean a Short String (SH)."""
    return text if is_plain(text, 16) else None


def clean_name(text: str) -> str | None:
    """Clean a Person Name (PN): up to three groups of up to five components, 64 characters a group."""
    groups = [group.rstrip("^ ").lstrip(" ") for group in text.split("=")]
    while groups and not groups[-1]:
        groups.pop()
    if len(groups) > 3 or any(group.count("^") > 4 or not is_plain(group, 64) for group in groups):
        return None
    return "=".join(groups)


def clean_date(text: str) -> str | None:
    """Clean a Date (DA) to YYYYMMDD; also from the forms with dots or dashes."""
    match = _DATE.fullmatch(text)
    if not match:
        return None
    year, _, month, day = match.groups()
    try:
        date(int(year), int(month), int(day))
    except ValueError:
        return None
    return year + month + day


def clean_time(text: str) -> str | None:
    """Clean a Time (TM) to HH[MM[SS[.FFFFFF]]]; also from the form with colons."""
    return text.replace(":", "") if _TIME.fullmatch(text) else None


def clean_sex(text: str) -> str | None:
    """Clean Patient's Sex (0010,0040) to M, F or O."""
    return _SEXES.get(text.upper())


def clean_age(text: str) -> str | None:
    """Clean an Age String (AS) to three digits and a unit."""
    match = _AGE.fullmatch(text.upper())
    return f"{int(match[1]):03d}{match[2]}" if match else None


def clean_decimal(text: str) -> str | None:
    """Clean a Decimal String (DS) that measures a body: a finite number above zero."""
    return text if len(text) <= 16 and positive(text) is not None else None


def clean_yes(text: str) -> str | None:
    """Clean a flag (CS) to YES or NO."""
    return text.upper() if text.upper() in ("YES", "NO") else None


def clean_offset(text: str) -> str | None:
    """Clean Timezone Offset From UTC (0008,0201) to +HHMM or -HHMM, from -1200 to +1400."""
    match = _OFFSET.fullmatch(text)
    if not match or text == "-0000":
        return None
    minutes = 60 * int(match[2]) + int(match[3])
    return text if minutes <= (840 if match[1] == "+" else 720) else None


def positive(text: str) -> float | None:
    """Return the number that a Decimal String says, or None when it is none or not above zero."""
    if not _DECIMAL.fullmatch(text):
        return None
    number = float(text)
    return number if math.isfinite(number) and number > 0 else None


def whole(text: str) -> int:
    """Return the number that an Integer String says, or 0 when it says none."""
    return int(text) if _WHOLE.fullmatch(text) else 0


#: How each value representation that is carried over is cleaned.
Cleaner = Callable[[str], str | None]
