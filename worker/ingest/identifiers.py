"""UIDs for files that came without them, as some public archives publish theirs.

Only where a run asks for it (``--make-uids``). The file is kept byte by byte but for the UIDs and a note of who made
them; the UIDs follow from its content, so that a second run finds the same image.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Sequence
from typing import Final

from pydicom.datadict import tag_for_keyword
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import Dataset

from backlog.dicom.eligibility import SECONDARY_CAPTURE
from backlog.dicom.eligibility_attributes import MODIFYING_EQUIPMENT
from backlog.dicom.file import DicomFile
from backlog.dicom.file_meta import media_storage_sop_class_uid
from backlog.dicom.header import is_uid
from backlog.dicom.parser import DEFLATED, EXPLICIT_LITTLE, ParsedFile
from backlog.dicom.values import raw_bytes, text
from backlog.errors import InstanceRejected
from backlog.model import PRODUCT
from backlog.outcomes import Reason
from backlog.report_uids import derived_uid
from worker.sr.document import file_meta

_CONTRIBUTING_EQUIPMENT: Final = 0x0018A001
_LONG_VRS: Final = frozenset({"OB", "OW", "SQ", "UN", "UT", "UC", "UR", "OD", "OF", "OL", "OV", "SV", "UV"})
#: An item: its elements as tag, VR, and text or items.
_Item = Sequence[tuple[int, str, "str | Sequence[_Item]"]]


def with_uids(file: DicomFile) -> bytes:
    """Return a file with those of its four UIDs made that are missing or none.

    Parameters
    ----------
    file
        A whole file of PS3.10.

    Returns
    -------
    bytes
        The same file with the UIDs, and an item of Contributing Equipment Sequence (PS3.3 C.12.1.1.5) that says who
        made them. A deflated data set comes out inflated.

    Raises
    ------
    InstanceRejected
        ``not_dicom``, ``too_large``; ``invalid_uid`` where an element doesn't stand where it should.
    """
    parsed, header = file.parsed, file.header
    content = hashlib.sha256(file.content).hexdigest()
    made: dict[int, str] = {}
    for keyword in ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID"):
        said = text(header, keyword)
        if is_uid(said):
            continue
        if keyword == "SOPClassUID":
            meta = media_storage_sop_class_uid(file.content)
            uid = meta if is_uid(meta) else SECONDARY_CAPTURE
        elif said and keyword != "SOPInstanceUID":
            # What names one study stays one study, of one patient: it may be a word that stands in every file.
            within = text(header, "StudyInstanceUID") if keyword == "SeriesInstanceUID" else ""
            patient = raw_bytes(header, "PatientID").value.strip(b" \0").decode("latin-1")
            uid = derived_uid("made", keyword, patient, within, said)
        else:
            uid = derived_uid("made", keyword, content)
        tag = tag_for_keyword(keyword)
        assert tag is not None  # noqa: S101  # a misspelt keyword is a bug
        made[tag] = uid
    body = _edited(parsed, header, made)
    syntax = EXPLICIT_LITTLE if parsed.transfer_syntax_uid == DEFLATED else parsed.transfer_syntax_uid
    named = {tag: made.get(tag) or text(header, keyword) for tag, keyword in _NAMED.items()}
    return file_meta(named[0x00080016], named[0x00080018], syntax) + body


_NAMED: Final = {0x00080016: "SOPClassUID", 0x00080018: "SOPInstanceUID"}


def _edited(parsed: ParsedFile, header: Dataset, made: dict[int, str]) -> bytes:
    """Return the data set with elements put in, or in the place of others, and without their groups' lengths."""
    places = _places(parsed, header)
    held = places.get(_CONTRIBUTING_EQUIPMENT)
    equipment = _encoded(_CONTRIBUTING_EQUIPMENT, "SQ", [_EQUIPMENT], parsed)
    if held is not None:
        equipment = _with_item(parsed, held, equipment)
    wanted = {tag: _encoded(tag, "UI", uid, parsed) for tag, uid in made.items()}
    wanted[_CONTRIBUTING_EQUIPMENT] = equipment
    edits: list[tuple[int, int, bytes]] = []
    for tag, new in sorted(wanted.items()):
        if tag in places:
            start, end, _ = places[tag]
        else:
            start = end = min(
                (at for other, (at, _, _) in places.items() if other > tag), default=parsed.header_end
            )
        edits.append((start, end, new))
    for group in {tag >> 16 for tag in wanted}:
        if group << 16 in places:  # a retired Group Length would be wrong now
            start, end, _ = places[group << 16]
            edits.append((start, end, b""))
    pieces: list[bytes | memoryview] = []
    at = 0
    for start, end, new in sorted(edits, key=lambda edit: edit[:2]):
        pieces += [parsed.body[at:start], new]
        at = max(at, end)
    return b"".join([*pieces, parsed.body[at:]])


