"""An Orthanc that is followed: its log of changes tells what arrives, its series what was there before.

``NewInstance`` stands in the log once for each image, in the same transaction as the image, so that its number is a
cursor that loses and repeats nothing; a stable series (``StableSeries``) comes a minute later, and again with each
image that is added to it. Orthanc drops the changes of what is deleted: a gap in the numbers is nothing to score any
more. Where the log was emptied, or Orthanc's database is a new one, everything is listed again: what has a report
keeps it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Final, cast

from backlog.log import warn
from backlog.pacs.orthanc_find import OrthancResource
from backlog.pacs.orthanc_resources import Change
from producer.sources.base import Entry, Page
from producer.sources.orthanc import OrthancSource
from producer.sources.series_listing import WholeListing

#: Changes of one page.
_CHANGES: Final = 1000


@dataclass(frozen=True)
class _Cursor:
    began: int  #: the last change before the backlog was listed
    change: int  #: the last one that was read
    date: str  #: and when it was, by Orthanc's clock
    backlog: str | None = ""  #: how far the backlog is listed; None when all of it is
    oldest: tuple[int, str] | None = (
        None  #: the log's first change, as last seen: its number and what tells it
    )

    @classmethod
    def parse(cls, text: str) -> _Cursor:
        kept = json.loads(text)
        oldest = kept.pop("oldest", None)
        return cls(**kept, oldest=(int(oldest[0]), str(oldest[1])) if oldest else None)

    def __str__(self) -> str:
        return json.dumps(asdict(self))


class FollowedOrthanc:
    """What arrives in an Orthanc, and what was there before.

    Parameters
    ----------
    source
        The Orthanc, with what is selected of it.
    """

    def __init__(self, source: OrthancSource) -> None:
        self._source = source
        self._orthanc = source.orthanc
        self._selection = WholeListing(source.orthanc, source.modality, source.study_date)
        self._reading: tuple[str, Iterator[Page]] | None = None  #: the backlog, and how far
        self._arrived: set[str] | None = (
            None  #: since the backlog's listing began; None before they are known
        )

    def arrivals(self, cursor: str) -> Page | None:
        """Return what arrived since a cursor, at most the images of a thousand changes; None where nothing changed."""
        if not cursor:
            return self._begin()
        at = _Cursor.parse(cursor)
        changes = self._changes(at)
        if changes is None:
            warn(
                "source.changes_lost",
                "Orthanc's log of changes was emptied, or its database is another one: everything in it is listed again"
                " (images that have their report keep it)",
            )
            return self._begin()
        return self._page(at, changes) if changes else None

    def backlog(self, cursor: str) -> list[Page]:
        """Return the next series of the backlog, without what arrived since it began; before them what arrived."""
        at = _Cursor.parse(cursor) if cursor else None
        if at is None or at.backlog is None:
            return []
        if self._arrived is None:
            self._arrived = self._since(at)
        listed = self._listed(at.backlog)
        # What arrived until now may be on that page too, and is a new image: its change is in the log already.
        pages = []
        while changes := self._changes(at):  # none too where the log was emptied: `arrivals` begins anew
            pages.append(self._page(at, changes))
            at = replace(at, change=changes[-1].seq, date=changes[-1].date)
        at = replace(at, backlog=None if listed.last else listed.cursor)
        entries = [entry for entry in listed.entries if entry.ref not in self._arrived]
        if at.backlog is None:
            self._arrived, self._reading = set(), None
        return [*pages, Page(entries, str(at), last=False)]

    def unfinished(self) -> int:
        """Return 0: Orthanc shows an image when it is whole."""
        return 0

    # -- how -----------------------------------------------------------------------------------------------------

    def _listed(self, cursor: str) -> Page:
        """Return the page behind a cursor; the reading goes on where that is the one that it has come to."""
        if self._reading is None or self._reading[0] != cursor:
            self._reading = cursor, self._source.pages(cursor)
        pages, self._reading = self._reading[1], None  # a generator that breaks never goes on
        page = next(pages)
        self._reading = page.cursor, pages
        return page

    def _begin(self) -> Page:
        self._arrived = set()
        last = self._orthanc.newest_change()
        cursor = _Cursor(last.seq, last.seq, last.date, oldest=self._oldest())
        return Page([], str(cursor), last=False)

    def _changes(self, at: _Cursor) -> list[Change] | None:
        """Return the changes behind a cursor; None where some of them may be lost.

        The change at the cursor tells that the log is the same. It is gone where its image was deleted: then older
        ones do, or that nothing with a smaller number is younger.
        """
        changes = self._orthanc.changes(at.change - 1, _CHANGES + 1)
        if changes and changes[0].seq == at.change:
            return changes[1:] if changes[0].date == at.date or not at.date else None
        if not changes:
            last = self._orthanc.newest_change()
            if last.seq >= at.change:
                return []
            return None if last.date > at.date or self._is_another(at) else []
        if self._is_another(at):
            return None
        if changes[0].seq == at.change + 1 or self._orthanc.changes(0, 1)[0].seq <= at.change:
            return changes
        return None

    def _oldest(self) -> tuple[int, str] | None:
        first = next(iter(self._orthanc.changes(0, 1)), None)
        return (first.seq, f"{first.date} {first.resource}") if first else None

    def _is_another(self, at: _Cursor) -> bool:
        """Whether the log is one that began anew, as its first change tells at any time of any clock.

        Those of what is deleted go, so that the first one's number only grows; a smaller one, or another under the same
        number, is another log's.
        """
        now = self._oldest()
        if now is None or at.oldest is None:
            return False
        return now[0] < at.oldest[0] or (now[0] == at.oldest[0] and now[1] != at.oldest[1])

    def _since(self, at: _Cursor) -> set[str]:
        """Return which images arrived since the backlog's listing began, as far as they were read."""
        arrived, last = set(), at.began
        while changes := self._orthanc.changes(last, _CHANGES):
            arrived |= {one.resource for one in changes if one.kind == "NewInstance" and one.seq <= at.change}
            last = changes[-1].seq
            if last >= at.change:
                break
        return arrived

    def _page(self, at: _Cursor, changes: Sequence[Change]) -> Page:
        images = list(dict.fromkeys(one.resource for one in changes if one.kind == "NewInstance"))
        if self._arrived is not None and at.backlog is not None:
            self._arrived.update(images)
        entries, gone = self._entries(images)
        oldest = at.oldest or self._oldest()
        cursor = replace(at, change=changes[-1].seq, date=changes[-1].date, oldest=oldest)
        return Page(entries, str(cursor), last=False, urgent=True, gone=gone)

    def _entries(self, images: Sequence[str]) -> tuple[list[Entry], int]:
        """Return the entries of images, judged by series, and how many are gone already."""
        there = self._orthanc.described(images)
        by_series: dict[str, list[str]] = {}
        for image in images:
            if image in there:
                by_series.setdefault(str(there[image].get("ParentSeries", "")), []).append(image)
        series = self._orthanc.described(list(by_series))
        entries = [
            entry
            for name, own in by_series.items()
            if name in series and self._selection.matches(series[name])
            for entry in self._source.entries_of(cast("OrthancResource", {**series[name], "Instances": own}))
        ]
        gone = sum(
            1
            for image in images
            if image not in there or str(there[image].get("ParentSeries", "")) not in series
        )
        return entries, gone
