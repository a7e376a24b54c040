"""Whether an image is one that the model knows, judged from its header alone.

Pure and light: the producer's plan judges what the PACS says of its images, the worker judges what the bytes
say, and both use these rules. Nothing here is decoded, and no header value leaves: the answer is a member of
:class:`~backlog.outcomes.Reason` or a set of :class:`~backlog.outcomes.Flag`.

The order of the questions is the order in which a user would ask them: is it an image, is it a radiograph,
is it one picture, is it of the chest, is it seen from the front.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, TypedDict

from backlog.dicom.terms import (
    Body,
    View,
    body_described,
    body_examined,
    body_of_codes,
    lateral_described,
    view_named,
    view_of_codes,
    words,
)
from backlog.outcomes import Flag, Reason
from backlog.settings import Settings

#: The model name that our reports carry (General Equipment Module, PS3.3 C.7.5.1).
OWN_MODEL_NAME: Final = "cxr-backlog"

#: Storage SOP classes (PS3.4 B.5) that hold one projection radiograph, made for reading.
RADIOGRAPHS: Final = frozenset(
    {
        "1.2.840.10008.5.1.4.1.1.1",  # Computed Radiography
        "1.2.840.10008.5.1.4.1.1.1.1",  # Digital X-Ray, For Presentation
    }
)
#: Secondary captures: scanned films, exports, and archives converted from PNG arrive in these.
CAPTURES: Final = frozenset(
    {
        "1.2.840.10008.5.1.4.1.1.7",  # Secondary Capture
        "1.2.840.10008.5.1.4.1.1.7.2",  # Multi-frame Grayscale Byte Secondary Capture
        "1.2.840.10008.5.1.4.1.1.7.3",  # Multi-frame Grayscale Word Secondary Capture
        "1.2.840.10008.5.1.4.1.1.7.4",  # Multi-frame True Color Secondary Capture
    }
)
DX_FOR_PROCESSING: Final = "1.2.840.10008.5.1.4.1.1.1.1.1"
MEDIA_DIRECTORY: Final = "1.2.840.10008.1.3.10"

#: Families of SOP classes without an image of their own: everything under these roots.
_NOT_IMAGES: Final = (
    "1.2.840.10008.5.1.4.1.1.88.",  # structured reports, key object selections
    "1.2.840.10008.5.1.4.1.1.11.",  # presentation states
    "1.2.840.10008.5.1.4.1.1.104.",  # encapsulated PDF, CDA, STL
    "1.2.840.10008.5.1.4.1.1.9.",  # waveforms
    "1.2.840.10008.5.1.4.1.1.66",  # raw data, registrations, segmentations
    "1.2.840.10008.5.1.4.1.1.67",  # real world value mapping
    "1.2.840.10008.5.1.4.1.1.481.3",  # RT structure set
    "1.2.840.10008.5.1.4.1.1.481.4",  # RT treatment record
    "1.2.840.10008.5.1.4.1.1.481.5",  # RT plan
    "1.2.840.10008.5.1.4.1.1.481.8",  # RT ion plan
    "1.2.840.10008.5.1.4.34.",  # work list and protocol objects
    "1.2.840.10008.5.1.4.38.",  # hanging protocols
)
_STRUCTURED_REPORTS: Final = "1.2.840.10008.5.1.4.1.1.88."
#: What may be stored beside a report, with its modality: Secondary Capture, Encapsulated PDF.
_DERIVED: Final = frozenset({("1.2.840.10008.5.1.4.1.1.7", "OT"), ("1.2.840.10008.5.1.4.1.1.104.1", "DOC")})
#: Modalities (PS3.3 C.7.3.1.1.1) of objects that hold no image.
_NOT_IMAGE_MODALITIES: Final = frozenset(
    {
        "SR",
        "PR",
        "KO",
        "DOC",
        "SEG",
        "REG",
        "RTPLAN",
        "RTSTRUCT",
        "RTRECORD",
        "PLAN",
        "ECG",
        "FID",
        "RWV",
        "AU",
        "HD",
    }
)
#: What a capture may say instead of a modality of acquisition.
UNSPECIFIC_MODALITIES: Final = frozenset({"", "OT", "SC", "HC", "FILM", "DF", "DR"})
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
    view_position: str = ""
    view_codes: tuple[str, ...] = ()  #: Code Values of View Code Sequence
    patient_orientation: tuple[str, ...] = ()  #: of the rows, of the columns
    presentation_intent_type: str = ""
    number_of_frames: int = 1
    manufacturer_model_name: str = ""
    study_description: str = ""
    series_description: str = ""
    protocol_name: str = ""
    has_pixel_data: bool | None = None  #: None: what was asked does not tell

    @classmethod
    def from_tags(cls, tags: Mapping[str, object]) -> EligibilityAttributes:
        r"""Take the facts from tags by keyword.

        Parameters
        ----------
        tags
            Keyword to text, several values joined by a backslash; a sequence is a list of such mappings. This
            is the form of Orthanc's ``simplified-tags``. Values of another form count as absent.
        """
        return cls(
            sop_class_uid=_text(tags, "SOPClassUID"),
            modality=_text(tags, "Modality"),
            body_part_examined=_text(tags, "BodyPartExamined"),
            anatomic_region_codes=_codes(tags, "AnatomicRegionSequence"),
            view_position=_text(tags, "ViewPosition"),
            view_codes=_codes(tags, "ViewCodeSequence"),
            patient_orientation=tuple(_text(tags, "PatientOrientation").split("\\")),
            presentation_intent_type=_text(tags, "PresentationIntentType"),
            number_of_frames=frame_count(_text(tags, "NumberOfFrames")),
            manufacturer_model_name=_text(tags, "ManufacturerModelName"),
            study_description=_text(tags, "StudyDescription"),
            series_description=_text(tags, "SeriesDescription"),
            protocol_name=_text(tags, "ProtocolName"),
        )


class RulesSpec(TypedDict):
    """The rules as JSON."""

    modalities: list[str]
    laterals: bool
    for_processing: bool
    body_parts: list[str]
    any_body_part: bool


@dataclass(frozen=True)
class Rules:
    """What the settings may change. Travels in messages as :class:`RulesSpec`."""

    modalities: frozenset[str] = frozenset({"CR", "DX", "RG", "XR"})  #: modalities of a projection radiograph
    laterals: bool = False  #: score lateral and oblique views too
    for_processing: bool = False  #: score raw detector data too
    body_parts: frozenset[str] = (
        frozenset()
    )  #: more values of Body Part Examined that mean the chest, in capitals
    any_body_part: bool = False  #: trust the source: do not ask for the chest

    @classmethod
    def from_settings(cls, settings: Settings) -> Rules:
        """Take the rules from the environment's settings."""
        return cls(
            modalities=_words(settings.modalities),
            laterals=settings.laterals,
            for_processing=settings.for_processing,
            body_parts=_words(settings.body_parts),
            any_body_part=settings.any_body_part,
        )

    @classmethod
    def from_spec(cls, spec: RulesSpec) -> Rules:
        """Take the rules from a message."""
        return cls(
            modalities=frozenset(spec["modalities"]),
            laterals=spec["laterals"],
            for_processing=spec["for_processing"],
            body_parts=frozenset(spec["body_parts"]),
            any_body_part=spec["any_body_part"],
        )

    def spec(self) -> RulesSpec:
        """Return the rules as JSON can hold them."""
        return {
            "modalities": sorted(self.modalities),
            "laterals": self.laterals,
            "for_processing": self.for_processing,
            "body_parts": sorted(self.body_parts),
            "any_body_part": self.any_body_part,
        }