def _places(parsed: ParsedFile, header: Dataset) -> dict[int, tuple[int, int, int]]:
    """Return where the elements of the data set stand: start, end, and start of the value."""
    values: list[tuple[int, int, int]] = []
    for tag in header.keys():  # noqa: SIM118  # iterating over it converts
        element = header.get_item(tag, keep_deferred=True)
        at = (
            element.value_tell if isinstance(element, RawDataElement) else getattr(element, "file_tell", None)
        )
        if not isinstance(element, (RawDataElement, DataElement)) or not at:
            continue  # the mark of the pixel data
        long = not parsed.implicit and (element.VR or "") in _LONG_VRS
        start = at - (12 if long else 8)
        if struct.unpack_from("<2H" if parsed.little else ">2H", parsed.body, start) != (
            tag >> 16,
            tag & 0xFFFF,
        ):
            raise InstanceRejected(
                Reason.INVALID_UID, "UIDs are missing, and the header has no form to put some in"
            )
        values.append((start, int(tag), at))
    values.sort()
    ends = [start for start, _, _ in [*values, (parsed.header_end, 0, 0)]][1:]
    return {tag: (start, end, value) for (start, tag, value), end in zip(values, ends, strict=True)}


def _with_item(parsed: ParsedFile, held: tuple[int, int, int], ours: bytes) -> bytes:
    """Return a sequence with one item more."""
    start, end, value = held
    head, body = bytes(parsed.body[start:value]), bytes(parsed.body[value:end])
    order = "<" if parsed.little else ">"
    if head.endswith(b"\xff\xff\xff\xff"):
        body = body[:-8]  # its delimiter
    item = ours[8 if parsed.implicit else 12 :]
    return head[:-4] + struct.pack(f"{order}I", len(body) + len(item)) + body + item


_EQUIPMENT: Final[_Item] = (
    (0x00080070, "LO", PRODUCT),
    (0x00081090, "LO", PRODUCT),
    (0x0018A003, "ST", "UIDs that were missing or invalid were made from the file's content"),
    (
        0x0040A170,
        "SQ",
        [
            (
                (0x00080100, "SH", MODIFYING_EQUIPMENT),
                (0x00080102, "SH", "DCM"),
                (0x00080104, "LO", "Modifying Equipment"),
            )
        ],
    ),
)


def _encoded(tag: int, vr: str, value: str | Sequence[_Item], parsed: ParsedFile) -> bytes:
    """Return an element in the file's own encoding."""
    order = "<" if parsed.little else ">"
    if isinstance(value, str):
        raw = value.encode("ascii")
        raw += (b"\0" if vr == "UI" else b" ") * (len(raw) & 1)
    else:
        items = [b"".join(_encoded(*element, parsed) for element in item) for item in value]
        raw = b"".join(struct.pack(f"{order}HHI", 0xFFFE, 0xE000, len(item)) + item for item in items)
    head = struct.pack(f"{order}HH", tag >> 16, tag & 0xFFFF)
    if parsed.implicit:
        return head + struct.pack(f"{order}I", len(raw)) + raw
    if vr in _LONG_VRS:
        return head + vr.encode() + struct.pack(f"{order}HI", 0, len(raw)) + raw
    return head + vr.encode() + struct.pack(f"{order}H", len(raw)) + raw
