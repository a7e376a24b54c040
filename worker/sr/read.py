"""Reading reports back: the bytes of an SR → its tree, and the scores and regions in it.

This reads with its own eyes. It shares no code with the encoder, so that a mistake there shows here.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator, Mapping
from io import BytesIO
from typing import Final, TypeAlias

from pydicom import dcmread
from pydicom.dataset import Dataset

from backlog.dicom.character_sets import quietly
from backlog.errors import InstanceRejected
from backlog.model import LABELS
from backlog.outcomes import Reason
from worker.sr.regions import SUMMARY, Outline, Regions

#: The elements of a dataset by tag; a sequence is a list of datasets.
Tree: TypeAlias = "Mapping[int, bytes | list[Tree]]"

_HEAD: Final = struct.Struct("<HH2sH")
_LENGTH: Final = struct.Struct("<I")
_LONG_VRS: Final = frozenset(
    {b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"}
)
_ITEM: Final = b"\xfe\xff\x00\xe0"
_EXPLICIT_LITTLE_ENDIAN: Final = b"1.2.840.10008.1.2.1\0"

CODE_VALUE: Final = 0x00080100
CODING_SCHEME: Final = 0x00080102
NAME: Final = 0x0040A043
TEXT: Final = 0x0040A160
CODE: Final = 0x0040A168
MEASURED: Final = 0x0040A300
NUMERIC: Final = 0x0040A30A
FLOATING: Final = 0x0040A161
CONTENT: Final = 0x0040A730
VALUE_TYPE: Final = 0x0040A040
GRAPHIC: Final = 0x00700022
GRAPHIC_TYPE: Final = 0x00700023

MEASUREMENTS: Final = (b"126010", b"DCM")
GROUP: Final = (b"125007", b"DCM")
TRACKING_IDENTIFIER: Final = (b"112039", b"DCM")
CERTAINTY: Final = (b"111012", b"DCM")


class MalformedReport(InstanceRejected):
    """These bytes are not a report of ours."""

    def __init__(self, detail: str) -> None:
        super().__init__(Reason.INVALID_REPORT, detail)


def read_strictly(report: bytes) -> Tree:
    """Read a report as this system writes it; the file meta information stands among the elements.

    Parameters
    ----------
    report
        A DICOM file in explicit VR little endian, all lengths explicit.

    Raises
    ------
    MalformedReport
        When a length leads out of what holds it, tags don't ascend, or anything else departs from that form.
    """
    if report[128:132] != b"DICM":
        raise MalformedReport("not a DICOM file")
    try:
        return _elements(report, 132, len(report))
    except struct.error as error:
        raise MalformedReport("ends within an element") from error


def _elements(data: bytes, at: int, end: int) -> Tree:
    elements: dict[int, bytes | list[Tree]] = {}
    last = -1
    while at < end:
        group, element, vr, length = _HEAD.unpack_from(data, at)
        at += 8
        if vr in _LONG_VRS:
            (length,) = _LENGTH.unpack_from(data, at)
            at += 4
        tag = group << 16 | element
        if tag <= last:
            raise MalformedReport("tags do not ascend")
        if length & 1 or at + length > end:
            raise MalformedReport("a length is odd or too large")
        elements[tag] = _items(data, at, at + length) if vr == b"SQ" else data[at : at + length]
        last = tag
        at += length
    return elements


def _items(data: bytes, at: int, end: int) -> list[Tree]:
    items = []
    while at < end:
        (length,) = _LENGTH.unpack_from(data, at + 4)
        if data[at : at + 4] != _ITEM or at + 8 + length > end:
            raise MalformedReport("a sequence holds something other than items")
        items.append(_elements(data, at + 8, at + 8 + length))
        at += 8 + length
    return items


def read_leniently(report: bytes) -> Tree:
    """Read a report in any transfer syntax, as a PACS may give it back.

    Raises
    ------
    MalformedReport
        When pydicom can't read it either.
    """
    with quietly("ignore"):
        try:
            return _tree(dcmread(BytesIO(report)))
        except MemoryError:
            raise
        except Exception as error:  # noqa: BLE001  # foreign bytes can make the reader raise anything
            raise MalformedReport(f"unreadable: {type(error).__name__}") from None


def _tree(dataset: Dataset) -> Tree:
    elements: dict[int, bytes | list[Tree]] = {}
    for element in dataset:
        value = element.value
        if element.VR == "SQ":
            elements[int(element.tag)] = [_tree(item) for item in value]
        elif element.VR == "FD" and isinstance(value, float):
            elements[int(element.tag)] = struct.pack("<d", value)
        elif element.VR == "FL" and element.VM > 1:
            elements[int(element.tag)] = struct.pack(f"<{element.VM}f", *value)
        else:
            elements[int(element.tag)] = str(value).encode() if value is not None else b""
    return elements


def children(item: Tree, tag: int = CONTENT) -> list[Tree]:
    """Return the items of a sequence; none when it is absent."""
    value = item.get(tag, [])
    if not isinstance(value, list):
        raise MalformedReport("a value stands where a sequence belongs")
    return value


def value(item: Tree, tag: int) -> bytes:
    """Return a value without its padding; empty when it is absent."""
    found = item.get(tag, b"")
    if isinstance(found, list):
        raise MalformedReport("a sequence stands where a value belongs")
    return found.rstrip(b" \0")


def concept(item: Tree, tag: int = NAME) -> tuple[bytes, bytes]:
    """Return code value and coding scheme of a code sequence; by default of an item's name."""
    for code in children(item, tag):
        return value(code, CODE_VALUE), value(code, CODING_SCHEME)
    return b"", b""


