"""The studies of a DICOM modality, slice by slice of Study Date, so that no answer is cut off unnoticed.

A PACS may cut a long answer off without a word. So an answer is believed only where it is shorter than any limit can
be; a slice with a longer one is halved, down to the minutes of a day.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import date, timedelta
from typing import Final

from backlog.errors import UsageError
from backlog.pacs.modality import Modality
from producer.sources.study_days import EARLIEST, LATEST, StudyDays

#: Study dates that are asked for where the user names none; years before the first are one slice.
FIRST_YEAR: Final = 1980

_MINUTES: Final = 24 * 60


@dataclass(frozen=True)
class Slice:
    """Some days, both ends included, and all studies of them by their UIDs."""

    first: date
    last: date
    studies: dict[str, dict[str, str]] = field(default_factory=dict, compare=False)


def date_range(study_date: str) -> tuple[date, date]:
    """Return the first and last day of a range of dates as DICOM writes it; of all days where it is empty."""
    first, dash, last = study_date.partition("-")
    begin = _day(first) if first else EARLIEST
    if not dash and first:
        return begin, begin
    return begin, _day(last) if last else LATEST


def _day(text: str) -> date:
    return date(int(text[:4]), int(text[4:6]), int(text[6:8]))


@dataclass
class StudySlices:
    """Asks a modality for studies.

    Parameters
    ----------
    modality
        The modality.
    modalities
        Values of Modality, each of which is asked for by itself: PS3.4 knows no list of them.
    first
        Day from which on studies are asked for.
    last
        Day up to which they are.
    limit
        An answer of fewer studies was not cut off.
    """

    modality: Modality
    modalities: list[str]
    first: date
    last: date
    limit: int
    _longest: int = field(default=0, init=False)
    _days: StudyDays = field(init=False)

    def __post_init__(self) -> None:
        self._days = StudyDays(self.modality, self.first, self.last)

    def from_day(self, day: date) -> Iterator[Slice]:
        """Yield the slices from a day on, in the order of their days.

        Raises
        ------
        UsageError
            A slice can't be made small enough.
        """
        begin = day
        while begin <= self.last:
            end = min(_end_of_span(begin), self.last)
            yield from self._whole(begin, end)
            begin = end + timedelta(days=1)

    def between(self, first: date, last: date) -> Slice:
        """Return some days as one slice. Raises as :meth:`from_day`."""
        found: dict[str, dict[str, str]] = {}
        for one in self._whole(first, last):
            found |= one.studies
        return Slice(first, last, found)

    def _whole(self, first: date, last: date) -> Iterator[Slice]:
        """Yield one slice, or its halves, such that no answer can be cut off."""
        found: dict[str, dict[str, str]] = {}
        for modality in self.modalities:
            answers = self._ask(modality, first, last)
            if self._may_be_cut(answers):
                if first < last:
                    middle = first + (last - first) // 2
                    yield from self._whole(first, middle)
                    yield from self._whole(middle + timedelta(days=1), last)
                    return
                answers = self._by_time(modality, first, answers)
            found |= answers
        yield Slice(first, last, self._days.of_slice(found, first, last))

    def _may_be_cut(self, answers: dict[str, dict[str, str]]) -> bool:
        # A limit, if there is one, is not below the longest answer that was ever given.
        whole = len(answers) < self.limit or len(answers) < self._longest
        self._longest = max(self._longest, len(answers))
        return not whole

    def _by_time(self, modality: str, day: date, cut: dict[str, dict[str, str]]) -> dict[str, dict[str, str]]:
        """Return the studies of one day, asked for by their times."""
        found: dict[str, dict[str, str]] = {}
        waiting = [(0, _MINUTES // 2), (_MINUTES // 2, _MINUTES)]
        while waiting:
            begin, end = waiting.pop()
            answers = self._ask(modality, day, day, f"{_clock(begin)}00-{_clock(end - 1)}59.999999")
            inside = all(begin <= _minute(one.get("StudyTime", "")) < end for one in answers.values())
            if inside and not self._may_be_cut(answers):
                found |= answers
            elif inside and end - begin > 1:
                middle = (begin + end) // 2
                waiting += [(begin, middle), (middle, end)]
            else:
                raise self._cut(modality, day, len(answers))
        if not cut.keys() <= found.keys():
            raise self._cut(modality, day, len(cut))  # some have no Study Time, and more may have none
        return found

    def _cut(self, modality: str, day: date, count: int) -> UsageError:
        return UsageError(
            f"the modality {self.modality.name} lists {count} studies of {day:%Y-%m-%d} with {modality}, which may be"
            " as many as it ever answers (CXR_FIND_LIMIT), and by Study Time they can't be told apart. What was listed"
            " so far is kept. Raise its limit, or CXR_FIND_LIMIT where it has none or a higher one; then go on with"
            " resume"
        )

    def _ask(self, modality: str, first: date, last: date, time: str = "") -> dict[str, dict[str, str]]:
        keys = {
            "StudyDate": f"{first:%Y%m%d}-{last:%Y%m%d}" if first < last else f"{first:%Y%m%d}",
            "StudyTime": time,
            "ModalitiesInStudy": modality,
            "StudyInstanceUID": "",
            "StudyDescription": "",
            "NumberOfStudyRelatedSeries": "",
        }
        answers = self.modality.find("Study", keys)
        return {one.get("StudyInstanceUID") or "?": one for one in answers}


def _end_of_span(begin: date) -> date:
    """Return the last day of the slice that is tried first: a year, or all that lies outside of the usual ones."""
    today = date.today()  # noqa: DTZ011  # study dates have no time zone
    if begin.year < FIRST_YEAR:
        return date(FIRST_YEAR - 1, 12, 31)
    return date(begin.year, 12, 31) if begin.year <= today.year else LATEST


def _clock(minute: int) -> str:
    return f"{minute // 60:02}{minute % 60:02}"


def _minute(time: str) -> int:
    """Return the minute of the day of a Study Time (PS3.5 6.2: HHMMSS.FFFFFF, from the left); -1 where it is none."""
    digits = time.replace(":", "").partition(".")[0]
    if not digits.isdecimal() or len(digits) < 2:
        return -1
    return int(digits[:2]) * 60 + int(digits[2:4] or 0)
