"""Hostile files: each ends in one of the three outcomes, within 10 s and 2 GB, whatever it declares."""

from __future__ import annotations

import json
import os
import select
import signal
import struct
import subprocess
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from backlog.dicom.header import eligibility_attributes, read_header
from backlog.dicom.parser import MAX_DEPTH, parse_file
from backlog.dicom.values import raw_bytes
from backlog.errors import InstanceRejected
from backlog.outcomes import Reason
from tests.support import dicom_images as made
from tests.support.cases import Case, listed, needs_data
from tests.support.dicom_images import chest, dicom, explicit_element
from tests.support.hostile_child import ended

SECONDS = 10
_PIXEL_DATA = b"\xe0\x7f\x10\x00"


class Children:
    """Processes with the limits, one for each file. A context."""

    def __init__(self) -> None:
        self.process = self._started()

    @staticmethod
    def _started() -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.hostile_child"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parents[2],
            env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
            start_new_session=True,
        )
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        return process

    def ended(self, path: Path) -> dict[str, Any]:
        """Return how a file ends."""
        requests, answers = self.process.stdin, self.process.stdout
        assert requests is not None
        assert answers is not None
        requests.write(f"{path}\n")
        requests.flush()
        if not select.select([answers], [], [], SECONDS)[0]:
            self.stop()
            self.process = self._started()
            pytest.fail(f"no answer within {SECONDS} s")
        answer: dict[str, Any] = json.loads(answers.readline())
        assert "status" not in answer, answer
        return answer

    def stop(self) -> None:
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.communicate()


@pytest.fixture(scope="module")
def children() -> Iterator[Children]:
    made = Children()
    yield made
    made.stop()


@needs_data
@pytest.mark.parametrize("item", listed("hostile"), ids=lambda item: item.name)
def test_every_hostile_file_has_an_outcome(children: Children, item: Case) -> None:
    answer = children.ended(item.path)
    assert answer["outcome"] in ("reported", "skipped", "quarantined")
    if item.name.startswith(("pwn", "pydicom")):
        assert answer["outcome"] != "reported"


def with_meta(uid: str, body: bytes) -> bytes:
    """Return a file of a transfer syntax and a data set given as bytes."""
    value = uid.encode() + b"\0" * (len(uid) % 2)
    return b"\0" * 128 + b"DICM" + explicit_element(0x00020010, b"UI", value) + body


