"""A hospital's PACS as the source: its images as C-FIND lists them, study by study."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import date, timedelta
from typing import Final

from backlog.broker.job import SourceSpec
from backlog.broker.messages import Stage
from backlog.dicom.eligibility import Rules, rejection_reason
from backlog.dicom.eligibility_attributes import EligibilityAttributes
from backlog.errors import InstanceRejected, ServiceUnavailable
from backlog.log import warn
from backlog.outcomes import Outcome, Reason
from backlog.pacs.modality import Modality
from producer.sources.base import Entry, Page, never_silent, not_listed
from producer.sources.modality_answers import belonging, is_uid, number
from producer.sources.study_slices import Slice, StudySlices, date_range

#: Studies of one page: each takes two queries and more, and the run's producer waits for the page.
PAGE: Final = 32

#: Studies whose series are asked for at a time.
STUDIES_AT_A_TIME: Final = 4

#: What is asked of a series and of an image, so that what is no frontal chest radiograph is never retrieved.
_SERIES_KEYS: Final = (
    "SeriesInstanceUID",
    "Modality",
    "SeriesDescription",
    "BodyPartExamined",
    "ProtocolName",
    "NumberOfSeriesRelatedInstances",
)
_IMAGE_KEYS: Final = (
    "SOPInstanceUID",
    "SOPClassUID",
    "ViewPosition",
    "PatientOrientation",
    "PresentationIntentType",
    "NumberOfFrames",
)

#: Between the UIDs of study, series and instance in an item's reference.
_SEPARATOR: Final = "|"

#: Stands there for a UID that is missing, or that no request can hold.
_NO_UID: Final = "?"


@dataclass
class ModalitySource:
    """The images of a DICOM modality, of the series of some kinds (Modality), by slices of Study Date.

    An image's reference is its study, series and SOP Instance UID. Other kinds of series are not asked for, and not
    counted. The cursor is the day that comes next or, inside a slice, its two days and the last study that was listed.
    """

    modality: Modality
    rules: Rules
    limit: int  #: answers of fewer studies are whole
    kinds: str = ""  #: values of Modality, ``CR\\DX``; empty for those that the rules score
    study_date: str = ""  #: as in a DICOM query, ``20240101-20241231``
    first: Stage = Stage.RETRIEVE
    total: int | None = None
    spec: SourceSpec = field(init=False)

    def __post_init__(self) -> None:
        self.spec = {"kind": "modality", "path": "", "listing": "", "modality": self.modality.name}

    @property
    def _wanted(self) -> list[str]:
        return sorted(set(self.kinds.split("\\")) - {""} or self.rules.modalities)

    def pages(self, cursor: str) -> Iterator[Page]:
        """Stream the images of all studies; the cursor is ``first/last/study`` inside a slice, else the next day.

        Raises
        ------
        UsageError
            A slice can't be made small enough for the modality's limit.
        ModalityFailed
            It doesn't answer.
        """
        pages = self._pages(cursor)
        asked = ", ".join(self._wanted)
        return (
            pages
            if cursor
            else never_silent(pages, f"the modality {self.modality.name} lists no images of {asked}")
        )

    def _pages(self, cursor: str) -> Iterator[Page]:
        first, last = date_range(self.study_date)
        begin = date.fromisoformat(cursor[:10]) if cursor else first
        slices = StudySlices(self.modality, self._wanted, first, last, self.limit)
        with ThreadPoolExecutor(STUDIES_AT_A_TIME, thread_name_prefix="find") as pool:
            if "/" in cursor:
                # The slice that a listing was broken off in, whole, however it may have to be asked for now.
                _, end, seen = cursor.split("/", 2)
                begun = slices.between(begin, date.fromisoformat(end))
                yield from self._of_slice(begun, pool, seen, last)
                begin = begun.last + timedelta(days=1)
            for one in slices.from_day(begin):
                yield from self._of_slice(one, pool, "", last)

    def _of_slice(self, found: Slice, pool: Executor, seen: str, last: date) -> Iterator[Page]:
        """Yield the pages of a slice, behind the last study that was listed.

        Where a query fails, the studies before it are a page: begun again, a listing goes on behind them. Else one that
        needs more queries than succeed in a row would never end.
        """
        studies = sorted(uid for uid in found.studies if uid > seen)
        for at in range(0, len(studies), PAGE):
            some = studies[at : at + PAGE]
            entries: list[Entry] = []
            seen = ""
            try:
                for uid, listed in zip(
                    some, pool.map(self.entries_of, [found.studies[uid] for uid in some]), strict=True
                ):
                    entries += listed
                    seen = uid
            except ServiceUnavailable:
                if seen:
                    yield Page(entries, f"{found.first}/{found.last}/{seen}", last=False)
                raise
            yield Page(entries, f"{found.first}/{found.last}/{seen}", last=False)
        yield Page([], str(found.last + timedelta(days=1)), last=found.last >= last)

    def entries_of(self, study: dict[str, str]) -> list[Entry]:
        """Return the images of a study's series of the wanted kinds.

        Parameters
        ----------
        study
            What the modality answered of it: its UID at least.
        """
        name = study.get("StudyInstanceUID", "")
        if not is_uid(name):
            return [Entry(reference(_NO_UID, _NO_UID, _NO_UID), 0, Reason.INVALID_UID)]
        keys = {"StudyInstanceUID": name}
        found = belonging(self.modality.find("Series", dict.fromkeys(_SERIES_KEYS, "") | keys), keys)
        # A PACS may answer a series twice.
        series = {one.get("SeriesInstanceUID", ""): one for one in found}
        entries = [
            entry
            for uid in sorted(series)
            # Where its kind isn't answered, its images tell.
            if series[uid].get("Modality", "").upper() in (*self._wanted, "")
            for entry in self._of_series(study, series[uid])
        ]
        absent = self._series_missing(study.get("NumberOfStudyRelatedSeries", ""), len(series))
        return entries + [
            Entry(reference(name, f"?{place}", "?"), 0, Reason.NOT_LISTED) for place in range(1, absent + 1)
        ]

    def _of_series(self, study: dict[str, str], series: dict[str, str]) -> list[Entry]:
        names = (study["StudyInstanceUID"], series.get("SeriesInstanceUID", ""))
        if not is_uid(names[1]):
            return [Entry(reference(names[0], _NO_UID, _NO_UID), 0, Reason.INVALID_UID)]
        keys = dict(zip(("StudyInstanceUID", "SeriesInstanceUID"), names, strict=True))
        found = belonging(self.modality.find("Instance", dict.fromkeys(_IMAGE_KEYS, "") | keys), keys)
        images = {one.get("SOPInstanceUID", ""): one for one in found}
        entries = [
            Entry(reference(*names, uid), 0, _skip(study | series | images[uid], self.rules))
            if is_uid(uid)
            else Entry(reference(*names, _NO_UID), 0, Reason.INVALID_UID)
            for uid in sorted(images)
        ]
        counted = series.get("NumberOfSeriesRelatedInstances", "")
        absent = self._images_missing(counted, len(images))
        return entries + [
            Entry(reference(*names, f"?{place}"), 0, Reason.NOT_LISTED) for place in range(1, absent + 1)
        ]

    def _series_missing(self, counted: str, listed: int) -> int:
        """Return how many items stand for series of a study that are counted and not listed."""
        name, count = self.modality.name, number(counted)
        if count is None and listed >= self.limit:
            warn(
                "source.unproven",
                f"the modality {name} lists {listed} series of a study and does not count them: nothing shows that"
                " these are all (CXR_FIND_LIMIT)",
            )
        elif count is not None and count > listed:
            warn(
                "source.series_not_listed",
                f"the modality {name} counts {count} series in a study and lists {listed}: each that is missing counts"
                " as one image, not_listed",
                count=count - listed,
            )
        return not_listed(count or 0, listed)

    def _images_missing(self, counted: str, listed: int) -> int:
        """Return how many items stand for images of a series that are counted and not listed."""
        name, count = self.modality.name, number(counted)
        if count is None and listed >= self.limit:
            warn(
                "source.unproven",
                f"the modality {name} lists {listed} images of a series and does not count them: nothing shows that"
                " these are all (CXR_FIND_LIMIT)",
            )
        elif count is not None and count > listed:
            warn(
                "source.images_not_listed",
                f"the modality {name} counts {count} images in a series and lists {listed}: those that are missing"
                " count as not_listed",
                count=count - listed,
            )
        return not_listed(count or 0, listed)

    def read(self, ref: int | str) -> bytes:  # noqa: ARG002
        """Refuse: nothing is retrieved only to be looked at.

        Raises
        ------
        InstanceRejected
            Always.
        """
        raise InstanceRejected(Reason.NOT_IN_PACS, "it lies in the modality, and is retrieved by the run")

    def name(self, ref: int | str) -> str:
        """Return the image's UIDs, which are all it is called by."""
        return str(ref)


