"""DICOM bytes → the image as the model was trained to see it.

The reference is torchxrayvision 1.5.7: ``utils.read_xray_dcm``, ``XRayCenterCrop``, ``XRayResizer(224)``.
Where it is right this gives the same image; ``docs/pixels.md`` says case by case where it is not, and what
is done instead. Every such departure is a flag.

A change of what the model sees raises ``PREPROCESSING`` in ``backlog/model.py``: new scores need new reports.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from backlog.dicom.file import DicomFile
from backlog.errors import InstanceRejected
from backlog.model import INPUT_SIDE
from backlog.outcomes import Flag, Reason
from worker.pixels.aspect import pixel_aspect
from worker.pixels.attributes import declared
from worker.pixels.decode import decode
from worker.pixels.display import Displayed, displayed
from worker.pixels.greys import greys
from worker.pixels.orientation import Turn, turn_of
from worker.pixels.resize import block_means, centre_crop, resize
from worker.pixels.seen import SeenSquare

#: Between the 1st and the 99th percentile of what the model sees, of 2048: under one grey level of eight
#: bits.
_BLANK: Final = 8.0
#: The same, of a sixteenth of the range.
_LOW_CONTRAST: Final = 128.0
_MARGIN: Final = 4  # pixels of the model's input that its zero border reaches
_SQUARE_LOSS: Final = 1 / 3
#: Where a frontal chest has them, in the model's input.
_MID_HEIGHT: Final = slice(90, 170)
_SPINE: Final = slice(100, 124)
_RIGHT_LUNG: Final = slice(45, 80)
_LEFT_LUNG: Final = slice(144, 179)
_INVERTED_BY: Final = 0.1
_SPINE_SEEN: Final = 0.1


@dataclass(frozen=True)
class ModelInput:
    """One image, ready for the model."""

    image: NDArray[np.float32]  #: (input_side, input_side), in [-1024, 1024], black is low
    flags: frozenset[Flag]
    bits: int  #: the depth that the range was taken from
    square: SeenSquare  #: what of the stored image it shows
    shown: NDArray[np.uint8] | None = None  #: (N, N), the same square in the same window, for people's eyes
    displayed: Displayed | None = None  #: the whole image as a viewer shows it, where it was asked for


def model_input(
    file: DicomFile, side: int = 0, *, input_side: int = INPUT_SIDE, display_side: int = 0
) -> ModelInput:
    """Decode one file of PS3.10.

    Parameters
    ----------
    file
        The whole file.
    side
        Where it isn't 0, the square is returned too as people look at it, with at least so many pixels a
        side and less than twice as many; with its own where it has fewer.
    input_side
        Pixels on a side of what the model sees.
    display_side
        Where it isn't 0, the whole image is returned too, in the contrast in which a viewer shows it, with at least
        so many pixels on its longer side and less than twice as many; with its own where it has fewer.

    Raises
    ------
    InstanceRejected
        ``not_dicom``, ``too_large``, ``too_small``, ``multiframe``, ``no_pixels``, ``undecodable``,
        ``unsupported_pixels``, ``unsupported_transfer_syntax``, ``blank``, ``out_of_memory``.
    """
    try:
        return _model_input(file, side, input_side, display_side)
    except MemoryError:
        raise InstanceRejected(Reason.OUT_OF_MEMORY, "decoding needs more memory than the limit") from None


def _model_input(file: DicomFile, side: int, input_side: int, display_side: int) -> ModelInput:
    header = file.header
    promise, aspect = declared(header), pixel_aspect(header)
    frame = decode(file.parsed, promise)
    grey = greys(frame, header, promise).grey
    flags = set(grey.flags)
    turn = turn_of(header)
    upright = turn.applied(grey.image) if turn.changes else grey.image
    square = centre_crop(upright, turn.aspect(aspect))
    # Flags mean the same whatever the model: they are measured at one size.
    small = resize(square, grey.scale, grey.offset)
    if turn.changes:
        doubtful = turn.transposed and lies_on_its_side(small)
        flags.add(Flag.ORIENTATION_DOUBTFUL if doubtful else Flag.ORIENTATION_CORRECTED)
        if doubtful:
            turn, upright = Turn(), grey.image
            square = centre_crop(upright, aspect)
            small = resize(square, grey.scale, grey.offset)
    image = small if input_side == INPUT_SIDE else resize(square, grey.scale, grey.offset, input_side)
    flags |= _geometry(square.shape, upright.shape, input_side) | _looks(small)
    if aspect != 1:
        flags.add(Flag.PIXEL_ASPECT_CORRECTED)
    shown = _shown(square, grey.scale, grey.offset, side) if side else None
    seen = None
    if display_side:
        turned = replace(grey, image=upright, aspect=turn.aspect(aspect))
        seen = displayed(turned, header, promise, display_side)
    rows, columns = grey.image.shape
    kept = turn.square(rows, columns, aspect)
    return ModelInput(image, frozenset(flags), grey.bits, kept, shown, seen)


def _shown(square: NDArray[Any], scale: float, offset: float, side: int) -> NDArray[np.uint8]:
    """Return the means of small blocks, as grey levels of eight bits."""
    rows, columns = square.shape
    step = max(1, max(rows, columns) // side)
    kept = max(rows, columns) // step
    if rows == columns:
        blocks = square[: kept * step, : kept * step].astype(np.float32).reshape(kept, step, kept, step)
        means = blocks.mean(axis=(1, 3))
    else:
        means = block_means(square, kept, kept)
    seen = scale * means + offset
    return np.asarray(np.clip((seen + 1024.0) / 8.0, 0, 255), np.uint8)


def _geometry(square: tuple[int, ...], image: tuple[int, ...], input_side: int) -> set[Flag]:
    """Compare the sizes of the square, of the image that it is cut of, and of the model's input."""
    flags = set()
    if min(square) < input_side:
        flags.add(Flag.UPSAMPLED)
    if 1 - math.prod(square) / math.prod(image) > _SQUARE_LOSS:
        flags.add(Flag.NON_SQUARE)
    return flags


