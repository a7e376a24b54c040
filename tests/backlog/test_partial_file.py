"""A file is walked over in time that grows with its size and no faster, whatever it holds."""

from __future__ import annotations

import struct
from collections.abc import Iterator

import pytest

from backlog.dicom import partial_file
from backlog.dicom.parser import MAX_HEADER, ParsedFile, parse_file
from backlog.dicom.partial_file import read_until_pixel_data
from tests.support.dicom_images import EXPLICIT, chest, dicom

MARK = b"\xe0\x7f\x10\x00"
STEP = 1 << 16


def private(element: int, value: bytes) -> bytes:
    return struct.pack("<HH2sHI", 0x0051, element, b"OB", 0, len(value)) + value


def image_with(extra: bytes) -> bytes:
    """Return an image with private elements before its pixel data."""
    whole = dicom(chest(), EXPLICIT)
    at = whole.find(MARK + b"OW")
    return whole[:at] + extra + whole[at:]


def steps(file: bytes) -> Iterator[bytes]:
    return (file[at : at + STEP] for at in range(0, len(file), STEP))


@pytest.fixture
def walked(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many bytes each walk was given."""
    given: list[int] = []

    def counted(dicom: bytes | memoryview) -> ParsedFile:
        given.append(len(dicom))
        return parse_file(dicom)

    monkeypatch.setattr(partial_file, "parse_file", counted)
    return given


@pytest.mark.parametrize(
    "extra",
    [
        pytest.param(private(0x1001, MARK) + private(0x1002, bytes(8 << 20)), id="one early mark"),
        pytest.param(b"".join(private(0x1001 + k, MARK * 64) for k in range(20_000)), id="marks everywhere"),
        pytest.param(private(0x1001, MARK * (2 << 20)), id="nothing but marks"),
    ],
)
def test_a_mark_before_the_pixel_data_costs_no_walk_a_step(walked: list[int], extra: bytes) -> None:
    """Found: a file of 62 MB within all limits took 109 s of a report worker's CPU."""
    file = image_with(extra)
    start = read_until_pixel_data(steps(file))
    assert parse_file(start).has_pixels
    assert sum(walked) <= 2 * len(file)
    assert len(start) <= 2 * file.rindex(MARK + b"OW") + STEP


def test_a_header_beyond_the_limit_is_read_no_further() -> None:
    file = image_with(
        private(0x1001, MARK) + private(0x1002, bytes(MAX_HEADER)) + private(0x1003, bytes(MAX_HEADER))
    )
    assert len(read_until_pixel_data(steps(file))) < len(file)


def test_an_image_is_read_to_its_pixel_data(walked: list[int]) -> None:
    """The usual one: a single walk."""
    file = dicom(chest(2000, 2000), EXPLICIT)
    assert len(read_until_pixel_data(steps(file))) == STEP
    assert walked == [STEP]
