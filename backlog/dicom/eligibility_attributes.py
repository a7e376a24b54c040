"""What a header says that decides whether its image is scored, as plain values."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

#: Purpose of a contributing equipment that changed an object (DCM, PS3.16 CID 7005).
MODIFYING_EQUIPMENT: Final = "109103"
_NUMBERS: Final = re.compile(r"[0-9]+(?:\.[0-9]*)?(?:[eE]\+?[0-9]+)?")
_MAX_TEXT: Final = 256  # an integer string has 12 characters
_MAX_FRAMES: Final = 999_999_999


@dataclass(frozen=True)
class EligibilityAttributes:
    """What a header says that matters here, as plain values; an absent attribute is empty.

    Made from bytes by the worker, or from what the PACS lists by :meth:`from_tags`.
    """

    sop_class_uid: str = ""
    modality: str = ""
    body_part_examined: str = ""
    anatomic_region_codes: tuple[str, ...] = ()  #: Code Values of Anatomic Region Sequence
    anatomic_region_meanings: tuple[str, ...] = ()  #: its Code Meanings
    view_position: str = ""
    view_codes: tuple[str, ...] = ()  #: Code Values of View Code Sequence, and of its modifiers
    view_meanings: tuple[str, ...] = ()  #: their Code Meanings
    patient_orientation: tuple[str, ...] = ()  #: of the rows, of the columns
    presentation_intent_type: str = ""
    number_of_frames: int = 1
    manufacturer_model_name: str = ""
    study_description: str = ""
    series_description: str = ""
    protocol_name: str = ""
    species: str = ""  #: Patient Species Description
    species_codes: tuple[str, ...] = ()  #: Code Values of Patient Species Code Sequence
    breed: str = ""  #: Patient Breed Description, and the Code Values of Patient Breed Code Sequence
    capture_device: str = ""  #: Secondary Capture Device Manufacturer's Model Name
    modified_by: tuple[str, ...] = ()  #: model names of the Contributing Equipment that modified it
    has_pixel_data: bool | None = None  #: None: what was asked does not tell

    @classmethod
    def from_tags(cls, tags: Mapping[str, object]) -> EligibilityAttributes:
        r"""Take the attributes from tags by keyword.

        Parameters
        ----------
        tags
            Keyword to text, several values joined by a backslash; a sequence is a list of such mappings. This
            is the form of Orthanc's ``simplified-tags``. Values of another form count as absent.
        """
        regions = _codes(tags, "AnatomicRegionSequence")
        views = _codes(tags, "ViewCodeSequence", "ViewModifierCodeSequence")
        breeds = _codes(tags, "PatientBreedCodeSequence")
        contributing = tags.get("ContributingEquipmentSequence")
        return cls(
            sop_class_uid=_text(tags, "SOPClassUID"),
            modality=_text(tags, "Modality"),
            body_part_examined=_text(tags, "BodyPartExamined"),
            anatomic_region_codes=tuple(value for value, _ in regions),
            anatomic_region_meanings=tuple(meaning for _, meaning in regions),
            view_position=_text(tags, "ViewPosition"),
            view_codes=tuple(value for value, _ in views),
            view_meanings=tuple(meaning for _, meaning in views),
            patient_orientation=tuple(_text(tags, "PatientOrientation").split("\\")),
            presentation_intent_type=_text(tags, "PresentationIntentType"),
            number_of_frames=frame_count(_text(tags, "NumberOfFrames")),
            manufacturer_model_name=_text(tags, "ManufacturerModelName"),
            study_description=_text(tags, "StudyDescription"),
            series_description=_text(tags, "SeriesDescription"),
            protocol_name=_text(tags, "ProtocolName"),
            species=_text(tags, "PatientSpeciesDescription"),
            species_codes=tuple(value for value, _ in _codes(tags, "PatientSpeciesCodeSequence")),
            modified_by=tuple(
                _text(item, "ManufacturerModelName")
                for item in (contributing if isinstance(contributing, list) else ())
                if isinstance(item, Mapping)
                and MODIFYING_EQUIPMENT
                in [value for value, _ in _codes(item, "PurposeOfReferenceCodeSequence")]
            ),
            capture_device=_text(tags, "SecondaryCaptureDeviceManufacturerModelName"),
            breed=" ".join([_text(tags, "PatientBreedDescription"), *(value for value, _ in breeds)]).strip(),
        )


def frame_count(text: str) -> int:
    """Return Number of Frames from its text: one when it is absent or no number, capped at nine digits.

    It is an integer string (PS3.5 6.2: a sign, spaces), and a malformed one may not pass for a single frame:
    of several numbers the largest counts, of a fraction the next whole one, and no sign makes it less.
    """
    found = (float(number) for number in _NUMBERS.findall(text[:_MAX_TEXT]))
    return max((math.ceil(min(number, _MAX_FRAMES)) for number in found), default=1)


def _text(tags: Mapping[str, object], keyword: str) -> str:
    value = tags.get(keyword)
    return value.strip(" \0") if isinstance(value, str) else ""


def _codes(tags: Mapping[str, object], keyword: str, below: str = "") -> tuple[tuple[str, str], ...]:
    """Return value and meaning of a code sequence's items, and of those of a sequence inside each."""
    items = tags.get(keyword)
    if not isinstance(items, Sequence) or isinstance(items, str):
        return ()
    found: list[tuple[str, str]] = []
    for item in items:
        if isinstance(item, Mapping):
            value = _text(item, "CodeValue") or _text(item, "LongCodeValue")
            found.append((value, _text(item, "CodeMeaning")))
            found += _codes(item, below) if below else ()
    return tuple(found)
