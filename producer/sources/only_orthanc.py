"""Finds the images of an Orthanc that a list names."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from backlog.errors import InstanceRejected
from backlog.inputs.key_table import Key
from backlog.pacs.orthanc_find import Level, OrthancResource
from producer.sources.base import Entry
from producer.sources.only_pacs import FoundStudy
from producer.sources.orthanc import OrthancSource
from producer.sources.series_listing import tags_of

#: Values of one query.
VALUES: Final = 100

_LEVELS: Final = {
    Key.SOP_INSTANCE_UID: (Level.INSTANCE, "SOPInstanceUID"),
    Key.SERIES_INSTANCE_UID: (Level.SERIES, "SeriesInstanceUID"),
    Key.STUDY_INSTANCE_UID: (Level.STUDY, "StudyInstanceUID"),
    Key.ACCESSION_NUMBER: (Level.STUDY, "AccessionNumber"),
    Key.PATIENT_ID: (Level.PATIENT, "PatientID"),
}


@dataclass
class OrthancFinder:
    """Asks an Orthanc for many values in one query."""

    source: OrthancSource

    @property
    def size(self) -> int:
        """How many values are asked for at a time."""
        return VALUES

    def find(self, key: Key, values: list[str]) -> Iterator[FoundStudy]:
        """Yield what it holds of some values. Raises as :class:`producer.sources.only_pacs.Finder`."""
        level, keyword = _LEVELS[key]
        for resource in self.source.orthanc.find_all(level, keyword, values):
            tags = tags_of(resource)
            try:
                entries = list(self._entries(level, resource))
            except InstanceRejected:
                continue  # deleted meanwhile
            yield FoundStudy(tags[keyword].strip(), tags.get("StudyInstanceUID", ""), entries)

    def _entries(self, level: Level, resource: OrthancResource) -> Iterator[Entry]:
        """Yield the instances of a resource but the reports of this system, as the whole Orthanc is listed."""
        if level is Level.INSTANCE:
            yield Entry(str(resource["ID"]))
            return
        series = (
            [resource] if level is Level.SERIES else self.source.orthanc.series_in(level, str(resource["ID"]))
        )
        for one in series:
            yield from self.source.entries_of(one)
