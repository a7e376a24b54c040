"""How an item ends: reported, skipped or quarantined, for a reason from a closed set.

Skipped means that the item is rightly left without a score (a lateral view, a CT). Quarantined means that a
user should look: the item should have been scored and could not be.
"""

from __future__ import annotations

from enum import Enum
from typing import Final


class Outcome(Enum):
    """How an item ends. Every input item ends in exactly one."""

    REPORTED = "reported"
    SKIPPED = "skipped"
    QUARANTINED = "quarantined"


class Reason(Enum):
    """Why an item has no report. Closed, so that reasons can be counted."""

    # skipped: rightly without a score
    SYSTEM_FILE = "system_file"  #: left by an operating system (.DS_Store, Thumbs.db), or a DICOMDIR
    DOCUMENT_FILE = "document_file"  #: a text, table or document beside the images, by name and content
    IMAGE_FILE = "image_file"  #: a PNG, JPEG or other picture file; `--wrap-images` scores PNG and JPEG
    ARCHIVE_FILE = "archive_file"  #: an archive inside the source that is not read in place; unpack it
    OTHER_FILE = "other_file"  #: a program, film, font, array or the like, by name and content; an empty mark
    NOT_IMAGE = "not_image"  #: a DICOM object without an image (SR, presentation state, plan, ...)
    OWN_REPORT = "own_report"  #: written by this system
    NOT_RADIOGRAPH = "not_radiograph"  #: an image of another modality (CT, MR, ...)
    NOT_CHEST = "not_chest"  #: BodyPartExamined names another part
    BODY_PART_UNREADABLE = (
        "body_part_unreadable"  #: BodyPartExamined says what no list knows: taken as another part
    )
    ANIMAL = "animal"  #: species or breed of an animal
    LATERAL = "lateral"  #: the model knows frontal views
    MULTIFRAME = "multiframe"  #: more than one frame
    FOR_PROCESSING = "for_processing"  #: raw detector data (Presentation Intent Type FOR PROCESSING)
    DUPLICATE = "duplicate"  #: the same instance stands earlier in this run

    # quarantined: a user should look
    NOT_DICOM = "not_dicom"  #: no DICOM file, or one whose header can't be read
    UNREADABLE = "unreadable"  #: the file or zip member can't be read whole (damaged, vanished, denied)
    ENCRYPTED = "encrypted"  #: the zip member needs a password
    UNSUPPORTED_COMPRESSION = "unsupported_compression"  #: a zip method other than stored and deflate
    TOO_LARGE = "too_large"  #: declares or holds more than the limits allow
    INVALID_UID = "invalid_uid"  #: a UID is missing or can't be written into a report
    INVALID_PATIENT_ID = (
        "invalid_patient_id"  #: Patient ID can't be written into a report without changing it
    )
    UID_CONFLICT = "uid_conflict"  #: the PACS holds other content under the same SOP Instance UID
    REFUSED = "refused"  #: the PACS refused to store it
    PACS_FAILS = "pacs_fails"  #: the PACS fails whenever it gets or gives this one, and works for others
    NOT_IN_PACS = "not_in_pacs"  #: was listed, but is gone from the PACS
    NOT_LISTED = "not_listed"  #: the PACS counts more images in its series or study than it lists
    NOT_RETRIEVED = "not_retrieved"  #: the modality fails to send it whenever it is asked, and sends others
    NOT_DELIVERED = (
        "not_delivered"  #: the modality fails to take its report whenever it comes, and takes others
    )
    NO_PIXELS = "no_pixels"  #: an image without pixel data
    UNDECODABLE = "undecodable"  #: the pixel data can't be decoded
    UNSUPPORTED_TRANSFER_SYNTAX = "unsupported_transfer_syntax"  #: no decoder for it here
    UNSUPPORTED_PIXELS = "unsupported_pixels"  #: photometric interpretation or layout the model can't see
    BLANK = "blank"  #: every pixel has the same value, or nearly
    TOO_SMALL = "too_small"  #: fewer pixels than any radiograph
    DECODER_CRASHED = "decoder_crashed"  #: the decoder's process died, twice
    DECODER_TIMEOUT = "decoder_timeout"  #: the decoder took longer than the limit
    TOO_SLOW = "too_slow"  #: took more computing time than the limit, outside of the decoder
    OUT_OF_MEMORY = "out_of_memory"  #: needs more memory than the limit
    KILLED_WORKER = "killed_worker"  #: its worker died while it was alone at work on this item, twice
    INVALID_SCORES = "invalid_scores"  #: the model gave no finite number
    INVALID_REPORT = "invalid_report"  #: the report failed its check before it was sent
    REPORT_CONFLICT = "report_conflict"  #: the PACS holds another report under the same UID
    INTERNAL_ERROR = "internal_error"  #: a bug of ours; the worker's log has the trace

    @property
    def outcome(self) -> Outcome:
        """Whether this reason means skipped or quarantined."""
        return Outcome.SKIPPED if self in _SKIPS else Outcome.QUARANTINED


