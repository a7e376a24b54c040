"""The source image's header → what its report takes over.

A header may break every rule; the report may break none. So each attribute is decoded and checked by itself,
and one that has no valid form is left empty (type 2) or out (type 3), which the report says. Patient ID and
the UIDs are never repaired, for they decide in which study a PACS files the report: they are carried as they
are, or the image is refused.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from pydicom._uid_dict import UID_dictionary
from pydicom.dataset import Dataset

from backlog.dicom import character_sets
from backlog.dicom.character_sets import CharacterSets
from backlog.dicom.file import DicomFile
from backlog.dicom.header import patient_id
from backlog.dicom.values import number, raw_bytes, sequence
from backlog.errors import InstanceRejected
from backlog.outcomes import Flag, Reason
from worker.sr import value_cleaning as values

#: Attributes carried over when valid: keyword → how to clean it, and whether the report needs it at least
#: empty (type 2; PS3.3 tables C.7-1 Patient, C.7-3 General Study, C.7-4a Patient Study).
_CARRIED: Final[dict[str, tuple[values.Cleaner, bool]]] = {
    "StudyDate": (values.clean_date, True),
    "StudyTime": (values.clean_time, True),
    "AccessionNumber": (values.clean_short, True),
    "ReferringPhysicianName": (values.clean_name, True),
    "TimezoneOffsetFromUTC": (values.clean_offset, False),
    "StudyDescription": (values.clean_long, False),
    "PatientName": (values.clean_name, True),
    "IssuerOfPatientID": (values.clean_long, False),
    "PatientBirthDate": (values.clean_date, True),
    "PatientSex": (values.clean_sex, True),
    "PatientAge": (values.clean_age, False),
    "PatientSize": (values.clean_decimal, False),
    "PatientWeight": (values.clean_decimal, False),
    "PatientIdentityRemoved": (values.clean_yes, False),
    "DeidentificationMethod": (values.clean_longs, False),
    "StudyID": (values.clean_short, True),
}

#: PS3.5 section 9.1: components without leading zeros. The roots are those of ISO/IEC 9834-1: 0, 1 and 2.
_CONFORMANT_UID: Final = re.compile(r"[0-2](\.(0|[1-9][0-9]*))+")
#: A SOP class that the dictionary doesn't hold is some vendor's own, and taken for an image's.
_UNKNOWN: Final = ("Image Storage",)
_ORIENTATION: Final = re.compile(r"[ALPRHF]{1,3}")


@dataclass(frozen=True)
class CodedMethod:
    """One item of De-identification Method Code Sequence (0012,0064)."""

    value: str
    scheme: str
    version: str  #: of the scheme; empty where the image gives none
    meaning: str


@dataclass(frozen=True)
class SourceHeader:
    """What a report takes from the image's header. Nothing in it needs a further check."""

    study_instance_uid: str
    series_instance_uid: str
    sop_instance_uid: str
    sop_class_uid: str
    patient_id: str  #: as it stands in the header, spaces included
    copied_attributes: dict[str, str]  #: keyword → value; type 2 attributes are there at least empty
    coded_methods: tuple[CodedMethod, ...]  #: of de-identification
    modality: str
    view_position: str
    series_number: int
    instance_number: int
    rows: int
    columns: int
    spacing: tuple[float, float] | None  #: between rows and between columns, in mm
    orientation: tuple[str, str] | None  #: of a row and of a column
    manufacturer: str
    manufacturer_model_name: str
    flags: frozenset[Flag]


class _Header:
    """Raw values of a header by keyword, decoded one by one."""

    def __init__(self, header: Dataset, sets: CharacterSets) -> None:
        self._header = header
        self._sets = sets
        self.repaired = False

    def raw(self, keyword: str) -> bytes:
        """Return the value's bytes as they stand in the file; empty when the attribute is absent."""
        return raw_bytes(self._header, keyword).value

    def text(self, keyword: str) -> str:
        """Return the value decoded, without its padding; empty, and noted, when it can't be decoded."""
        return self._decoded(self.raw(keyword).strip(b" \0"))

    def _decoded(self, raw: bytes) -> str:
        text = character_sets.decode(raw, self._sets.encodings)
        if text is None or (self._sets.unknown and not raw.isascii()):
            self.repaired = True
        if text is None:
            # By an unknown set a guess would be a wrong name, and nobody would see that it is.
            text = "" if self._sets.unknown else values.guess(raw) or ""
        return text.strip(" ")

    def cleaned(self, keyword: str, cleaner: values.Cleaner) -> str:
        """Return the value in its standard form; empty, and noted, when it has none."""
        text = self.text(keyword)
        if not text and cleaner is values.clean_name:
            text = self._alphabetic(keyword)
        if not text:
            return ""
        clean = cleaner(text) or ""
        # That trailing empty components of a name were dropped is no repair: it is the same name.
        if clean != text.rstrip("^= "):
            self.repaired = True
        return clean

    def _alphabetic(self, keyword: str) -> str:
        """Return the first group of a name that can't be decoded as a whole: the others repeat it in other letters."""
        group = self.raw(keyword).partition(b"=")[0].strip(b" \0")
        # Behind an escape sequence the sign that ends a group may be half of a letter.
        return "" if b"\x1b" in group else self._decoded(group)

    def number(self, keyword: str) -> int:
        """Return an unsigned short (US), 0 when it is absent or of another size."""
        return (number(self._header, keyword) or 0) if len(self.raw(keyword)) == 2 else 0

    def pair(self, keyword: str) -> tuple[str, str] | None:
        """Return a value of multiplicity two."""
        parts = self.text(keyword).split("\\")
        return (parts[0].strip(), parts[1].strip()) if len(parts) == 2 else None

    def coded_methods(self) -> tuple[CodedMethod, ...]:
        """Return the items of De-identification Method Code Sequence that are whole codes; others are noted."""
        found = []
        given = sequence(self._header, "DeidentificationMethodCodeSequence")
        for item in given[: values.MAX_VALUES]:
            fields = _Header(item, self._sets)
            method = CodedMethod(
                value=fields.cleaned("CodeValue", values.clean_short),
                scheme=fields.cleaned("CodingSchemeDesignator", values.clean_short),
                version=fields.cleaned("CodingSchemeVersion", values.clean_short),
                meaning=fields.cleaned("CodeMeaning", values.clean_long),
            )
            if method.value and method.scheme and method.meaning:
                found.append(method)
            self.repaired |= fields.repaired
        self.repaired |= len(found) < len(given)
        return tuple(found)

    def patient_id(self) -> str:
        """Return Patient ID verbatim, or refuse the image.

        Another spelling is another patient to a PACS: Orthanc derives the study from this value.
        """
        text = patient_id(self._header)
        if text is None:
            raise InstanceRejected(
                Reason.INVALID_PATIENT_ID, "PatientID does not fit the declared character set"
            )
        if not values.is_plain(text, 64):
            raise InstanceRejected(
                Reason.INVALID_PATIENT_ID,
                "PatientID holds a backslash or a control character, or is longer than 64 characters",
            )
        return text