def deflated(body: bytes) -> bytes:
    """Return a data set as the deflated transfer syntax has it."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    return packer.compress(body) + packer.flush()


def deflate_bomb() -> bytes:
    """Return 600 MB of one private element in under a megabyte."""
    packer = zlib.compressobj(1, zlib.DEFLATED, -zlib.MAX_WBITS)
    length = 600 << 20
    head = struct.pack("<HH2sHI", 0x0009, 0x1001, b"OB", 0, length)
    parts = [packer.compress(head)]
    parts += [packer.compress(b"\0" * (1 << 20)) for _ in range(600)]
    return with_meta(made.DEFLATED, b"".join([*parts, packer.flush()]))


def nested(depth: int, *, defined: bool = False, private: bool = False) -> bytes:
    """Return a chest image with sequences in sequences in front of its pixels."""
    tag, vr = (0x00091010, b"UN") if private else (0x00081140, b"SQ")
    inner = b""
    if defined:
        for _ in range(depth):
            item = struct.pack("<HHI", 0xFFFE, 0xE000, len(inner)) + inner
            inner = explicit_element(tag, vr, item)
        return made.with_elements(dicom(chest()), inner, _PIXEL_DATA)
    item = b"\xfe\xff\x00\xe0\xff\xff\xff\xff"
    number = struct.pack("<HH", tag >> 16, tag & 0xFFFF)
    opening = number + vr + b"\0\0\xff\xff\xff\xff" + item
    # Inside a sequence of VR UN everything is implicit (PS3.5 6.2.2).
    inside = number + b"\xff\xff\xff\xff" + item if private else opening
    closing = b"\xfe\xff\x0d\xe0\0\0\0\0\xfe\xff\xdd\xe0\0\0\0\0"
    return made.with_elements(dicom(chest()), opening + inside * (depth - 1) + closing * depth, _PIXEL_DATA)


def nested_in_an_item(depth: int) -> bytes:
    """Return the same in an item that tells its length, in a sequence that does not."""
    inner = b""
    for _ in range(depth - 1):
        inner = explicit_element(0x00081140, b"SQ", struct.pack("<HHI", 0xFFFE, 0xE000, len(inner)) + inner)
    item = struct.pack("<HHI", 0xFFFE, 0xE000, len(inner)) + inner
    return chest_after(b"\x08\x00\x40\x11SQ\0\0\xff\xff\xff\xff" + item + b"\xfe\xff\xdd\xe0\0\0\0\0")


def nested_in_unknown(depth: int) -> bytes:
    """Return the same in a sequence of VR UN, inside one that tells its length."""
    item, number = b"\xfe\xff\x00\xe0\xff\xff\xff\xff", b"\x09\x00\x10\x10"
    inner = number + b"UN\0\0\xff\xff\xff\xff" + item + (number + b"\xff\xff\xff\xff" + item) * (depth - 2)
    inner += b"\xfe\xff\x0d\xe0\0\0\0\0\xfe\xff\xdd\xe0\0\0\0\0" * (depth - 1)
    return chest_after(
        explicit_element(0x00081140, b"SQ", struct.pack("<HHI", 0xFFFE, 0xE000, len(inner)) + inner)
    )


def j2k_claiming(rows: int, columns: int, components: int = 1) -> bytes:
    """Return a small JPEG 2000 stream that claims to be large."""
    stream = bytearray(made.jpeg_2000(chest(), 12))
    struct.pack_into(">2I", stream, 8, columns, rows)
    struct.pack_into(">2I", stream, 24, columns, rows)  # and one tile of it all
    struct.pack_into(">H", stream, 40, components)
    return bytes(stream)


def jls_claiming(rows: int, columns: int) -> bytes:
    """Return a small JPEG-LS stream that claims to be large."""
    stream = bytearray(made.jpeg_ls(chest(), 12))
    at = stream.index(b"\xff\xf7")
    struct.pack_into(">2H", stream, at + 5, rows, columns)
    return bytes(stream)


def rle_bomb(side: int) -> bytes:
    """Return RLE segments of nothing but the longest runs, in an image as large as is let through."""
    segment = b"\x81\x00" * (side * side)
    lengths = struct.pack("<16I", 2, 64, 64 + len(segment), *[0] * 13)
    return dicom(chest(), made.RLE, stream=lengths + segment * 2, Rows=side, Columns=side)


def chest_with(old: bytes, new: bytes) -> bytes:
    """Return a chest image in which some bytes are others."""
    file = dicom(chest())
    assert old in file
    return file.replace(old, new)


def chest_after(elements: bytes) -> bytes:
    """Return a chest image with raw elements in front of its pixels."""
    return made.with_elements(dicom(chest()), elements, _PIXEL_DATA)


def of_size(side: int, syntax: str, stream: bytes) -> bytes:
    """Return a file whose header claims a size for a compressed stream."""
    return dicom(chest(), syntax, stream=stream, Rows=side, Columns=side)


_FOUR_GB = b"\xfe\xff\xff\xff"
_MODALITY = b"\x08\x00\x60\x00"
_META = b"\0" * 128 + b"DICM\x02\x00\x10\x00OB\0\0\xff\xff\xff\xff1.2"

#: What is made, and how it may end.
BOMBS: dict[str, tuple[Any, set[str]]] = {
    "65535 x 65535": (lambda: dicom(chest(), Rows=65535, Columns=65535), {"too_large"}),
    "8192 x 8192 of nothing": (lambda: dicom(chest(), Rows=8192, Columns=8192), {"undecodable"}),
    "a million frames": (lambda: dicom(chest(), NumberOfFrames=1_000_000), {"multiframe"}),
    "4 GB of an element": (
        lambda: chest_with(_MODALITY + b"CS\x02\x00", _MODALITY + b"OB\0\0" + _FOUR_GB),
        {"not_dicom"},
    ),
    "4 GB of pixel data": (
        lambda: chest_with(_PIXEL_DATA + b"OW\0\0\x00\x00\x02\x00", _PIXEL_DATA + b"OW\0\0" + _FOUR_GB),
        {"undecodable"},
    ),
    "4 GB of file meta": (lambda: _META, {"not_dicom"}),
    "deflate bomb": (deflate_bomb, {"too_large"}),
    "sequences 300 deep": (lambda: nested(300), {"not_dicom"}),
    "sequences 50000 deep": (lambda: nested(50_000), {"not_dicom"}),
    "unknown sequences 300 deep": (lambda: nested(300, private=True), {"not_dicom"}),
    "sequences of defined length 300 deep": (lambda: nested(300, defined=True), {"not_dicom"}),
    "sequences 300 deep in an item of defined length": (lambda: nested_in_an_item(300), {"not_dicom"}),
    "unknown sequences 300 deep in one of defined length": (lambda: nested_in_unknown(300), {"not_dicom"}),
    "a million elements": (lambda: chest_after(b"\x09\x00\x10\x10LO\0\0" * 1_000_000), {"too_large"}),
    "a header of 80 MB": (
        lambda: chest_after(explicit_element(0x00091010, b"OB", b"\0" * (80 << 20))),
        {"too_large"},
    ),
    "JPEG 2000 of 4 gigapixels": (
        lambda: of_size(256, made.JPEG_2000_LOSSLESS, j2k_claiming(65535, 65535)),
        {"undecodable"},
    ),
    "JPEG 2000 of 64 megapixels": (
        lambda: of_size(8192, made.JPEG_2000_LOSSLESS, j2k_claiming(8192, 8192)),
        {"undecodable"},
    ),
    "JPEG 2000 of 16384 components": (
        lambda: of_size(256, made.JPEG_2000_LOSSLESS, j2k_claiming(256, 256, 16384)),
        {"undecodable"},
    ),
    "JPEG-LS of 64 megapixels": (
        lambda: of_size(8192, made.JPEG_LS, jls_claiming(8192, 8192)),
        {"undecodable"},
    ),
    "RLE bomb": (lambda: rle_bomb(2048), {"undecodable"}),
    "a UID that climbs": (lambda: dicom(chest(), SOPInstanceUID="../../../etc/passwd"), {"invalid_uid"}),
    "control characters": (
        lambda: dicom(chest(), PatientName="\x1b]0;x\x07\r\n\0", PatientID="\x00\x1b[2J"),
        {"reported"},
    ),
    "SQL and markup": (
        lambda: dicom(chest(), PatientName="'; DROP TABLE items;--", StudyDescription="<script>"),
        {"reported"},
    ),
}


@pytest.mark.parametrize("name", BOMBS)
def test_every_bomb_is_disarmed(children: Children, name: str, tmp_path: Path) -> None:
    make, expected = BOMBS[name]
    path = tmp_path / "bomb.dcm"
    path.write_bytes(make())
    answer = children.ended(path)
    assert answer.get("reason", answer["outcome"]) in expected


def test_sequences_within_the_standard_are_read() -> None:
    assert ended(nested(MAX_DEPTH // 2))["outcome"] == "reported"
    assert ended(nested(6, private=True))["outcome"] == "reported"
    assert ended(nested_in_an_item(6))["outcome"] == "reported"
    assert ended(nested_in_unknown(6))["outcome"] == "reported"


@pytest.mark.parametrize("vr", [b"US", b"LO", b"FD", b"UN", b"SQ"])
@pytest.mark.parametrize("tag", [0x00082218, 0x00283000, 0x00540220])
def test_a_sequence_that_is_none_has_no_items(tag: int, vr: bytes) -> None:
    file = chest_after(explicit_element(tag, vr, b"\1\2" * 8))
    answer = ended(file)
    assert answer["outcome"] == "reported"
    assert ("modality_lut_ignored" in str(answer["flags"])) == (tag == 0x00283000)


#: What makes pydicom give up on a file: nulls in a character set, or one of another value representation.
CHARSETS = {
    "control bytes": explicit_element(0x00080005, b"CS", b"\0\1"),
    "a null between": explicit_element(0x00080005, b"CS", b"ISO_IR\x00100\\x"),
    "a number": explicit_element(0x00080005, b"FD", b"\0" * 8),
    "half a number": explicit_element(0x00080005, b"FD", b"\0\1"),
}


@pytest.mark.parametrize("syntax", [made.EXPLICIT, made.DEFLATED])
@pytest.mark.parametrize("name", CHARSETS)
def test_a_character_set_costs_no_image(name: str, syntax: str) -> None:
    """Wherever it stands: the image is scored, and the report's header decides what its text is worth."""
    charset = CHARSETS[name]
    plain = dicom(chest(), made.EXPLICIT)
    first = plain.index(b"\x08\x00\x16\x00UI")
    items = struct.pack("<HHI", 0xFFFE, 0xE000, len(charset)) + charset
    endless = b"\x08\x00\x40\x11SQ\0\0\xff\xff\xff\xff" + items + b"\xfe\xff\xdd\xe0\0\0\0\0"
    code = explicit_element(0x00080100, b"SH", b"R-10206 ")
    defined = struct.pack("<HHI", 0xFFFE, 0xE000, len(charset + code)) + charset + code
    changed = plain[:first] + charset + plain[first:]
    changed = made.with_elements(changed, endless + explicit_element(0x00540220, b"SQ", defined), _PIXEL_DATA)
    if syntax == made.DEFLATED:
        changed = with_meta(made.DEFLATED, deflated(changed[first:]))
    assert ended(changed)["outcome"] == "reported"
    header = read_header(changed)
    assert raw_bytes(header, "SpecificCharacterSet").value == charset[8:]
    assert eligibility_attributes(header).view_codes == ("R-10206",)


