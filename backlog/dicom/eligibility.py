"""Whether an image is one that the model knows, judged from its header alone.

Pure and light: the producer's plan judges what the PACS says of its images, the worker judges what the bytes
say, and both use these rules. Nothing here is decoded, and no header value leaves: the answer is a member of
:class:`~backlog.outcomes.Reason` or a set of :class:`~backlog.outcomes.Flag`.

The order of the questions is the order in which a user would ask them: is it an image, is it a radiograph,
is it one picture, is it of the chest, is it seen from the front.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, TypedDict

from backlog.dicom.eligibility_attributes import EligibilityAttributes
from backlog.dicom.lettering import words
from backlog.dicom.terms import (
    Body,
    View,
    body_described,
    body_examined,
    body_of_codes,
    is_animal,
    lateral_described,
    names_only_chest,
    position_described,
    view_named,
    view_of_codes,
)
from backlog.model import PRODUCT
from backlog.outcomes import Flag, Reason
from backlog.settings import Settings

#: Storage SOP classes (PS3.4 B.5) that hold one projection radiograph, made for reading.
RADIOGRAPHS: Final = frozenset(
    {
        "1.2.840.10008.5.1.4.1.1.1",  # Computed Radiography
        "1.2.840.10008.5.1.4.1.1.1.1",  # Digital X-Ray, For Presentation
    }
)
SECONDARY_CAPTURE: Final = "1.2.840.10008.5.1.4.1.1.7"
#: Secondary captures: scanned films, exports, and archives converted from PNG arrive in these.
CAPTURES: Final = frozenset(
    {
        SECONDARY_CAPTURE,
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
    if is_animal(facts.species, facts.species_codes, facts.breed):
        return Reason.ANIMAL
    part = body(facts, rules)
    elsewhere = part in (Body.OTHER, Body.UNREADABLE) and not _is_contradicted(facts, rules)
    if elsewhere and not rules.any_body_part:
        return Reason.NOT_CHEST if part is Body.OTHER else Reason.BODY_PART_UNREADABLE
    if not rules.laterals and view(facts) is View.LATERAL:
        return Reason.LATERAL
    return None


def flags(facts: EligibilityAttributes, rules: Rules) -> frozenset[Flag]:
    """Return what was assumed about an image that is scored."""
    found = set()
    if Body.CHEST not in _coded_body(facts, rules):
        found.add(Flag.BODY_PART_UNKNOWN)
    if _is_contradicted(facts, rules):
        found.add(Flag.BODY_PART_CONTRADICTED)
    if PRODUCT in facts.modified_by:
        found.add(Flag.UIDS_MADE)
    if facts.capture_device == PRODUCT:
        found.add(Flag.IMAGE_FILE_WRAPPED)
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


def _is_contradicted(facts: EligibilityAttributes, rules: Rules) -> bool:
    """Whether Body Part Examined names another part, and all else that speaks names the chest alone.

    Devices send a constant there (SKULL, the first of a list), while study, series and protocol come from the order
    and the programme that the technologist chose. Two of the three must speak, one of series and protocol among
    them, and neither they nor the region's code may name anything else.
    """
    examined, region = _coded_body(facts, rules)
    if examined not in (Body.OTHER, Body.UNREADABLE) or region in (Body.OTHER, Body.UNREADABLE):
        return False
    near = [names_only_chest(facts.series_description), names_only_chest(facts.protocol_name)]
    said = [*near, names_only_chest(facts.study_description)]
    silent = [
        body_described(text) is Body.UNKNOWN
        for text in (facts.series_description, facts.protocol_name, facts.study_description)
    ]
    return any(near) and sum(said) >= 2 and all(a or b for a, b in zip(said, silent, strict=True))


def view(facts: EligibilityAttributes) -> View:
    """Return what the header says about the direction of the view.

    View Position decides, then View Code Sequence. They name the beam; a position that the description of the
    series names (decubitus, oblique) is not frontal whatever the beam. Where both are silent, a lateral can still
    be known by rows that run to the front or back of the patient (PS3.3 C.7.6.1.1.1) or by the description of its
    series; that a view is frontal is not believed from a description.
    """
    described = f"{facts.series_description} {facts.protocol_name}"
    named = view_named(facts.view_position)
    coded = view_of_codes(facts.view_codes, facts.view_meanings)
    if named is View.LATERAL or position_described(described):
        return View.LATERAL
    if named is View.FRONTAL or coded is not View.UNKNOWN:
        return named if named is not View.UNKNOWN else coded
    rows = facts.patient_orientation[0].strip().upper() if facts.patient_orientation else ""
    return View.LATERAL if rows in ("A", "P") or lateral_described(described) else View.UNKNOWN


def _coded_body(facts: EligibilityAttributes, rules: Rules) -> tuple[Body, Body]:
    return body_examined(facts.body_part_examined, rules.body_parts), body_of_codes(
        facts.anatomic_region_codes, facts.anatomic_region_meanings
    )


def _not_radiograph(facts: EligibilityAttributes, rules: Rules) -> Reason | None:
    sop_class, modality = facts.sop_class_uid, facts.modality.strip().upper()
    if sop_class == MEDIA_DIRECTORY:
        return Reason.SYSTEM_FILE
    ours = sop_class.startswith(_STRUCTURED_REPORTS) or (sop_class, modality) in _DERIVED
    if ours and facts.manufacturer_model_name.strip() == PRODUCT:
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