def _words(text: str) -> frozenset[str]:
    return frozenset(word.strip().upper() for word in text.split(",") if word.strip())


def frame_count(text: str) -> int:
    """Return Number of Frames from its text: one when it is absent or no number, capped at nine digits.

    It is an integer string (PS3.5 6.2: a sign, spaces), and a malformed one may not pass for a single frame:
    of several numbers the largest counts, of a fraction the next whole one, and no sign makes it less.
    """
    found = (float(number) for number in _NUMBERS.findall(text[:_MAX_TEXT]))
    return max((math.ceil(min(number, _MAX_FRAMES)) for number in found), default=1)


def rejection_reason(facts: EligibilityAttributes, rules: Rules) -> Reason | None:
    """Return why the image is not to be scored, or None when it is."""
    reason = _not_radiograph(facts, rules)
    if reason is not None:
        return reason
    if facts.has_pixel_data is False:
        return Reason.NO_PIXELS
    if facts.number_of_frames > 1:
        return Reason.MULTIFRAME
    if not rules.for_processing and (
        facts.sop_class_uid == DX_FOR_PROCESSING
        or words(facts.presentation_intent_type) == ("FOR", "PROCESSING")
    ):
        return Reason.FOR_PROCESSING
    if not rules.any_body_part and body(facts, rules) is Body.OTHER:
        return Reason.NOT_CHEST
    if not rules.laterals and view(facts) is View.LATERAL:
        return Reason.LATERAL
    return None


