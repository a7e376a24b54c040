"""What a worker and its reader process say to each other."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from backlog.errors import InstanceRejected
from backlog.outcomes import Flag
from worker.pixels.seen import SeenSquare

LENGTHS: Final = struct.Struct(">2I")

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True)
class PreprocessedImage:
    """An image as the model sees it."""

    image: NDArray[np.float32]  #: (side, side) of the model, range [-1024, 1024]
    flags: frozenset[Flag]
    sop_instance_uid: str
    study_instance_uid: str
    square: SeenSquare  #: what of the stored image it shows
    shown: NDArray[np.uint8] | None = None  #: (N, N), where it was asked for
    displayed: NDArray[np.uint8] | None = None  #: (rows, columns), the whole image, where it was asked for
    contrast: str = ""  #: of `displayed`: `worker.pixels.display.Contrast`


@dataclass(frozen=True)
class RejectedImage:
    """An image that the model won't see, and why."""

    rejection: InstanceRejected
    sop_instance_uid: str = ""
    study_instance_uid: str = ""
