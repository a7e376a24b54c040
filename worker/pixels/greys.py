"""A decoded frame → its greys: what the model is given, before it is turned, cropped and made small.

What scores an image and what compares two files both take this way, so that what is one image here is one to the model.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from pydicom.dataset import Dataset

from backlog.outcomes import Flag
from worker.pixels.attributes import Declared
from worker.pixels.decode import Frame
from worker.pixels.grayscale import Grey, grey_image, polarity, without_colour
from worker.pixels.stored_values import StoredValues, stored_values


@dataclass(frozen=True)
class Greys:
    """The stored values of a frame, and the grey image that they make."""

    stored: StoredValues
    grey: Grey  #: with all flags up to here


def greys(frame: Frame, header: Dataset, declared: Declared) -> Greys:
    """Return the greys of a decoded frame.

    Parameters
    ----------
    frame
        The words, and what the compressed stream says of itself.
    header
        Of the file that the frame comes from.
    declared
        What that header says of its pixels.

    Raises
    ------
    InstanceRejected
        ``unsupported_pixels``: there is colour in it.
    """
    flags = set(frame.flags)
    words = frame.words
    if words.ndim == 3:
        words = without_colour(words)
        flags.add(Flag.GREY_RGB)
    inverted, reasons = polarity(header, declared)
    stored = stored_values(words, header, declared, frame.codestream, inverted=inverted)
    grey = grey_image(stored, header, declared, inverted=inverted)
    return Greys(stored, replace(grey, flags=grey.flags | flags | reasons))