def reference(study: str, series: str, sop: str) -> str:
    """Return how the ledger refers to an image of a modality.

    Parameters
    ----------
    study
        Study Instance UID.
    series
        Series Instance UID.
    sop
        SOP Instance UID.
    """
    return _SEPARATOR.join((study, series, sop))


def sop_instance_uid(ref: int | str) -> str:
    """Return the SOP Instance UID in a reference to an image of a modality; empty for another source's."""
    return str(ref).rpartition(_SEPARATOR)[2] if _SEPARATOR in str(ref) else ""


def _skip(tags: dict[str, str], rules: Rules) -> Reason | None:
    """Return why an image is skipped, where what the modality answered leaves no doubt.

    An answer lacks what the modality doesn't keep in its index, and that could speak for the image: it is taken to.
    """
    if not tags.get("SOPClassUID"):
        return None
    known = EligibilityAttributes.from_tags(tags)
    reason = rejection_reason(known, rules)
    if reason is None or reason.outcome is not Outcome.SKIPPED:
        return None
    best = replace(
        known,
        body_part_examined=known.body_part_examined or "CHEST",
        view_position=known.view_position or "PA",
        study_description=known.study_description or "CHEST",
        series_description=known.series_description or "CHEST",
        protocol_name=known.protocol_name or "CHEST",
    )
    return reason if rejection_reason(best, rules) is not None else None
