"""What is known of an image beside its pixels, in the form in which DICOM attributes can hold it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from backlog.dicom.lettering import fold
from backlog.dicom.terms import Body, View, body_examined, view_named

#: Signs that no Code String has (PS3.5 6.2).
_NO_CODE: Final = re.compile(r"[^A-Z0-9_]+")
_MAX_CODE: Final = 16


@dataclass(frozen=True, slots=True)
class Subject:
    """What is known of one image beside its pixels; what isn't is empty."""

    patient: str = ""
    study: str = ""
    view: str = ""  #: as View Position (0018,5101) has it
    body_part: str = ""  #: as Body Part Examined (0018,0015) has it
    archive: str = ""  #: what says so: equal numbers in two archives are two patients' studies


@lru_cache(maxsize=1024)
def view_code(text: str) -> str:
    """Return a view as a Code String: its words without accents and signs; where these don't fit, what they mean.

    Parameters
    ----------
    text
        A view in the words of a table or a path, of any language that :mod:`backlog.dicom.terms` knows.

    Returns
    -------
    str
        Empty where no Code String can say it and nobody knows what it means.
    """
    code, meaning = _code(text), view_named(text)
    if code is not None and view_named(code) is meaning:
        return code
    return {View.LATERAL: "LATERAL", View.FRONTAL: "FRONTAL", View.UNKNOWN: ""}[meaning]


@lru_cache(maxsize=1024)
def body_part_code(text: str) -> str | None:
    """Return a body part as a Code String, as :func:`view_code`; None where none can say it and it isn't the chest."""
    code, meaning = _code(text), body_examined(text, frozenset())
    if code is not None and body_examined(code, frozenset()) is meaning:
        return code
    return "CHEST" if meaning is Body.CHEST else None


def _code(text: str) -> str | None:
    folded = fold(text)
    code = _NO_CODE.sub(" ", folded).strip()
    whole = all(letter.isascii() for letter in folded if letter.isalnum())
    return code if whole and len(code) <= _MAX_CODE else None
