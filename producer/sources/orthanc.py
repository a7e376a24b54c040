"""An Orthanc as the source: the instances that it holds, series by series."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

from backlog.broker.job import SourceSpec
from backlog.broker.messages import Stage
from backlog.dicom.eligibility import Rules, rejection_reason
from backlog.dicom.eligibility_attributes import EligibilityAttributes
from backlog.errors import InstanceRejected
from backlog.model import PRODUCT
from backlog.outcomes import Outcome, Reason
from backlog.pacs.orthanc import Orthanc
from backlog.pacs.orthanc_find import OrthancResource
from producer.sources.base import Entry, Page, never_silent
from producer.sources.series_listing import Listing, ListingPosition, QueryListing, WholeListing, tags_of

#: Most instances of a series whose headers are asked for one by one.
MAX_HEADERS: Final = 32

#: What all instances of a large series may be by what they have in common: their kind alone.
_KINDS: Final = (Reason.NOT_IMAGE, Reason.NOT_RADIOGRAPH)

#: Modalities of what this system writes, with its name as Manufacturer: reports, pictures, PDFs.
OWN_MODALITIES: Final = ("SR", "OT", "DOC")


@dataclass
class OrthancSource:
    """The instances of an Orthanc, or of a selection of its series.

    Series by series, since headers tell without a download that a series' instances are no radiographs. The reports
    that this system wrote are results, not inputs: their series are left out.

    No page is taken for the last because it is short: Orthanc may limit every answer (LimitFindResults). The listing
    ends where nothing follows, and where it has come as far as Orthanc's own count.
    """

    orthanc: Orthanc
    rules: Rules
    since: str = ""  #: YYYYMMDD or YYYYMMDDTHHMMSS: series that Orthanc changed before are left out
    modality: str = ""  #: as in a DICOM query, ``CR\\DX``
    study_date: str = ""  #: as in a DICOM query, ``20240101-20241231``
    first: Stage = Stage.INFER
    total: int | None = None
    spec: SourceSpec = field(init=False)

    def __post_init__(self) -> None:
        self.spec = {"kind": "orthanc", "path": "", "listing": ""}

    def pages(self, cursor: str) -> Iterator[Page]:
        """Stream Orthanc's series; the cursor is ``offset:last series``, so that a deletion meanwhile is noticed.

        Raises
        ------
        UsageError
            Orthanc shows fewer series than it counts.
        """
        pages = self._pages(cursor)
        selected = self.since or self.modality or self.study_date
        what = "nothing that was selected" if selected else "nothing to score"
        return pages if cursor else never_silent(pages, f"this Orthanc holds {what}")

    def _pages(self, cursor: str) -> Iterator[Page]:
        query = {"Modality": self.modality, "StudyDate": self.study_date}
        query = {keyword: wanted for keyword, wanted in query.items() if wanted}
        listing: Listing = WholeListing(self.orthanc, self.modality, self.study_date)
        if query and self.orthanc.count_series(query) is not None:
            listing = QueryListing(self.orthanc, query)
        offset, _, last = cursor.partition(":")
        position = ListingPosition(listing, int(offset or 0), last)
        while not position.ended:
            series = position.next_series()
            entries = [entry for one in series if listing.matches(one) for entry in self.entries_of(one)]
            yield Page(entries, position.cursor, last=position.ended)

    def entries_of(self, series: OrthancResource) -> Iterator[Entry]:
        """Yield the instances of a series, none of what this system wrote; some are skipped by the listing alone."""
        tags = tags_of(series)
        if tags.get("Modality") in OWN_MODALITIES and tags.get("Manufacturer", "").startswith(PRODUCT):
            return
        if self.since and str(series.get("LastUpdate", self.since)) < self.since:
            return
        instances = [str(instance) for instance in series.get("Instances", [])]
        reasons = self._reasons(str(series["ID"]), tags, instances)
        for instance in instances:
            yield Entry(instance, 0, reasons.get(instance))

    def _reasons(self, series: str, tags: dict[str, str], instances: list[str]) -> dict[str, Reason]:
        """Return which instances of a series are skipped without a download, and why.

        A series' tags are those of the instance that Orthanc got first: they only say where to ask. Vendors put a
        report or another part of the body into the series of a chest, so each instance counts by its own header. Of
        a large series (a CT) it is asked what all have in common, which tells their kind in one small answer.
        """
        if not _worth_asking(tags, self.rules):
            return {}
        try:
            if len(instances) > MAX_HEADERS:
                shared = self.orthanc.shared_tags(series)
                kind = _skip(shared, self.rules) if {"SOPClassUID", "Modality"} <= shared.keys() else None
                return dict.fromkeys(instances, kind) if kind in _KINDS else {}
            headers = self.orthanc.tags_of_instances(series)
        except InstanceRejected:
            return {}  # gone meanwhile, or unreadable to Orthanc: each instance tells by itself
        found = {instance: _skip(header, self.rules) for instance, header in headers.items()}
        return {instance: reason for instance, reason in found.items() if reason is not None}

    def read(self, ref: int | str) -> bytes:
        """Return one instance's header."""
        return self.orthanc.header(str(ref)).content

    def name(self, ref: int | str) -> str:
        """Return Orthanc's id, which is all it is called by."""
        return str(ref)


def _worth_asking(tags: dict[str, str], rules: Rules) -> bool:
    """Whether a series' tags make it likely that none of its instances is scored."""
    return rejection_reason(EligibilityAttributes.from_tags(tags), rules) is not None


def _skip(header: Mapping[str, object], rules: Rules) -> Reason | None:
    """Return why an instance is skipped, by its own header; what may be quarantined is the workers' to say."""
    if not header.get("SOPClassUID"):
        return None
    reason = rejection_reason(EligibilityAttributes.from_tags(header), rules)
    return reason if reason is not None and reason.outcome is Outcome.SKIPPED else None
