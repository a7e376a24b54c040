"""What is made of files that no PACS takes as they are: UIDs from the content, DICOM objects of pictures."""

from __future__ import annotations

import io
import random
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from pydicom import dcmread
from pydicom.dataset import Dataset

from backlog.dicom.eligibility import Rules, flags
from backlog.dicom.file import DicomFile
from backlog.dicom.header import Identity, eligibility_attributes, identity, read_header, screen
from backlog.dicom.values import text
from backlog.errors import BacklogError, InstanceRejected
from backlog.inputs.subject import Subject
from backlog.outcomes import Flag, Reason
from tests.support.dicom_images import (
    BIG,
    DEFLATED,
    EXPLICIT,
    IMPLICIT,
    JPEG_2000_LOSSLESS,
    chest,
    dicom,
    explicit_element,
    jpeg_2000,
    with_elements,
)
from tests.support.model_inputs import model_input
from tests.support.sr_reports import program
from worker.ingest import identifiers
from worker.ingest.secondary_capture import wrapped

RULES = Rules()
DX = "1.2.840.10008.5.1.4.1.1.1.1"
UIDS = ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID")


def with_uids(dicom: bytes) -> bytes:
    return identifiers.with_uids(DicomFile(dicom))


def nameless(words: NDArray[Any] | None = None, syntax: str = EXPLICIT, **attributes: Any) -> bytes:
    """Return a file as some public archives have them: no UIDs and no modality in the data set."""
    stream = jpeg_2000(chest(), 12) if syntax == JPEG_2000_LOSSLESS else None
    gone: dict[str, Any] = dict.fromkeys((*UIDS, "Modality", "PatientID", "BodyPartExamined", "ViewPosition"))
    whole = dicom(chest() if words is None else words, syntax, stream=stream, **attributes)
    read = dcmread(io.BytesIO(whole))
    for keyword in gone:
        if keyword in read and keyword not in attributes:
            delattr(read, keyword)
    written = io.BytesIO()
    read.save_as(written)
    return written.getvalue()


# -- UIDs ------------------------------------------------------------------------------------------------------


def test_a_file_without_uids_and_modality_is_not_skipped() -> None:
    found = screen(read_header(nameless()), RULES)
    assert found.identity is None
    assert found.rejection is not None
    assert found.rejection.reason is Reason.INVALID_UID
    assert found.attributes.sop_class_uid == DX  # of the file meta information


@pytest.mark.parametrize("syntax", [EXPLICIT, IMPLICIT, BIG, DEFLATED, JPEG_2000_LOSSLESS])
def test_made_uids_follow_from_the_content_and_change_no_more(syntax: str) -> None:
    file = nameless(syntax=syntax)
    made = with_uids(file)
    assert made == with_uids(file)
    header = read_header(made)
    found = screen(header, RULES)
    assert found.rejection is None
    assert found.identity is not None
    assert len({found.identity.study_instance_uid, found.identity.series_instance_uid}) == 2
    assert found.identity.sop_class_uid == DX
    assert Flag.UIDS_MADE in flags(found.attributes, RULES)
    before, after = dcmread(io.BytesIO(file)), dcmread(io.BytesIO(made))
    assert after.file_meta.MediaStorageSOPInstanceUID == after.SOPInstanceUID
    for keyword in (*UIDS, "ContributingEquipmentSequence"):
        delattr(after, keyword)
    assert after == before
    other = with_uids(nameless(chest()[::-1].copy(), syntax if syntax != JPEG_2000_LOSSLESS else EXPLICIT))
    assert identity(read_header(other)).study_instance_uid != found.identity.study_instance_uid


def test_only_what_is_missing_is_made() -> None:
    file = nameless(StudyInstanceUID="1.2.3", SeriesInstanceUID="1.2.3.4")
    made = identity(read_header(with_uids(file)))
    assert (made.study_instance_uid, made.series_instance_uid) == ("1.2.3", "1.2.3.4")
    # What is no UID but names one study stays one study.
    one, two = (
        identity(read_header(with_uids(_with_study(nameless(words), b"STUDY 7 "))))
        for words in (None, chest().T.copy())
    )
    assert one.study_instance_uid == two.study_instance_uid != made.study_instance_uid
    assert one.sop_instance_uid != two.sop_instance_uid


@pytest.mark.parametrize("word", [b"ANONYMIZED", b"0 ", b"REMOVED "])
def test_a_word_in_place_of_a_uid_joins_no_two_patients(word: bytes) -> None:
    def made(patient: str, study: bytes = word) -> Identity:
        file = _with_study(nameless(PatientID=patient), study)
        series = explicit_element(0x0020000E, b"UI", word)
        return identity(read_header(with_uids(with_elements(file, series, b"\x28\0\x02\0"))))

    one, two = made("PATIENT-A"), made("PATIENT-B")
    assert one.study_instance_uid != two.study_instance_uid
    assert one.series_instance_uid != two.series_instance_uid
    assert made("PATIENT-A", b"STUDY 7 ").series_instance_uid != one.series_instance_uid
    assert made("PATIENT-A").series_instance_uid == one.series_instance_uid


