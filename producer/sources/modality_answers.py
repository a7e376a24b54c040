"""What of a modality's answers (C-FIND) can be believed: UIDs, counts, and whether they are to the question."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Final

from backlog.log import warn

#: A UID that a request can name. Letters are no UID's (PS3.5 9.1), and some have them; a wildcard, or the sign between
#: two values, would ask for other images too.
_UID: Final = re.compile(r"[0-9A-Za-z._-]{1,128}")

Answer = dict[str, str]


def is_uid(text: str) -> bool:
    """Return whether a text can stand as a UID in a request."""
    return _UID.fullmatch(text) is not None


def belonging(answers: Iterable[Answer], keys: Mapping[str, str]) -> list[Answer]:
    """Return the answers that are of the study and series that was asked for; others come where they are asked for.

    Parameters
    ----------
    answers
        What the modality answers.
    keys
        The UIDs that were asked for. What an answer does not repeat is taken to be as asked.
    """
    found = list(answers)
    ours = [one for one in found if all(one.get(keyword) in (None, "", uid) for keyword, uid in keys.items())]
    if len(ours) < len(found):
        count = len(found) - len(ours)
        warn(
            "source.other_answers",
            f"the PACS answers with {count} series or images of others than it was asked for: they are left out here",
            count=count,
        )
    return ours


def number(text: str) -> int | None:
    """Return a count as DICOM writes it (VR IS); None where it is none."""
    digits = text.strip().removeprefix("+")
    return int(digits) if digits.isascii() and digits.isdecimal() and len(digits) <= 12 else None