def flags(facts: EligibilityAttributes, rules: Rules) -> frozenset[Flag]:
    """Return what was assumed about an image that is scored."""
    found = set()
    if Body.CHEST not in _coded_body(facts, rules):
        found.add(Flag.BODY_PART_UNKNOWN)
    seen = view(facts)
    if seen is View.UNKNOWN:
        found.add(Flag.VIEW_UNKNOWN)
    if seen is View.LATERAL and rules.laterals:
        found.add(Flag.LATERAL_ASKED_FOR)
    return frozenset(found)


def body(facts: EligibilityAttributes, rules: Rules) -> Body:
    """Return what the header says about the part of the body.

    The attribute made for it decides, then its code; only where both are silent do the descriptions, which
    people type, and they must name another part, and not the chest, to exclude an image.
    """
    for said in (
        *_coded_body(facts, rules),
        body_described(f"{facts.series_description} {facts.protocol_name}"),
        body_described(facts.study_description),
    ):
        if said is not Body.UNKNOWN:
            return said
    return Body.UNKNOWN


def view(facts: EligibilityAttributes) -> View:
    """Return what the header says about the direction of the view.

    View Position decides, then View Code Sequence. Where both are silent, a lateral can still be known by
    rows that run to the front or back of the patient (PS3.3 C.7.6.1.1.1) or by the description of its series;
    that a view is frontal is not believed from a description.
    """
    for said in (view_named(facts.view_position), view_of_codes(facts.view_codes)):
        if said is not View.UNKNOWN:
            return said
    rows = facts.patient_orientation[0].strip().upper() if facts.patient_orientation else ""
    if rows in ("A", "P") or lateral_described(f"{facts.series_description} {facts.protocol_name}"):
        return View.LATERAL
    return View.UNKNOWN


def _coded_body(facts: EligibilityAttributes, rules: Rules) -> tuple[Body, Body]:
    return body_examined(facts.body_part_examined, rules.body_parts), body_of_codes(
        facts.anatomic_region_codes
    )


def _not_radiograph(facts: EligibilityAttributes, rules: Rules) -> Reason | None:
    sop_class, modality = facts.sop_class_uid, facts.modality.strip().upper()
    if sop_class == MEDIA_DIRECTORY:
        return Reason.SYSTEM_FILE
    ours = sop_class.startswith(_STRUCTURED_REPORTS) or (sop_class, modality) in _DERIVED
    if ours and facts.manufacturer_model_name.strip() == OWN_MODEL_NAME:
        return Reason.OWN_REPORT
    if sop_class.startswith(_NOT_IMAGES) or (not sop_class and modality in _NOT_IMAGE_MODALITIES):
        return Reason.NOT_IMAGE
    if sop_class in RADIOGRAPHS or sop_class == DX_FOR_PROCESSING:
        return None if modality in rules.modalities | UNSPECIFIC_MODALITIES else Reason.NOT_RADIOGRAPH
    if sop_class in CAPTURES or not sop_class:
        if modality in rules.modalities:
            return None
        # A capture without a modality can be anything (a photograph, a dose sheet, a CT): it has to name the
        # chest.
        named = rules.any_body_part or body(facts, rules) is Body.CHEST
        return None if modality in UNSPECIFIC_MODALITIES and named else Reason.NOT_RADIOGRAPH
    return Reason.NOT_RADIOGRAPH


def _text(tags: Mapping[str, object], keyword: str) -> str:
    value = tags.get(keyword)
    return value.strip(" \0") if isinstance(value, str) else ""


def _codes(tags: Mapping[str, object], keyword: str) -> tuple[str, ...]:
    items = tags.get(keyword)
    if not isinstance(items, Sequence) or isinstance(items, str):
        return ()
    return tuple(_text(item, "CodeValue") for item in items if isinstance(item, Mapping))