def _with_study(file: bytes, value: bytes) -> bytes:
    return with_elements(file, explicit_element(0x0020000D, b"UI", value), b"\x28\0\x02\0")


def test_a_file_of_pixel_data_alone_gets_uids_too() -> None:
    file = nameless()
    start = file.index(b"\xe0\x7f\x10\0")
    only = with_uids(file[: 132 + 12 + _meta_length(file)] + file[start:])
    assert screen(read_header(only), RULES).identity is not None


def _meta_length(file: bytes) -> int:
    return int.from_bytes(file[140:144], "little")


def test_group_lengths_of_what_was_edited_are_dropped() -> None:
    length = explicit_element(0x00200000, b"UL", struct.pack("<I", 8))
    file = with_elements(nameless(), length, b"\x28\0\x02\0")
    made = read_header(with_uids(file))
    assert (0x0020, 0x0000) not in made
    assert screen(made, RULES).identity is not None


@pytest.mark.parametrize("undefined", [True, False])
def test_equipment_that_is_named_already_is_kept(undefined: bool) -> None:
    item = Dataset()
    item.Manufacturer = "ANOTHER"
    read = dcmread(io.BytesIO(nameless()))
    read.ContributingEquipmentSequence = [item]
    read["ContributingEquipmentSequence"].is_undefined_length = undefined
    written = io.BytesIO()
    read.save_as(written)
    made = dcmread(io.BytesIO(with_uids(written.getvalue())))
    assert [one.Manufacturer for one in made.ContributingEquipmentSequence] == ["ANOTHER", "cxr-backlog"]


def test_damaged_files_get_uids_or_a_reason() -> None:
    """Whatever stands in a file, it ends as a file with an identity or in a rejection, never in a bug."""
    rolls = random.Random(7)
    file = nameless(chest(64, 64), ContributingEquipmentSequence=[])
    for _ in range(400):
        changed = bytearray(file[: 132 + 700])
        for _ in range(rolls.randint(1, 6)):
            changed[rolls.randrange(132, len(changed))] = rolls.randrange(256)
        try:
            read_header(with_uids(bytes(changed) + file[832:]))
        except BacklogError as error:
            assert isinstance(error, InstanceRejected)


# -- pictures ----------------------------------------------------------------------------------------------------


def saved(image: Image.Image, kind: str, **options: Any) -> bytes:
    written = io.BytesIO()
    image.save(written, kind, **options)
    return written.getvalue()