def _carried(header: _Header) -> dict[str, str]:
    copied_attributes = {}
    for keyword, (cleaner, required) in _CARRIED.items():
        value = header.cleaned(keyword, cleaner)
        if value or required:
            copied_attributes[keyword] = value
    return copied_attributes


def _deidentification(header: _Header, copied_attributes: dict[str, str]) -> tuple[CodedMethod, ...]:
    """Return the coded methods; "YES" is valid only together with a method, be it in words or as a code.

    Where it isn't so (PS3.3 table C.7-1), nothing of it stays in what is carried.
    """
    methods = header.coded_methods()
    removed = copied_attributes.get("PatientIdentityRemoved") == "YES"
    if removed and (methods or "DeidentificationMethod" in copied_attributes):
        return methods
    header.repaired |= removed
    for keyword in ("PatientIdentityRemoved", "DeidentificationMethod"):
        copied_attributes.pop(keyword, None)
    return ()


def _spacing(header: _Header) -> tuple[float, float] | None:
    pair = header.pair("ImagerPixelSpacing") or header.pair("PixelSpacing")
    if pair is None:
        return None
    rows, columns = values.positive(pair[0]), values.positive(pair[1])
    return None if rows is None or columns is None else (rows, columns)


def _orientation(header: _Header) -> tuple[str, str] | None:
    pair = header.pair("PatientOrientation")
    return pair if pair and all(_ORIENTATION.fullmatch(letters) for letters in pair) else None


def read_source(file: DicomFile) -> SourceHeader:
    """Read what a report needs from the image's file.

    Parameters
    ----------
    file
        The file, at least up to its pixel data.

    Raises
    ------
    InstanceRejected
        ``not_dicom``; ``not_image`` when the SOP class is known and not an image's; ``invalid_uid`` when a
        UID is missing or is none; ``invalid_patient_id`` when Patient ID can't be written unchanged.
    """
    dataset, of = file.header, file.identity
    if "Image Storage" not in UID_dictionary.get(of.sop_class_uid, _UNKNOWN)[0]:
        raise InstanceRejected(Reason.NOT_IMAGE, "SOPClassUID is no image's")
    charset = raw_bytes(dataset, "SpecificCharacterSet").value
    header = _Header(dataset, character_sets.declared(charset))
    copied_attributes = _carried(header)
    coded_methods = _deidentification(header, copied_attributes)
    manufacturer = header.cleaned("Manufacturer", values.clean_long)
    manufacturer_model_name = header.cleaned("ManufacturerModelName", values.clean_long)
    flags = set()
    uids = (of.study_instance_uid, of.series_instance_uid, of.sop_instance_uid, of.sop_class_uid)
    if not all(_CONFORMANT_UID.fullmatch(uid) for uid in uids):
        flags.add(Flag.NONCONFORMANT_UID)
    if header.repaired:
        flags.add(Flag.HEADER_REPAIRED)
    return SourceHeader(
        study_instance_uid=of.study_instance_uid,
        series_instance_uid=of.series_instance_uid,
        sop_instance_uid=of.sop_instance_uid,
        sop_class_uid=of.sop_class_uid,
        patient_id=header.patient_id(),
        copied_attributes=copied_attributes,
        coded_methods=coded_methods,
        modality=header.text("Modality").upper(),
        view_position=header.text("ViewPosition").upper(),
        series_number=values.whole(header.text("SeriesNumber")),
        instance_number=values.whole(header.text("InstanceNumber")),
        rows=header.number("Rows"),
        columns=header.number("Columns"),
        spacing=_spacing(header),
        orientation=_orientation(header),
        manufacturer=manufacturer,
        manufacturer_model_name=manufacturer_model_name,
        flags=frozenset(flags),
    )