def _looks(image: NDArray[np.float32]) -> set[Flag]:
    """Measure what the model is about to see.

    Raises
    ------
    InstanceRejected
        ``blank``.
    """
    inner = image[_MARGIN:-_MARGIN, _MARGIN:-_MARGIN]
    darkest, brightest = np.percentile(inner, (1, 99))
    spread = float(brightest - darkest)
    if not math.isfinite(spread) or spread < _BLANK:
        raise InstanceRejected(Reason.BLANK, "no more than one grey")
    flags = set()
    if spread < _LOW_CONTRAST:
        flags.add(Flag.LOW_CONTRAST)
    if looks_inverted(image):
        flags.add(Flag.LOOKS_INVERTED)
    return flags


def lies_on_its_side(image: NDArray[np.float32]) -> bool:
    """Whether a spine between lungs is clearly seen across the image, and not along it.

    Over the test cases the contrast is 0.15 to 0.55 in upright chests, and -0.10 to 0.05 in the same on their sides.
    """
    across = _spine_contrast(image.T)
    return across > _SPINE_SEEN and across - _spine_contrast(image) > _SPINE_SEEN


def looks_inverted(image: NDArray[np.float32]) -> bool:
    """Whether air is white: the lungs are clearly brighter than what stands between them.

    Measured over the cases as shares of the image's range: spine minus lungs is 0.15 (a strip without
    apices) to 0.55, and the opposite when inverted.
    """
    return _spine_contrast(image) < -_INVERTED_BY


def _spine_contrast(image: NDArray[np.float32]) -> float:
    """Return how much brighter the middle is than both sides, as a share of the image's range."""
    darkest, brightest = np.percentile(image, (1, 99))
    profile = image[_MID_HEIGHT].mean(axis=0)
    lungs = (profile[_RIGHT_LUNG].mean() + profile[_LEFT_LUNG].mean()) / 2
    return float((profile[_SPINE].mean() - lungs) / (brightest - darkest))