def named(item: Tree, name: tuple[bytes, bytes]) -> Iterator[Tree]:
    """Yield the content items of that name right below `item`."""
    return (child for child in children(item) if concept(child) == name)


def groups(document: Tree) -> Iterator[Tree]:
    """Yield the measurement groups of a report."""
    for measurements in named(document, MEASUREMENTS):
        yield from named(measurements, GROUP)


def label(group: Tree) -> str:
    """Return the model's label of a measurement group."""
    return b"".join(value(item, TEXT) for item in named(group, TRACKING_IDENTIFIER)).decode(
        "utf-8", "replace"
    )


def score(group: Tree) -> float:
    """Return the score of a measurement group, in [0, 1]; NaN where it has none."""
    for item in named(group, CERTAINTY):
        for measured in children(item, MEASURED):
            # Not through `value`: a double may end in bytes that look like padding.
            exact = measured.get(FLOATING)
            if isinstance(exact, bytes) and len(exact) == 8:
                return float(struct.unpack("<d", exact)[0]) / 100
            try:
                return float(value(measured, NUMERIC)) / 100
            except ValueError as error:
                raise MalformedReport("a score is no number") from error
    return math.nan


def outlines(group: Tree) -> tuple[Outline, ...]:
    """Return what the measurements of a group are inferred from: its outlines, in their order."""
    return tuple(_coordinates(group, b"POLYLINE"))


def corners(group: Tree) -> tuple[Outline, ...]:
    """Return the corners of the square that the model saw, opposite ones twice, where a group has them instead."""
    return tuple(_coordinates(group, b"ELLIPSE"))


def _coordinates(item: Tree, graphic_type: bytes) -> Iterator[Outline]:
    for child in children(item):
        if value(child, VALUE_TYPE) == b"SCOORD" and value(child, GRAPHIC_TYPE) == graphic_type:
            yield _points(child)
        yield from _coordinates(child, graphic_type)


def _points(coordinates: Tree) -> Outline:
    data = coordinates.get(GRAPHIC)
    if not isinstance(data, bytes) or not data or len(data) % 8:
        raise MalformedReport("its graphic data are no pairs of numbers")
    return tuple(struct.iter_unpack("<2f", data))


def regions_of(report: bytes) -> Regions:
    """Return the regions that a report draws; none of one that draws nothing.

    Raises
    ------
    InstanceRejected
        ``invalid_report`` when these bytes are no report of this kind.
    """
    found = list(groups(_read(report)))
    drawn = {label(group): outlines(group) for group in found}
    squares = list(drawn.pop(SUMMARY, ()))
    squares += [(four[0], four[2], four[1], four[3], four[0]) for group in found for four in corners(group)]
    return Regions(squares[0] if squares else None, {name: parts for name, parts in drawn.items() if parts})


def _read(report: bytes) -> Tree:
    try:
        return read_strictly(report)
    except MalformedReport:
        return read_leniently(report)


def scores_of(report: bytes) -> list[float]:
    """Return the scores that a report carries.

    Parameters
    ----------
    report
        The file, as it was built or as a PACS gives it back.

    Returns
    -------
    list of float
        In the order of :data:`backlog.model.LABELS`, in [0, 1]; NaN where a finding was not evaluated.

    Raises
    ------
    InstanceRejected
        ``invalid_report`` when these bytes are no report of this kind.
    """
    found = [(label(group), score(group)) for group in groups(_read(report))]
    found = [(name, number) for name, number in found if name != SUMMARY]
    if sorted(name for name, _ in found) != sorted(LABELS):
        raise MalformedReport("its findings are not the model's")
    by_label = dict(found)
    return [by_label[name] for name in LABELS]
