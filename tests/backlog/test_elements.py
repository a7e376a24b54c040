"""Data sets that are encoded oddly, and that dcmtk or pydicom read all the same."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
import pytest

from backlog.dicom.header import read_header
from backlog.dicom.parser import parse_file
from backlog.dicom.values import text
from backlog.errors import InstanceRejected
from backlog.outcomes import Reason
from tests.support import dicom_images as made
from tests.support.dicom_images import chest, dicom, explicit_element
from tests.support.model_inputs import model_input

_UNDEFINED = b"\xff\xff\xff\xff"
_ITEM = b"\xfe\xff\x00\xe0"
_ITEM_END = b"\xfe\xff\x0d\xe0\0\0\0\0"
_SEQUENCE_END = b"\xfe\xff\xdd\xe0\0\0\0\0"
_PATIENT_ID = b"\x10\x00\x20\x00"
_TAG = b"\x09\x00\x01\x10"
_CREATOR = explicit_element(0x00090010, b"LO", b"MADE UP VENDOR")


def implicit_element(tag: int, value: bytes) -> bytes:
    """Return one implicit little endian element."""
    return struct.pack("<HHI", tag >> 16, tag & 0xFFFF, len(value)) + value


_PLAIN = implicit_element(0x00090010, b"MADE UP VENDOR") + implicit_element(0x00091002, b"HELLO ")
_EXPLICIT = _CREATOR + explicit_element(0x00091002, b"LO", b"HELLO ")
_NESTED = b"\x09\x00\x03\x10" + _UNDEFINED + _ITEM + _UNDEFINED + _PLAIN + _ITEM_END + _SEQUENCE_END

#: What stands before Patient ID in a file of explicit VR.
ODD: dict[str, bytes] = {
    **{
        f"a VR of {vr!r}, length of {2 * size} bytes, {len(value)} of value": _CREATOR
        + _TAG
        + vr
        + length
        + value
        for vr in (b"??", b"\6\0", b"  ", b"OX", b"ox", b"\0\0", b"ZZ")
        for size, length, value in (
            (1, b"\4\0", b"ABCD"),
            (2, b"\0\0\4\0\0\0", b"ABCD"),
            (1, b"\0\0", b""),
            (2, b"\0\0\0\0\0\0", b""),
        )
    },
    "an unknown VR that holds items": _CREATOR
    + _TAG
    + b"??\0\0"
    + struct.pack("<I", 16)
    + _ITEM
    + b"\x08\0\0\0"
    + bytes(8),
    "implicit items": _CREATOR
    + _TAG
    + b"SQ\0\0"
    + _UNDEFINED
    + _ITEM
    + _UNDEFINED
    + _PLAIN
    + _ITEM_END
    + _SEQUENCE_END,
    "implicit items, then explicit ones": _CREATOR
    + _TAG
    + b"SQ\0\0"
    + _UNDEFINED
    + (_ITEM + _UNDEFINED + _PLAIN + _ITEM_END)
    + (_ITEM + _UNDEFINED + _EXPLICIT + _ITEM_END)
    + _SEQUENCE_END,
    "implicit items of defined length": explicit_element(
        0x00091001, b"SQ", _ITEM + struct.pack("<I", len(_PLAIN)) + _PLAIN
    ),
    "implicit items in items": _CREATOR
    + _TAG
    + b"SQ\0\0"
    + _UNDEFINED
    + (_ITEM + _UNDEFINED + _PLAIN + _NESTED + _ITEM_END)
    + _SEQUENCE_END,
    "explicit items of VR UN": _CREATOR
    + _TAG
    + b"UN\0\0"
    + _UNDEFINED
    + (_ITEM + _UNDEFINED + _EXPLICIT + _ITEM_END)
    + _SEQUENCE_END,
    "implicit items of VR UN": _CREATOR
    + _TAG
    + b"UN\0\0"
    + _UNDEFINED
    + (_ITEM + _UNDEFINED + _PLAIN + _ITEM_END)
    + _SEQUENCE_END,
    "the end of a sequence that is none": explicit_element(0x00091001, b"SQ", b"") + _SEQUENCE_END,
    "the end of an item that is none": explicit_element(0x00091001, b"SQ", b"") + _ITEM_END,
    "three ends": explicit_element(0x00091001, b"SQ", b"") + _ITEM_END + _SEQUENCE_END + _ITEM_END,
}


def with_elements(elements: bytes, syntax: str = made.EXPLICIT) -> bytes:
    """Return a chest image with raw elements before its Patient ID."""
    file = dicom(chest(), syntax)
    at = file.index(_PATIENT_ID)
    return file[:at] + elements + file[at:]


def assert_read(file: bytes) -> None:
    """Assert that everything behind the odd part is read: the identity and the pixels."""
    header = read_header(file)
    assert (text(header, "PatientID"), text(header, "Modality")) == ("TEST", "DX")
    np.testing.assert_array_equal(model_input(file).image, model_input(dicom(chest())).image)


@pytest.mark.parametrize("name", ODD)
def test_odd_elements_are_stepped_over(name: str) -> None:
    assert_read(with_elements(ODD[name]))


IMPLICIT: dict[str, bytes] = {
    "a blob like items": implicit_element(
        0x00091001, struct.pack("<HHI", 0xFFFE, 0xE000, 999999) + b"no elements" * 8
    ),
    "the end of a sequence that is none": _SEQUENCE_END,
    "the end of an item that is none": _ITEM_END,
    "items in items": b"\x09\x00\x01\x10"
    + _UNDEFINED
    + _ITEM
    + _UNDEFINED
    + _NESTED
    + _ITEM_END
    + _SEQUENCE_END,
}


@pytest.mark.parametrize("name", IMPLICIT)
def test_odd_elements_of_implicit_vr_are_stepped_over(name: str) -> None:
    assert_read(with_elements(IMPLICIT[name], made.IMPLICIT))


def test_an_odd_element_in_big_endian_is_stepped_over() -> None:
    file = dicom(chest(), made.BIG)
    at = file.index(b"\x00\x10\x00\x20LO")
    odd = b"\x00\x09\x10\x01??\x00\x04ABCD" + b"\xff\xfe\xe0\xdd\0\0\0\0"
    assert_read(file[:at] + odd + file[at:])


def parts(file: bytes) -> tuple[bytes, bytes]:
    """Return file meta information and data set."""
    start = file.index(b"\x08\x00\x16\x00UI")
    return file[132:start], file[start:]


def test_a_file_without_its_preamble_is_read() -> None:
    assert_read(dicom(chest())[132:])


@pytest.mark.parametrize("preamble", [True, False])
def test_file_meta_information_of_implicit_vr_is_read(preamble: bool) -> None:
    _, data_set = parts(dicom(chest()))
    meta = b"".join(
        implicit_element(tag, value)
        for tag, value in (
            (0x00020001, b"\0\1"),
            (0x00020002, b"1.2.840.10008.5.1.4.1.1.1.1\0"),
            (0x00020003, b"1.2.3.4.5\0"),
            (0x00020010, made.EXPLICIT.encode() + b"\0"),
        )
    )
    length = struct.pack("<I", len(meta))
    if preamble:
        assert_read(bytes(128) + b"DICM" + implicit_element(0x00020000, length) + meta + data_set)
    else:  # as much at once is nobody's file
        with pytest.raises(InstanceRejected):
            parse_file(implicit_element(0x00020000, length) + meta + data_set)


@pytest.mark.parametrize(
    "elements",
    [
        _TAG + b"??\xf0\0ABCD",
        _TAG + b"??\0\0\0\0\1\0ABCD",
        b"????????????????",
        _TAG
        + b"SQ\0\0"
        + _UNDEFINED
        + _ITEM
        + _UNDEFINED
        + b"no elements at all"
        + _ITEM_END
        + _SEQUENCE_END,
        _TAG + b"SQ\0\0" + _UNDEFINED + _ITEM + _UNDEFINED + _PLAIN + _ITEM_END,
    ],
    ids=["too long", "far too long", "no element", "text for items", "a sequence without end"],
)
def test_what_nothing_bears_out_is_refused(elements: bytes) -> None:
    with pytest.raises(InstanceRejected) as caught:
        parse_file(with_elements(elements))
    assert caught.value.reason is Reason.NOT_DICOM


@pytest.mark.parametrize(
    "name", ["an unknown VR that holds items", "implicit items", "explicit items of VR UN"]
)
def test_an_odd_file_is_read_as_its_steps_arrive(name: str) -> None:
    from backlog.dicom.partial_file import read_until_pixel_data

    file = with_elements(ODD[name])
    steps: Any = (file[at : at + 7] for at in range(0, len(file), 7))
    head = read_until_pixel_data(steps)
    assert parse_file(head).has_pixels
    assert text(read_header(head), "PatientID") == "TEST"