GREY = Image.fromarray((chest(300, 280) >> 4).astype(np.uint8))
PICTURES = {
    "png 8": saved(GREY, "PNG"),
    "png 16": saved(Image.fromarray((chest(300, 280).astype(np.uint32) * 16 + 5).astype(np.uint16)), "PNG"),
    "png rgb": saved(GREY.convert("RGB"), "PNG"),
    "png rgba": saved(GREY.convert("RGBA"), "PNG"),
    "png la": saved(GREY.convert("LA"), "PNG"),
    "png palette": saved(GREY.convert("RGB").convert("P", palette=Image.Palette.ADAPTIVE), "PNG"),
    "png odd": saved(GREY.crop((0, 0, 277, 299)), "PNG"),
    "jpeg": saved(GREY, "JPEG", quality=90),
    "jpeg odd": saved(GREY.crop((0, 0, 277, 299)), "JPEG", quality=40),
    "jpeg progressive": saved(GREY, "JPEG", progressive=True),
    "jpeg rgb": saved(GREY.convert("RGB"), "JPEG", quality=95, subsampling=0),
    "jpeg turned": saved(
        GREY, "JPEG", exif=b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", PICTURES)
def test_a_picture_has_the_pixels_that_the_reference_reads(kind: str, tmp_path: Path) -> None:
    import skimage.io
    import torchxrayvision as xrv

    path = tmp_path / f"picture.{kind.split()[0]}"
    path.write_bytes(PICTURES[kind])
    made = wrapped(PICTURES[kind], Subject())
    assert made == wrapped(PICTURES[kind], Subject())
    read = skimage.io.imread(path)
    expected = read[:, :, 0] if read.ndim == 3 else read
    assert np.array_equal(dcmread(io.BytesIO(made)).pixel_array, expected)
    # And to the model, the same image as the reference makes of the file.
    maximum = 65535 if kind == "png 16" else 255
    reference = xrv.utils.normalize(expected, maximum)[None]
    reference = xrv.datasets.XRayResizer(224)(xrv.datasets.XRayCenterCrop()(reference))
    assert np.abs(model_input(made).image - reference).max() < 0.05  # of 2048


def test_a_wrapped_picture_is_eligible_and_flagged() -> None:
    found = screen(read_header(wrapped(PICTURES["jpeg"], Subject("7", "1", "PA", "", "nih"))), RULES)
    assert found.rejection is None
    assert Flag.IMAGE_FILE_WRAPPED in flags(found.attributes, RULES)
    assert found.identity is not None
    assert found.identity.patient_id == "7"
    lateral = screen(read_header(wrapped(PICTURES["jpeg"], Subject("7", "1", "LATERAL"))), RULES)
    assert lateral.rejection is not None
    assert lateral.rejection.reason is Reason.LATERAL
    hand = screen(read_header(wrapped(PICTURES["jpeg"], Subject("7", "1", "", "HAND"))), RULES)
    assert hand.rejection is not None
    assert hand.rejection.reason is Reason.NOT_CHEST


def test_pictures_share_a_study_only_within_one_archive() -> None:
    def of(picture: str, subject: Subject) -> Any:
        return identity(read_header(wrapped(PICTURES[picture], subject)))

    one, two = of("png 8", Subject("1", "2", archive="a")), of("jpeg", Subject("1", "2", archive="a"))
    assert one.study_instance_uid == two.study_instance_uid
    assert one.series_instance_uid != two.series_instance_uid
    assert of("png 8", Subject("1", "2", archive="b")).study_instance_uid != one.study_instance_uid
    unknown = of("png 8", Subject()), of("jpeg", Subject())
    assert unknown[0].patient_id != unknown[1].patient_id
    assert unknown[0].study_instance_uid != unknown[1].study_instance_uid


def test_a_patient_id_beyond_ascii_is_kept() -> None:
    header = read_header(wrapped(PICTURES["png 8"], Subject("Größe-7", "ç")))
    assert identity(header).patient_id == "Größe-7"
    assert text(header, "SpecificCharacterSet") == "ISO_IR 192"


@pytest.mark.parametrize(
    ("made", "reason"),
    [
        (lambda: b"\x89PNG\r\n\x1a\n" + bytes(40), Reason.UNDECODABLE),
        (lambda: PICTURES["png 8"][:3000], Reason.UNDECODABLE),
        (lambda: PICTURES["jpeg progressive"][:3000], Reason.UNDECODABLE),
        (
            lambda: saved(
                Image.effect_noise((200, 200), 90).convert("RGB").convert("HSV").convert("RGB"), "PNG"
            ),
            None,
        ),
        (lambda: saved(Image.radial_gradient("L"), "PNG"), None),
        (
            lambda: saved(Image.merge("RGB", (GREY, GREY.rotate(90).resize(GREY.size), GREY)), "PNG"),
            Reason.UNSUPPORTED_PIXELS,
        ),
        (lambda: saved(Image.new("L", (9000, 9000)), "PNG"), Reason.TOO_LARGE),
        (lambda: saved(Image.new("1", (20_000, 20_000)), "PNG"), Reason.TOO_LARGE),
    ],
)
def test_what_is_no_grey_picture_ends_with_a_reason(made: Callable[[], bytes], reason: Reason | None) -> None:
    """Made here, not where the tests are collected: each process would compress the largest of them."""
    picture = made()
    if reason is None:
        assert wrapped(picture, Subject())
        return
    with pytest.raises(InstanceRejected) as caught:
        wrapped(picture, Subject())
    assert caught.value.reason is reason


@pytest.mark.parametrize("patient", ["a\\b", "x" * 65, "\x01"])
def test_a_patient_id_that_dicom_cannot_hold_is_refused(patient: str) -> None:
    with pytest.raises(InstanceRejected) as caught:
        wrapped(PICTURES["png 8"], Subject(patient))
    assert caught.value.reason is Reason.INVALID_PATIENT_ID


def test_a_wrapped_picture_is_a_conformant_secondary_capture(tmp_path: Path) -> None:
    for kind, picture in PICTURES.items():
        path = tmp_path / "made.dcm"
        path.write_bytes(wrapped(picture, Subject("7", "1", "PA")))
        said = subprocess.run(
            [program("dciodvfy"), str(path)], capture_output=True, text=True, timeout=60
        ).stderr
        assert not [line for line in said.splitlines() if line.startswith("Error")], (kind, said)


def test_attributes_of_a_made_object_are_read_back() -> None:
    known = eligibility_attributes(read_header(wrapped(PICTURES["png 8"], Subject("7", "1", "AP", "CHEST"))))
    assert (known.view_position, known.body_part_examined, known.modality) == ("AP", "CHEST", "DX")