def test_no_message_quotes_a_value(
    caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    secret = "SECRET^NAME"
    keywords = (
        "SpecificCharacterSet",
        "SOPInstanceUID",
        "Modality",
        "PhotometricInterpretation",
        "PatientAge",
    )
    said: list[dict[str, Any]] = [{keyword: secret} for keyword in keywords]
    files = [dicom(chest(), **attributes) for attributes in said]
    slope = explicit_element(0x00281053, b"DS", b"SECRET^NAME ")
    files.append(made.with_elements(dicom(chest()), slope, _PIXEL_DATA))
    caplog.clear()
    answers = [ended(file) for file in files]
    captured = capsys.readouterr()
    assert secret not in json.dumps(answers) + caplog.text + captured.out + captured.err


FILES = [
    dicom(chest(64, 64)),
    dicom(chest(64, 64), made.IMPLICIT),
    dicom(chest(64, 64), made.BIG),
    dicom(chest(64, 64), made.DEFLATED),
    dicom(chest(64, 64), made.RLE, stream=made.rle(chest(64, 64))),
    dicom(chest(64, 64), made.JPEG_LS, stream=made.jpeg_ls(chest(64, 64), 12)),
    dicom(chest(64, 64), made.JPEG_2000_LOSSLESS, stream=made.jpeg_2000(chest(64, 64), 12)),
    nested(5),
]


@settings(max_examples=150)
@given(
    which=st.integers(0, len(FILES) - 1),
    changes=st.lists(st.tuples(st.floats(0, 1), st.binary(min_size=1, max_size=6)), max_size=4),
    kept=st.floats(0.01, 1),
)
@example(which=0, changes=[], kept=1.0)
def test_any_damage_ends_in_an_outcome(which: int, changes: list[tuple[float, bytes]], kept: float) -> None:
    file = bytearray(FILES[which])
    header = min(len(file), 1200)
    for place, bytes_there in changes:
        at = int(place * (header - len(bytes_there)))
        file[at : at + len(bytes_there)] = bytes_there
    answer = ended(bytes(file[: int(kept * len(file))]))
    assert answer["outcome"] in ("reported", "skipped", "quarantined")


@settings(max_examples=200)
@given(
    body=st.binary(max_size=300), uid=st.sampled_from([made.EXPLICIT, made.IMPLICIT, made.BIG, made.DEFLATED])
)
def test_any_bytes_are_surveyed_or_refused(body: bytes, uid: str) -> None:
    file = with_meta(uid, deflated(body) if uid == made.DEFLATED else body)
    try:
        layout = parse_file(file)
    except InstanceRejected as rejected:
        assert rejected.reason in (Reason.NOT_DICOM, Reason.TOO_LARGE)
    else:
        assert 0 <= layout.header_end <= len(layout.body)


@settings(max_examples=40)
@given(
    bits=st.integers(8, 16),
    signed=st.booleans(),
    inverted=st.booleans(),
    shape=st.tuples(st.integers(64, 200), st.integers(64, 200)),
    seed=st.integers(0, 99),
)
def test_a_sound_image_of_any_kind_fills_the_range_as_it_should(
    bits: int, signed: bool, inverted: bool, shape: tuple[int, int], seed: int
) -> None:
    half = 1 << (bits - 1) if signed else 0
    words = np.random.default_rng(seed).integers(0, 1 << bits, shape)
    words[0, 0], words[-1, -1] = 0, (1 << bits) - 1
    file = dicom(
        (words - half).astype(np.uint16),
        BitsStored=bits,
        PixelRepresentation=int(signed),
        PhotometricInterpretation="MONOCHROME1" if inverted else "MONOCHROME2",
    )
    from tests.support.model_inputs import model_input
    from worker.pixels.resize import centre_crop, resize

    seen = model_input(file)
    most = (1 << bits) - 1
    expected = resize(centre_crop(most - words if inverted else words), 2048 / most, -1024.0)
    assert seen.bits == bits
    np.testing.assert_allclose(seen.image, expected, atol=1e-3)


def test_reading_a_cut_header_is_refused_and_a_cut_image_is_not() -> None:
    file = dicom(chest())
    at = file.rindex(_PIXEL_DATA)
    read_header(file[: at + 100])
    with pytest.raises(InstanceRejected):
        read_header(file[: at - 3])
