"""Finds the images of a DICOMweb server that a list names (QIDO-RS, PS3.18 10.6)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, NamedTuple

from backlog.errors import UsageError
from backlog.inputs.key_table import Key
from backlog.pacs.dicomweb import INSTANCE, SERIES, STUDY
from backlog.pacs.stow import DicomJson
from backlog.pacs.stow import value as value_of
from producer.sources.base import Entry
from producer.sources.dicomweb import DicomwebSource
from producer.sources.only_pacs import FoundStudy
from producer.sources.study_listing import list_all

#: Values of one page; each takes a query and those of its studies.
VALUES: Final = 16

#: A server that finds more for one value does not select by it, and would be listed whole for each.
MOST: Final = 2000


class _Search(NamedTuple):
    """How a value is asked for."""

    path: str
    keyword: str
    tag: str  #: of the value in DICOM JSON
    unique: str  #: tag that tells one result from another


_SEARCHES: Final = {
    Key.SOP_INSTANCE_UID: _Search("/instances", "SOPInstanceUID", INSTANCE, SERIES),
    Key.SERIES_INSTANCE_UID: _Search("/series", "SeriesInstanceUID", SERIES, SERIES),
    Key.STUDY_INSTANCE_UID: _Search("/studies", "StudyInstanceUID", STUDY, STUDY),
    Key.ACCESSION_NUMBER: _Search("/studies", "AccessionNumber", "00080050", STUDY),
    Key.PATIENT_ID: _Search("/studies", "PatientID", "00100020", STUDY),
}


@dataclass
class DicomwebFinder:
    """Asks a DICOMweb server for one value at a time: not every server takes lists of values."""

    source: DicomwebSource

    @property
    def size(self) -> int:
        """How many values make a page."""
        return VALUES

    def find(self, key: Key, values: list[str]) -> Iterator[FoundStudy]:
        """Yield what it holds of some values. Raises as :class:`producer.sources.only_pacs.Finder`."""
        for value in values:
            for study, found in self._studies(key, value).items():
                yield FoundStudy(value, study, self._entries(key, value, study, found))

    def _studies(self, key: Key, value: str) -> dict[str, DicomJson]:
        """Return the studies that a value stands in, by their UIDs."""
        search = _SEARCHES[key]
        query = {search.keyword: value, "includefield": f"{STUDY},{search.tag}"}
        listed = list_all(self.source.pacs.rest, search.path, query, search.unique, most=MOST)
        if listed is None:
            raise UsageError(
                f"the PACS finds more than {MOST} for one {search.keyword}: it seems not to select by it. Give a list"
                " of study_instance_uid"
            )
        found: dict[str, DicomJson] = {}
        for one in listed.found.values():
            theirs, study = value_of(one, search.tag), str(value_of(one, STUDY) or "")
            if theirs is None or not study:
                raise UsageError(
                    f"the PACS does not say the {search.keyword} of what it finds by it, or its study: nothing shows"
                    " that it is what the list names. Give a list of study_instance_uid"
                )
            # It may select without case, or not at all.
            if str(theirs).strip() == value:
                found[study] = one if search.path == "/studies" else {}
        if not found and key in (Key.SOP_INSTANCE_UID, Key.SERIES_INSTANCE_UID):
            self._check_has(search)
        return found

    def _check_has(self, search: _Search) -> None:
        """Refuse a server that knows no such search, and so finds nothing."""
        if self.source.pacs.rest.search_if_known(search.path, {"limit": "1"}) is None:
            raise UsageError(
                f"the PACS can't be searched by {search.keyword} over all studies: give a list of study_instance_uid,"
                " accession_number or patient_id"
            )

    def _entries(self, key: Key, value: str, study: str, found: DicomJson) -> list[Entry]:
        entries = list(self.source.entries_of(study, found))
        if key is Key.SERIES_INSTANCE_UID:
            return [one for one in entries if str(one.ref).startswith(f"{study}/{value}/")]
        if key is Key.SOP_INSTANCE_UID:
            return [one for one in entries if str(one.ref).rpartition("/")[2] == value]
        return entries
