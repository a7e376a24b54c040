"""What a reason means, in a sentence for a user who finds it in a list."""

from __future__ import annotations

from typing import Final

from backlog.outcomes import Reason
from producer.ledger.rows import ItemRow

MEANINGS: Final[dict[str, str]] = {
    Reason.SYSTEM_FILE.value: "a file of an operating system or of a medium, no image",
    Reason.DOCUMENT_FILE.value: "a text, table or document",
    Reason.IMAGE_FILE.value: "a picture file, no DICOM object",
    Reason.ARCHIVE_FILE.value: "an archive that is not read in place",
    Reason.OTHER_FILE.value: "a program, film, font, array or the like, or an empty file that only marks something",
    Reason.NOT_IMAGE.value: "a DICOM object without an image",
    Reason.OWN_REPORT.value: "written by this system",
    Reason.NOT_RADIOGRAPH.value: "an image of another modality",
    Reason.NOT_CHEST.value: "the header names another part of the body",
    Reason.BODY_PART_UNREADABLE.value: "the header names a part of the body that no list knows",
    Reason.ANIMAL.value: "the header names a species or a breed",
    Reason.LATERAL.value: "a lateral view; the model knows frontal ones",
    Reason.MULTIFRAME.value: "more than one frame",
    Reason.FOR_PROCESSING.value: "raw detector data",
    Reason.DUPLICATE.value: "the same image stands earlier in this run",
    Reason.NOT_DICOM.value: "no DICOM file, or its header can't be read",
    Reason.UNREADABLE.value: "the file can't be read whole: damaged, gone, or not permitted",
    Reason.ENCRYPTED.value: "it needs a password",
    Reason.UNSUPPORTED_COMPRESSION.value: "compressed by a method of zip that is not supported",
    Reason.TOO_LARGE.value: "larger than the limits allow",
    Reason.INVALID_UID.value: "a UID is missing, or can't be written into a report",
    Reason.INVALID_PATIENT_ID.value: "its Patient ID can't be written into a report unchanged",
    Reason.UID_CONFLICT.value: "the PACS holds another image under the same UID",
    Reason.REFUSED.value: "the PACS refused it",
    Reason.PACS_FAILS.value: "the PACS fails on this one, and works for others",
    Reason.NOT_IN_PACS.value: "it was listed, and is not in the PACS any more",
    Reason.NOT_LISTED.value: "the PACS counts more images in its series or study than it lists",
    Reason.NOT_RETRIEVED.value: "the modality fails to send it, and sends others",
    Reason.NOT_DELIVERED.value: "the modality fails to take its report, and takes others",
    Reason.NO_PIXELS.value: "an image without pixels",
    Reason.UNDECODABLE.value: "its pixels can't be decoded",
    Reason.UNSUPPORTED_TRANSFER_SYNTAX.value: "no decoder for its transfer syntax",
    Reason.UNSUPPORTED_PIXELS.value: "a kind of pixels that the model can't see",
    Reason.BLANK.value: "every pixel has the same value, or nearly",
    Reason.TOO_SMALL.value: "fewer pixels than any radiograph has",
    Reason.DECODER_CRASHED.value: "the decoder crashed on it, twice",
    Reason.DECODER_TIMEOUT.value: "decoding took longer than the limit",
    Reason.TOO_SLOW.value: "its header or its report took more computing time than the limit",
    Reason.OUT_OF_MEMORY.value: "it needs more memory than the limit",
    Reason.KILLED_WORKER.value: "its worker crashed on it, twice",
    Reason.INVALID_SCORES.value: "the model gave no number",
    Reason.INVALID_REPORT.value: "its report failed the check before it was stored",
    Reason.REPORT_CONFLICT.value: "the PACS holds another report under the same UID",
    Reason.INTERNAL_ERROR.value: "a bug of this system: see the worker's log",
}


def item_json(item: ItemRow, name: str | None = None) -> dict[str, object]:
    """Return what the ledger says of an item under the names that commands use, with its name where one is given."""
    shown: dict[str, object] = {
        "item": item.no,
        "outcome": item.outcome,
        "reason": item.reason,
        "detail": item.detail,
        "sop_instance_uid": item.sop_instance_uid,
        "study_instance_uid": item.study_instance_uid,
        "sr_sop_instance_uid": item.sr_sop_instance_uid,
        "flags": item.flags.split(),
    }
    return shown if name is None else shown | {"name": name}
