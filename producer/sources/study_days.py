"""Of which day a study is that a modality answers to a question for some days: not every PACS selects by Study Date.

Some answer a study without a date to each such question, some don't say a date that they know, and some select by
another one than they answer. Where an answer's day is not one that was asked for, it is asked for once more by its UID,
on a day on which it may not be found: so each study comes once, in the slice of one day.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date
from typing import Final

from backlog.log import warn
from backlog.pacs.modality import Modality
from producer.sources.modality_answers import is_uid

#: The days that are asked for where the user names none.
EARLIEST: Final = date(1900, 1, 1)
LATEST: Final = date(9998, 12, 31)

#: A day of which no study is: a PACS that finds one on it finds it on each.
_NO_DAY: Final = "18000101"

Studies = dict[str, dict[str, str]]


@dataclass
class StudyDays:
    """Tells which studies belong into a slice.

    Parameters
    ----------
    modality
        The modality.
    first, last
        The days that are asked for in all.
    """

    modality: Modality
    first: date
    last: date
    _found_on: dict[tuple[str, str], bool] = field(default_factory=dict, init=False)
    _placed: dict[str, date] = field(default_factory=dict, init=False)  #: where those in doubt were put
    _told: set[str] = field(default_factory=set, init=False)  #: studies without a date that are left out

    def of_slice(self, answers: Mapping[str, dict[str, str]], begin: date, end: date) -> Studies:
        """Return the studies of some days, and no others.

        Parameters
        ----------
        answers
            What the modality answered, by Study Instance UID.
        begin, end
            The days that it was asked for, both included.
        """
        return {uid: one for uid, one in answers.items() if self._is_of(uid, one, begin, end)}

    def _is_of(self, uid: str, answer: Mapping[str, str], begin: date, end: date) -> bool:
        day = _day(answer.get("StudyDate", ""))
        if day is not None and begin <= day <= end:
            return True
        if not is_uid(uid):  # it can't be asked for
            return self._placed.setdefault(uid, begin) == begin
        if day is not None:  # where it isn't found on its own day, it comes here or never
            return not self._is_found(uid, f"{day:%Y%m%d}") and self._placed.setdefault(uid, begin) == begin
        if not self._is_found(uid, _NO_DAY):  # it has a date, which the modality doesn't tell
            return self._placed.setdefault(uid, begin) == begin
        if (self.first, self.last) == (EARLIEST, LATEST):
            return begin == self.first
        if uid not in self._told:
            self._told.add(uid)
            warn(
                "source.undated",
                f"the modality {self.modality.name} answers a study without a Study Date to every question for days:"
                " it is not among the days that are selected, and left out",
            )
        return False

    def _is_found(self, uid: str, day: str) -> bool:
        """Whether the modality finds a study on a day. It is asked once."""
        known = self._found_on.get((uid, day))
        if known is None:
            found = self.modality.find("Study", {"StudyInstanceUID": uid, "StudyDate": day})
            known = any(one.get("StudyInstanceUID") == uid for one in found)
            self._found_on[uid, day] = known
        return known


def _day(text: str) -> date | None:
    """Return a Study Date (VR DA, also as it was written before 1993, with dots); None where it is none."""
    digits = text.replace(".", "")
    try:
        return date(int(digits[:4]), int(digits[4:6]), int(digits[6:])) if len(digits) == 8 else None
    except ValueError:
        return None
