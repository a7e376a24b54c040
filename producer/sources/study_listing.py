"""The studies of a DICOMweb server by slices of Study Date, complete: no slice ends on a short page, or at a limit.

The standard (PS3.18 10.6) gives a query no count, no order, and lets a server limit every answer. So a slice is asked
for page by page until nothing new comes. Where it holds as many as any before it, its two halves are asked for too:
what a limit has cut off shows there. A slice that is too large, or cut off, is listed by its halves.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Final

from backlog.errors import UsageError
from backlog.log import warn
from backlog.pacs.dicomweb import STUDY
from backlog.pacs.dicomweb_rest import DicomwebRest, Results
from backlog.pacs.stow import DicomJson, value

#: Resources of one page, and most studies of one slice that is longer than a day.
_PAGE: Final = 200
_MAX_STUDIES: Final = 500

#: So many results are believed to be no limit.
_BELIEVED: Final = 10

#: No study is older than X-rays; clocks of modalities go wrong.
FIRST_DAY: Final = date(1895, 1, 1)
LAST_DAY: Final = date(2100, 12, 31)

_SECONDS: Final = 24 * 60 * 60

Resources = dict[str, DicomJson]


@dataclass(frozen=True)
class Listed:
    """What a query found."""

    found: Resources  #: by their UIDs
    steady: bool  #: nothing came twice, as it does where the order changes from page to page; and it isn't cut off
    cut: bool = False  #: the server says that there are more, and shows no more of them


def list_all(
    rest: DicomwebRest,
    path: str,
    query: Mapping[str, str],
    key: str,
    *,
    announced: int | None = None,
    most: int | None = None,
) -> Listed | None:
    """Return all that matches a query, page by page; None where that is more than ``most``.

    Parameters
    ----------
    rest
        The server.
    path
        The resource that is searched.
    query
        Attributes and what they have to match.
    key
        Tag of the UID that tells one result from another.
    announced
        How many the server has said that there are: once they are there no empty page is asked for.
    most
        Where more are found the listing ends.
    """
    found: Resources = {}
    offset, steady = 0, True
    earlier: Resources = {}
    while True:
        page = rest.search_if_known(path, {**query, "limit": str(_PAGE), "offset": str(offset)}) or Results()
        uids = {str(value(one, key) or ""): one for one in page}
        named = sum(bool(value(one, key)) for one in page)
        if uids.pop("", None) is not None:
            warn(
                "source.unproven",
                "the PACS lists something without its UID: it can't be asked for, and is left out",
            )
        new = {uid: one for uid, one in uids.items() if uid not in found}
        # The page before once more: the server knows no offset, and has shown all that it shows.
        steady = steady and (len(new) == named or uids.keys() == earlier.keys())
        found |= new
        # A count may be an old one: with more than it has there may be more still.
        if not new or (len(found) == announced and not page.more):
            cut = not new and bool(page) and page.more
            return Listed(found, steady and not cut, cut)
        earlier = uids
        if most is not None and len(found) > most:
            return None
        offset += len(page)


class QidoStudySlices:
    """The studies of a server that have a Study Date.

    Parameters
    ----------
    rest
        The server.
    query
        What else studies have to match.
    """

    def __init__(self, rest: DicomwebRest, query: Mapping[str, str]) -> None:
        self._rest = rest
        self._query = dict(query)
        self._proven = _BELIEVED  #: fewer than so many are not cut off

    def walk(self, first: date, last: date) -> Iterator[tuple[date, date, Resources]]:
        """Yield slices in the order of time: their first and last day, and their studies.

        Raises
        ------
        UsageError
            The server doesn't select by date.
        """
        waiting = [(first, last)]
        while waiting:
            begin, end = waiting.pop()
            listed = self._list(begin, end, most=_MAX_STUDIES if begin < end else None)
            if listed is not None and self._is_whole(begin, end, listed):
                yield begin, end, listed.found
            elif begin < end:
                middle = begin + (end - begin) // 2
                waiting += [(middle + timedelta(1), end), (begin, middle)]
            else:
                yield begin, end, (listed.found if listed else {}) | self._by_time(begin, 0, _SECONDS - 1)

    def _list(
        self, begin: date, end: date, times: tuple[int, int] | None = None, *, most: int | None = None
    ) -> Listed | None:
        query = {**self._query, "StudyDate": f"{begin:%Y%m%d}-{end:%Y%m%d}"}
        if times is not None:
            query["StudyTime"] = "-".join(_time(one) for one in times)
        return list_all(self._rest, "/studies", query, STUDY, most=most)

    def _is_whole(self, begin: date, end: date, listed: Listed) -> bool:
        """Whether a slice is not cut off, as its halves tell where there is a doubt."""
        if len(listed.found) < self._proven and listed.steady:
            return True
        if begin == end:
            return False
        middle = begin + (end - begin) // 2
        earlier = self._list(begin, middle, most=_MAX_STUDIES)
        later = self._list(middle + timedelta(1), end, most=_MAX_STUDIES)
        if earlier is None or later is None or not (earlier.steady and later.steady):
            return False
        if earlier.found.keys() & later.found.keys():
            raise UsageError(
                f"the PACS at {self._rest.url} does not select studies by their Study Date: it can't be listed"
            )
        if not earlier.found or not later.found:
            return False  # the same question once more: the half itself has to be cut
        whole = not (earlier.found.keys() | later.found.keys()) - listed.found.keys()
        if whole:
            self._proven = max(self._proven, len(listed.found) + 1)
        return whole

    def _by_time(self, day: date, first: int, last: int) -> Resources:
        """Return the studies of one day by slices of Study Time."""
        listed = self._list(day, day, (first, last))
        assert listed is not None  # noqa: S101  # no limit was given
        if len(listed.found) < self._proven and listed.steady:
            return listed.found
        if last - first < 1:
            warn(
                "source.unproven",
                f"the PACS lists {len(listed.found)} studies of one moment, and nothing shows that these are all",
            )
            return listed.found
        middle = first + (last - first) // 2
        earlier, later = self._by_time(day, first, middle), self._by_time(day, middle + 1, last)
        if earlier.keys() & later.keys():
            warn(
                "source.unproven",
                f"the PACS does not select by Study Time: nothing shows that the {len(listed.found)} studies that it"
                " lists of one day are all",
            )
        return listed.found | earlier | later


def _time(seconds: int) -> str:
    return f"{seconds // 3600:02}{seconds // 60 % 60:02}{seconds % 60:02}"


def day_of(text: str) -> date | None:
    """Return a Study Date; None where it is none that a range of dates finds."""
    try:
        day = date(int(text[:4]), int(text[4:6]), int(text[6:]))
    except ValueError:
        return None
    return day if len(text) == 8 and FIRST_DAY <= day <= LAST_DAY else None
