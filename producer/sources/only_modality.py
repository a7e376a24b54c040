"""Finds the images of a DICOM modality that a list names (C-FIND, PS3.4 annex C)."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final

from backlog.errors import UsageError
from backlog.inputs.key_table import Key
from producer.sources.modality import STUDIES_AT_A_TIME, ModalitySource
from producer.sources.only_pacs import FoundStudy

#: Values of one page.
VALUES: Final = 32

#: Series and images can't be asked for without their study's UID, but where a PACS offers relational queries.
_KEYWORDS: Final = {
    Key.STUDY_INSTANCE_UID: "StudyInstanceUID",
    Key.ACCESSION_NUMBER: "AccessionNumber",
    Key.PATIENT_ID: "PatientID",
}


@dataclass
class ModalityFinder:
    """Asks a modality for the studies of some values, one query each, and for what they hold.

    Of a study, the series of radiographs are asked for, as where all are listed: one without any holds nothing.
    """

    source: ModalitySource

    @property
    def size(self) -> int:
        """How many values make a page."""
        return VALUES

    def find(self, key: Key, values: list[str]) -> Iterator[FoundStudy]:
        """Yield what it holds of some values. Raises as :class:`producer.sources.only_pacs.Finder`."""
        with ThreadPoolExecutor(STUDIES_AT_A_TIME, thread_name_prefix="find") as pool:
            for found in pool.map(lambda value: self._of_value(key, value), values):
                yield from found

    def _of_value(self, key: Key, value: str) -> list[FoundStudy]:
        return [
            FoundStudy(value, study["StudyInstanceUID"], self.source.entries_of(study))
            for study in self._studies(_KEYWORDS[key], value)
        ]

    def _studies(self, keyword: str, value: str) -> list[dict[str, str]]:
        keys = {"StudyInstanceUID": "", "StudyDescription": "", keyword: value}
        answers = self.source.modality.find("Study", keys)
        if len(answers) >= self.source.limit:
            raise UsageError(
                f"the modality {self.source.modality.name} lists {len(answers)} studies for one {keyword}, which may be"
                " as many as it ever answers (CXR_FIND_LIMIT), or it does not select by it. Give a list of"
                " study_instance_uid, or raise CXR_FIND_LIMIT"
            )
        studies: dict[str, dict[str, str]] = {}
        for one in answers:
            if keyword not in one or not one.get("StudyInstanceUID"):
                raise UsageError(
                    f"the modality {self.source.modality.name} does not say the {keyword} of what it finds by it:"
                    " nothing shows that it is what the list names. Give a list of study_instance_uid"
                )
            # It may select without case, or answer a study twice.
            if one[keyword] == value:
                studies[one["StudyInstanceUID"]] = one
        return [studies[uid] for uid in sorted(studies)]


def check_can_be_asked(key: Key) -> None:
    """Refuse a list that a modality can't be asked for.

    Raises
    ------
    UsageError
        It is of files, series or images.
    """
    if key not in _KEYWORDS:
        raise UsageError(
            f"a modality can't be asked for a {key.value} alone: give a list of study_instance_uid, accession_number or"
            " patient_id"
        )
