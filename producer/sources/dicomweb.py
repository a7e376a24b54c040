"""A DICOMweb server as the source: the instances that it holds, study by study, by slices of Study Date."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import date, timedelta
from typing import Final

from backlog.broker.job import SourceSpec
from backlog.broker.messages import Stage
from backlog.dicom.eligibility import Rules, rejection_reason
from backlog.dicom.eligibility_attributes import EligibilityAttributes
from backlog.errors import InstanceRejected, ServiceUnavailable
from backlog.log import warn
from backlog.model import PRODUCT
from backlog.outcomes import Reason
from backlog.pacs.dicomweb import INSTANCE, SERIES, STUDY, Dicomweb
from backlog.pacs.stow import DicomJson, value
from producer.sources import base as sources
from producer.sources.base import Entry, Page, never_silent, not_listed
from producer.sources.orthanc import OWN_MODALITIES
from producer.sources.study_listing import (
    FIRST_DAY,
    LAST_DAY,
    Listed,
    QidoStudySlices,
    Resources,
    day_of,
    list_all,
)

#: Tags in DICOM JSON.
_SOP_CLASS: Final = "00080016"
_STUDY_DATE: Final = "00080020"
_MODALITY: Final = "00080060"
_MANUFACTURER: Final = "00080070"
_SERIES_IN_STUDY: Final = "00201206"
_INSTANCES_IN_STUDY: Final = "00201208"
_INSTANCES_IN_SERIES: Final = "00201209"

#: What an instance's SOP class and modality tell for sure. What else a query answers may be of another instance of its
#: series; the workers read each header.
_KINDS: Final = (Reason.NOT_IMAGE, Reason.NOT_RADIOGRAPH)

_UNDATED: Final = "undated"
_PAGE: Final = 200


@dataclass
class DicomwebSource:
    """The instances of a DICOMweb server, or of a selection of its studies.

    Studies with a Study Date come by slices of it, then those without one, from a listing of all. How many have a date
    in that one is an independent count of the slices. Of each study, what the server says that it holds is compared
    with what it lists.
    """

    pacs: Dicomweb
    rules: Rules
    modality: str = ""  #: as in a DICOM query, ``CR\\DX``
    study_date: str = ""  #: as in a DICOM query, ``20240101-20241231``
    first: Stage = Stage.INFER
    total: int | None = None
    spec: SourceSpec = field(init=False)
    _has_instances_of_study: bool = field(default=True, init=False)
    _seen: int = field(default=0, init=False)  #: studies with a date so far

    def __post_init__(self) -> None:
        self.spec = {"kind": "dicomweb", "path": "", "listing": ""}

    def pages(self, cursor: str) -> Iterator[Page]:
        """Stream the server's studies; the cursor is ``days:last study:studies so far``.

        Raises
        ------
        UsageError
            The server doesn't select by date.
        """
        selected = "nothing that was selected" if self.modality or self.study_date else "nothing to score"
        pages = self._pages(cursor)
        return pages if cursor else never_silent(pages, f"this PACS holds {selected}")

    def _pages(self, cursor: str) -> Iterator[Page]:
        first, last = _range(self.study_date)
        days, _, rest = cursor.partition(":")
        after, _, count = rest.partition(":")
        self._seen = int(count or 0)
        if days != _UNDATED:
            slices = QidoStudySlices(self.pacs.rest, self._query())
            first = _day(days) if days else first
            if after:  # of this slice something was taken: what, tells the last study's UID
                until = _day(days.partition("-")[2])
                begun: Resources = {}
                for _, _, studies in slices.walk(first, until):
                    begun |= {uid: one for uid, one in studies.items() if uid > after}
                yield from self._slice(first, until, begun)
                first = until + timedelta(1)
            for begin, end, studies in slices.walk(first, last) if first <= last else ():
                yield from self._slice(begin, end, studies)
            after = "0"
            yield Page([], f"{_UNDATED}:0:{self._seen}", last=bool(self.study_date))
        if not self.study_date:
            yield from self._undated(int(after or 0))

    def _slice(self, first: date, last: date, studies: Resources) -> Iterator[Page]:
        """Yield the pages of a slice. Where a query fails, the studies before it are a page."""
        entries: list[Entry] = []
        cursor = ""
        for uid in sorted(studies):
            try:
                found = list(self.entries_of(uid, studies[uid]))
            except ServiceUnavailable:
                if cursor:
                    yield Page(entries, cursor, last=False)
                raise
            entries += found
            self._seen += 1
            cursor = f"{first:%Y%m%d}-{last:%Y%m%d}:{uid}:{self._seen}"
            if len(entries) >= sources.PAGE:
                yield Page(entries, cursor, last=False)
                entries, cursor = [], ""
        if studies:
            yield Page(entries, f"{last + timedelta(1):%Y%m%d}::{self._seen}", last=False)

    def _undated(self, offset: int) -> Iterator[Page]:
        """Yield the studies without a Study Date that a range finds, and compare the number of the others."""
        dated, seen, earlier = 0, self._seen, set[str]()
        position = 0
        while True:
            query = {**self._query(), "includefield": _STUDY_DATE}
            query |= {"limit": str(_PAGE), "offset": str(position)}
            page = {str(value(one, STUDY)): one for one in self.pacs.rest.search("/studies", query)}
            new = page.keys() - earlier
            if not new:
                break
            undated = sorted(uid for uid in new if day_of(str(value(page[uid], _STUDY_DATE) or "")) is None)
            dated += len(new) - len(undated)
            position += len(page)
            earlier = set(page)
            if position > offset:
                entries = [entry for uid in undated for entry in self.entries_of(uid, page[uid])]
                yield Page(entries, f"{_UNDATED}:{position}:{seen}", last=False)
        if dated < seen:
            warn(
                "source.unproven",
                f"the PACS lists {dated} of {seen} studies when it is asked for all: studies without a Study Date, if"
                " it has any, are not in this run",
            )
        elif dated > seen:
            warn(
                "source.grew",
                f"the PACS lists {dated - seen} studies more than by their dates: they came meanwhile, or their date"
                " can't be searched. Another run takes them",
            )
        yield Page([], f"{_UNDATED}:{position}:{seen}", last=True)

    def _query(self) -> dict[str, str]:
        """Return what studies have to match; instances are compared again, since servers leave keys out of account."""
        return {"ModalitiesInStudy": self.modality} if self.modality and "\\" not in self.modality else {}

    def entries_of(self, study: str, found: DicomJson) -> Iterator[Entry]:
        """Yield the instances of a study, none of what this system wrote; some are skipped by the listing alone.

        Parameters
        ----------
        study
            Study Instance UID.
        found
            What the server answered of it; how many instances it says that there are, if it does.
        """
        series_of: dict[str, list[DicomJson]] = {}
        listed = self._instances(study, found)
        for one in listed:
            series_of.setdefault(str(value(one, SERIES) or ""), []).append(one)
        wanted = self.modality.split("\\") if self.modality else []
        for series, instances in sorted(series_of.items()):
            ids = [f"{study}/{series}/{value(one, INSTANCE)}" for one in instances]
            if wanted and self._modality(instances[0], ids[0]) not in wanted:
                continue
            if self._is_own(instances[0], ids[0]):
                continue
            for instance, one in zip(ids, instances, strict=True):
                yield Entry(instance, 0, self._reason(one))
        announced = _count(found, _INSTANCES_IN_STUDY) or 0
        if len(listed) < announced:
            warn(
                "source.images_not_listed",
                f"the PACS lists {len(listed)} of the {announced} instances that it says one study has: those that are"
                " missing count as not_listed",
                count=announced - len(listed),
            )
        for number in range(not_listed(announced, len(listed))):
            yield Entry(f"{study}/?/{len(listed) + number + 1}", 0, Reason.NOT_LISTED)

    def _instances(self, study: str, found: DicomJson) -> list[DicomJson]:
        """Return the instances of a study, with what tells their kind."""
        announced = _count(found, _INSTANCES_IN_STUDY)
        fields = {"includefield": f"{_MODALITY},{_MANUFACTURER}"}
        instances: Resources = {}
        if self._has_instances_of_study:
            path = f"/studies/{study}/instances"
            listed = list_all(self.pacs.rest, path, fields, INSTANCE, announced=announced)
            instances = _shown(listed, announced)
        if not instances:
            instances = self._by_series(study, found, fields)
            # PS3.18 asks for the instances of a study as one resource; not every server has it.
            self._has_instances_of_study = self._has_instances_of_study and not instances
        return list(instances.values())

    def _by_series(self, study: str, found: DicomJson, fields: dict[str, str]) -> Resources:
        instances: Resources = {}
        announced = _count(found, _SERIES_IN_STUDY)
        all_series = list_all(self.pacs.rest, f"/studies/{study}/series", fields, SERIES, announced=announced)
        for series, known in _shown(all_series, announced).items():
            listed = list_all(
                self.pacs.rest,
                f"/studies/{study}/series/{series}/instances",
                fields,
                INSTANCE,
                announced=_count(known, _INSTANCES_IN_SERIES),
            )
            instances |= {
                uid: {**known, SERIES: {"vr": "UI", "Value": [series]}, **one}
                for uid, one in _shown(listed, _count(known, _INSTANCES_IN_SERIES)).items()
            }
        return instances

    def _is_own(self, one: DicomJson, instance: str) -> bool:
        """Whether a series is of reports that this system wrote: results, not inputs."""
        if str(value(one, _MODALITY) or "") not in OWN_MODALITIES:
            return False
        return self._text(one, _MANUFACTURER, "Manufacturer", instance).startswith(PRODUCT)

    def _modality(self, one: DicomJson, instance: str) -> str:
        return self._text(one, _MODALITY, "Modality", instance).strip().upper()

    def _text(self, one: DicomJson, tag: str, keyword: str, instance: str) -> str:
        """Return an attribute of an instance: from its header, where the server doesn't answer it, as it needn't."""
        known = value(one, tag)
        if known is not None:
            return str(known)
        from backlog.dicom.values import text  # pydicom takes a fifth of a second

        try:
            return text(self.pacs.header(instance).header, keyword)
        except InstanceRejected:
            return ""  # the workers tell what it is

    def _reason(self, one: DicomJson) -> Reason | None:
        tags = {
            "SOPClassUID": str(value(one, _SOP_CLASS) or ""),
            "Modality": str(value(one, _MODALITY) or ""),
        }
        if not all(tags.values()):
            return None
        reason = rejection_reason(EligibilityAttributes.from_tags(tags), self.rules)
        return reason if reason in _KINDS else None

    def read(self, ref: int | str) -> bytes:
        """Return one instance's header."""
        return self.pacs.header(str(ref)).content

    def name(self, ref: int | str) -> str:
        """Return its UIDs, which is all it is called by."""
        return str(ref)


def _shown(listed: Listed | None, announced: int | None) -> Resources:
    """Return what was listed of a study or series; say where it is cut off and nothing else tells."""
    if listed is None:
        return {}
    if listed.cut and announced is None:
        warn(
            "source.unproven",
            f"the PACS warns that it has more than the {len(listed.found)} results that it lists of one study: what it"
            " doesn't list is not in this run",
        )
    return listed.found


def _count(found: DicomJson, tag: str) -> int | None:
    try:
        return int(value(found, tag))
    except (TypeError, ValueError):
        return None


def _range(study_date: str) -> tuple[date, date]:
    first, dash, last = study_date.partition("-")
    if first and not dash:
        last = first
    return _day(first) if first else FIRST_DAY, _day(last) if last else LAST_DAY


def _day(digits: str) -> date:
    return date(int(digits[:4]), int(digits[4:6]), int(digits[6:8]))
