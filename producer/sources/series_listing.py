"""The series of an Orthanc, page by page and complete: a short answer is not taken for the last.

Orthanc limits every answer to a query (LimitFindResults), and versions before 1.12 show nothing beyond that limit.
Series come and go while they are listed, and since Orthanc 1.12 they are listed in the order of their ids, so that new
ones appear anywhere.

An index walks over all that lies before an offset. So ids, which are small, are asked for by offset, very many at a
time, and then what is to be known of each series by its id.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, Protocol

from backlog.errors import InstanceRejected, UsageError
from backlog.pacs.orthanc import Orthanc
from backlog.pacs.orthanc_find import OrthancResource

#: Ids that are asked for at a time, and series of one page.
IDS_AT_ONCE: Final = 50_000
SERIES_PAGE: Final = 500

#: Times that the end of a listing is compared with Orthanc's own count, while series are being deleted.
_END_CHECKS: Final = 5

#: Studies whose date is kept, so that their other series need no request.
_STUDIES: Final = 4096


class Listing(Protocol):
    """Series in an order that stays, but for those that come and go."""

    def ids(self, since: int, limit: int) -> list[str]:
        """Return the ids of series from an offset on; none where there are none."""
        ...

    def series(self, ids: Sequence[str]) -> list[OrthancResource]:
        """Return series with their tags and instances, without those that are gone."""
        ...

    def count(self) -> int:
        """Return how many there are, from another source than the pages."""
        ...

    def matches(self, series: OrthancResource) -> bool:
        """Whether a series was selected."""
        ...


@dataclass(frozen=True)
class QueryListing:
    """What a query matches, by an Orthanc that can count it (1.12.5 and later)."""

    orthanc: Orthanc
    query: dict[str, str]

    def ids(self, since: int, limit: int) -> list[str]:
        """Return the ids of series from an offset on; none where there are none."""
        return self.orthanc.series_ids(since, limit, self.query)

    def series(self, ids: Sequence[str]) -> list[OrthancResource]:
        """Return series with their tags and instances, without those that are gone."""
        return self.orthanc.series(ids)

    def count(self) -> int:
        """Return how many there are, from another source than the pages."""
        return self.orthanc.count_series(self.query) or 0

    def matches(self, series: OrthancResource) -> bool:  # noqa: ARG002  # Orthanc has matched it
        """Whether a series was selected."""
        return True


class WholeListing:
    """All series, selected here: an older Orthanc shows of a query's matches no more than LimitFindResults."""

    def __init__(self, orthanc: Orthanc, modality: str, study_date: str) -> None:
        self._orthanc = orthanc
        self._modalities = {one.strip().upper() for one in modality.split("\\") if one.strip()}
        self._study_date = study_date
        self._date_of = lru_cache(_STUDIES)(self._read_study_date)

    def ids(self, since: int, limit: int) -> list[str]:
        """Return the ids of series from an offset on; none where there are none."""
        return self._orthanc.series_ids(since, limit, {})

    def series(self, ids: Sequence[str]) -> list[OrthancResource]:
        """Return series with their tags and instances, without those that are gone."""
        return self._orthanc.series(ids)

    def count(self) -> int:
        """Return how many there are, from another source than the pages."""
        return self._orthanc.statistics()["CountSeries"]

    def matches(self, series: OrthancResource) -> bool:
        """Whether a series was selected."""
        if self._modalities and tags_of(series).get("Modality", "").strip().upper() not in self._modalities:
            return False
        return not self._study_date or _in_range(
            self._date_of(str(series.get("ParentStudy", ""))), self._study_date
        )

    def _read_study_date(self, study: str) -> str:
        try:
            return tags_of(self._orthanc.study(study)).get("StudyDate", "")
        except InstanceRejected:
            return ""  # deleted since


def _in_range(date: str, wanted: str) -> bool:
    """Match a date as PS3.4 C.2.2.2.5 has it: one date, or a range of which one end may be open."""
    date = date.strip().replace(".", "")  # as ACR-NEMA wrote it
    first, dash, last = wanted.partition("-")
    if not date:
        return False
    return first <= date and (not last or date <= last) if dash else date == first


class ListingPosition:
    """A place in a listing, found again when series before it came or went."""

    def __init__(self, listing: Listing, offset: int, last: str) -> None:
        self._listing = listing
        self._offset = offset  #: of what comes next
        self._last = last  #: the series before it; empty at the beginning
        self._waiting: list[str] = []  #: the series that follow, as far as their ids are known
        self._all_known = False
        self.ended = False

    @property
    def cursor(self) -> str:
        """What the ledger keeps."""
        return f"{self._offset}:{self._last}"

    def next_series(self) -> list[OrthancResource]:
        """Return the series that follow; :attr:`ended` then says whether they are the last.

        Raises
        ------
        UsageError
            The end comes before as many as the listing counts.
        """
        if not self._waiting:
            self._know_more()
        page, self._waiting = self._waiting[:SERIES_PAGE], self._waiting[SERIES_PAGE:]
        self.ended = self._all_known and not self._waiting
        self._offset += len(page)
        self._last = page[-1] if page else self._last
        return self._listing.series(page) if page else []

    def _know_more(self) -> None:
        for _ in range(_END_CHECKS):
            self._waiting = self._read()
            if len(self._waiting) < IDS_AT_ONCE:
                self._all_known = self._offset + len(self._waiting) >= self._listing.count()
            if self._waiting or self._all_known:
                return
        raise UsageError(
            f"this Orthanc shows {self._offset} series and counts {self._listing.count()}: something limits its answers"
            " (LimitFindResults in its configuration, a proxy). What was listed so far is kept; once it is"
            " corrected, go on with resume"
        )

    def _read(self) -> list[str]:
        if self._last:
            # The last one again, in front: it shows that no series came or went before it.
            ids = self._listing.ids(self._offset - 1, IDS_AT_ONCE + 1)
            if not ids or ids[0] != self._last:
                # When it is gone itself, the listing begins anew: what was read already then counts as `duplicate`.
                found = self._find_last()
                self._offset = 0 if found is None else found + 1
            elif len(ids) > 1:
                return ids[1:]
        return self._listing.ids(self._offset, IDS_AT_ONCE)

    def _find_last(self) -> int | None:
        """Return the offset of the last series read, looking on both sides of where it was."""
        low = high = max(0, self._offset - 1)
        ended = False
        while not ended or low > 0:
            if not ended:
                ids = self._listing.ids(high, IDS_AT_ONCE)
                if self._last in ids:
                    return high + ids.index(self._last)
                ended, high = not ids, high + len(ids)
            if low > 0:
                start = max(0, low - IDS_AT_ONCE)
                while start < low:  # an answer may be shorter than asked for
                    ids = self._listing.ids(start, low - start)
                    if self._last in ids:
                        return start + ids.index(self._last)
                    if not ids:
                        break
                    start += len(ids)
                low = max(0, low - IDS_AT_ONCE)
        return None


def tags_of(resource: OrthancResource) -> dict[str, str]:
    """Return a resource's main DICOM tags as text."""
    return {str(keyword): str(value) for keyword, value in dict(resource.get("MainDicomTags", {})).items()}