_SKIPS: Final = frozenset(
    {
        Reason.SYSTEM_FILE,
        Reason.DOCUMENT_FILE,
        Reason.IMAGE_FILE,
        Reason.ARCHIVE_FILE,
        Reason.OTHER_FILE,
        Reason.NOT_IMAGE,
        Reason.OWN_REPORT,
        Reason.NOT_RADIOGRAPH,
        Reason.NOT_CHEST,
        Reason.BODY_PART_UNREADABLE,
        Reason.ANIMAL,
        Reason.LATERAL,
        Reason.MULTIFRAME,
        Reason.FOR_PROCESSING,
        Reason.DUPLICATE,
    }
)


class Flag(Enum):
    """What was unusual about a scored image: a departure from the header or from the reference reader."""

    DEPTH_CORRECTED = "depth_corrected"  #: pixel words exceed BitsStored; the depth they use was taken
    OUTLIERS_CLIPPED = "outliers_clipped"  #: a few pixels far beyond all others' depth were set to its end
    OVERSHOOT_CLIPPED = "overshoot_clipped"  #: what lossy coding put beyond the depth was set to its end
    CODESTREAM_DEPTH = "codestream_depth"  #: the compressed stream declares another depth or sign
    LEFT_ALIGNED = "left_aligned"  #: HighBit puts the pixels into the upper bits of their words; shifted down
    OVERLAY_MASKED = "overlay_masked"  #: high bits hold a retired overlay (60xx) and were masked away
    SIGNED = "signed"  #: PixelRepresentation 1
    RESCALED = "rescaled"  #: RescaleSlope/RescaleIntercept are not 1 and 0; only a negative slope shows
    MODALITY_LUT = "modality_lut"  #: a Modality LUT was applied
    MODALITY_LUT_IGNORED = "modality_lut_ignored"  #: a Modality LUT is malformed; stored values taken
    MONOCHROME1_INVERTED = "monochrome1_inverted"  #: inverted, as MONOCHROME1 asks
    PRESENTATION_INVERSE = "presentation_inverse"  #: inverted, as PresentationLUTShape INVERSE asks
    PADDING_REPLACED = "padding_replaced"  #: pixel padding was set to black
    GREY_RGB = "grey_rgb"  #: a grey image stored as colour
    EXCESS_PIXEL_DATA = "excess_pixel_data"  #: PixelData is longer than one frame; the rest was ignored
    BITS_ALLOCATED_CORRECTED = "bits_allocated_corrected"  #: words of 16 bits under BitsAllocated 8 were read
    TRANSFER_SYNTAX_WRONG = (
        "transfer_syntax_wrong"  #: the stream is coded otherwise than declared; the stream was read
    )
    ORIENTATION_CORRECTED = "orientation_corrected"  #: turned or mirrored, as PatientOrientation asks
    ORIENTATION_DOUBTFUL = (
        "orientation_doubtful"  #: PatientOrientation lays it on its side, the pixels do not; as stored
    )
    PIXEL_ASPECT_CORRECTED = (
        "pixel_aspect_corrected"  #: pixels taller than wide, or wider than tall; resized to square ones
    )
    LOOKS_INVERTED = "looks_inverted"  #: measured: the lungs are brighter than what lies between them
    LOW_CONTRAST = "low_contrast"  #: uses under 1/16 of its declared range
    UPSAMPLED = "upsampled"  #: smaller than the model's input
    NON_SQUARE = "non_square"  #: the centre crop loses over a third of the image
    VIEW_UNKNOWN = "view_unknown"  #: no ViewPosition; taken as frontal
    BODY_PART_UNKNOWN = "body_part_unknown"  #: no BodyPartExamined; taken as chest
    BODY_PART_CONTRADICTED = (
        "body_part_contradicted"  #: BodyPartExamined names another part, all descriptions the chest
    )
    LATERAL_ASKED_FOR = "lateral_asked_for"  #: a lateral view, scored because the settings ask for it
    UIDS_MADE = "uids_made"  #: the file came without UIDs; they were made from its content
    IMAGE_FILE_WRAPPED = "image_file_wrapped"  #: a PNG or JPEG file; the DICOM object was made from it
    NONCONFORMANT_UID = "nonconformant_uid"  #: a UID breaks the standard's rules; kept verbatim
    HEADER_REPAIRED = "header_repaired"  #: an invalid attribute was corrected or left out of the report
