"""What a header says of its pixels (PS3.3 C.7.6.3), checked before anything is allocated for them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from pydicom.dataset import Dataset

from backlog.dicom.eligibility_attributes import frame_count
from backlog.dicom.values import number, text
from backlog.errors import InstanceRejected
from backlog.outcomes import Reason

#: Pixels times samples: 8192 by 8192. A chest radiograph has 4 to 20 million, a scanned film up to 50.
MAX_SAMPLES: Final = 1 << 26
#: The shorter side. Nothing smaller shows a chest; the model's input is 224.
MIN_SIDE: Final = 64

GREY: Final = frozenset({"MONOCHROME1", "MONOCHROME2"})
#: Colour models in which grey can be told from colour without a table.
COLOUR: Final = frozenset({"RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT"})


@dataclass(frozen=True)
class Declared:
    """The Image Pixel attributes, consistent with each other."""

    rows: int
    columns: int
    samples: int
    planar: bool  #: colour by plane
    bits_allocated: int  #: 8 or 16
    bits_stored: int
    high_bit: int
    signed: bool
    photometric_interpretation: str
    lossy: bool | None = (
        None  #: Lossy Image Compression: whether it ever was; None where the header is silent
    )

    @property
    def bytes_expected(self) -> int:
        """Length of one uncompressed frame."""
        return self.rows * self.columns * self.samples * self.bits_allocated // 8


def declared(header: Dataset) -> Declared:
    """Return what a header says of its pixels.

    Raises
    ------
    InstanceRejected
        ``multiframe``; ``too_large`` and ``too_small`` by the limits above; ``unsupported_pixels`` when an
        attribute is missing, contradicts another, or asks for what no radiograph is stored as.
    """
    if frame_count(text(header, "NumberOfFrames")) > 1:
        raise InstanceRejected(Reason.MULTIFRAME, "more than one frame")
    rows, columns = _required(header, "Rows"), _required(header, "Columns")
    samples = number(header, "SamplesPerPixel")
    samples = 1 if samples is None else samples
    if rows * columns * samples > MAX_SAMPLES:
        raise InstanceRejected(Reason.TOO_LARGE, f"declares over {MAX_SAMPLES} samples")
    if min(rows, columns) < MIN_SIDE:
        raise InstanceRejected(Reason.TOO_SMALL, f"a side of under {MIN_SIDE} pixels")
    photometric_interpretation = text(header, "PhotometricInterpretation").upper()
    if not (
        (samples == 1 and photometric_interpretation in GREY)
        or (samples == 3 and photometric_interpretation in COLOUR)
    ):
        raise _unsupported("PhotometricInterpretation and SamplesPerPixel")
    bits_allocated, bits_stored = _required(header, "BitsAllocated"), _required(header, "BitsStored")
    if bits_allocated not in (8, 16) or (samples == 3 and bits_allocated != 8):
        raise _unsupported("BitsAllocated")
    if not 1 <= bits_stored <= bits_allocated:
        raise _unsupported("BitsStored")
    high_bit = number(header, "HighBit")
    if high_bit is None or not bits_stored - 1 <= high_bit < bits_allocated:
        high_bit = bits_stored - 1
    return Declared(
        rows=rows,
        columns=columns,
        samples=samples,
        planar=number(header, "PlanarConfiguration") == 1,
        bits_allocated=bits_allocated,
        bits_stored=bits_stored,
        high_bit=high_bit,
        signed=number(header, "PixelRepresentation") == 1,
        photometric_interpretation=photometric_interpretation,
        lossy={"00": False, "01": True}.get(text(header, "LossyImageCompression")),
    )


def _required(header: Dataset, keyword: str) -> int:
    value = number(header, keyword)
    if value is None:
        raise _unsupported(keyword)
    return value


def _unsupported(what: str) -> InstanceRejected:
    return InstanceRejected(
        Reason.UNSUPPORTED_PIXELS, f"{what} missing, contradictory or of another kind of image"
    )
