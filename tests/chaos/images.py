"""A backlog of small radiographs, each with its number written into its pixels as a pattern of squares."""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from backlog.outcomes import Reason
from tests.support.dicom_images import EXPLICIT, JPEG_2000, dicom

#: In a worker's environment: what the ledger calls its engine, and so tells which worker scored an image.
ENGINE = "CHAOS_ENGINE"

#: Squares on a side, and pixels of one.
GRID = 6
CELL = 12
_NUMBER_BITS = 24
_KIND_BITS = 2


class Kind(Enum):
    """What an image does to whoever works on it."""

    SOUND = 0
    KILLER = 1  #: the process that scores it gets a SIGKILL
    GREEDY = 2  #: scoring it raises MemoryError
    BROKEN = 3  #: its compressed pixels can't be decoded

    @property
    def reason(self) -> Reason | None:
        """How it has to end."""
        return {
            Kind.SOUND: None,
            Kind.KILLER: Reason.KILLED_WORKER,
            Kind.GREEDY: Reason.OUT_OF_MEMORY,
            Kind.BROKEN: Reason.UNDECODABLE,
        }[self]


@dataclass(frozen=True)
class Image:
    """One input item."""

    number: int
    kind: Kind

    @property
    def sop_instance_uid(self) -> str:
        return _uid(3, self.number)


def _uid(level: int, number: int) -> str:
    return f"2.25.{level}{number:012d}"


def squares(number: int, kind: Kind) -> NDArray[np.uint16]:
    """Return the picture: a white and a black square, then the bits of kind and number."""
    bits = [
        1,
        0,
        *(kind.value >> i & 1 for i in range(_KIND_BITS)),
        *(number >> i & 1 for i in range(_NUMBER_BITS)),
    ]
    cells = np.zeros(GRID * GRID, np.uint16)
    cells[: len(bits)] = bits
    picture = np.kron(cells.reshape(GRID, GRID), np.ones((CELL, CELL), np.uint16)) * 4000 + 40
    return np.asarray(picture, np.uint16)


def number_in(image: NDArray[np.float32]) -> tuple[int, Kind]:
    """Read a picture as the model sees it, (224, 224), back."""
    side = image.shape[0] / GRID
    middles = [round(side * (i + 0.5)) for i in range(GRID)]
    bits = [int(image[y - 6 : y + 6, x - 6 : x + 6].mean() > 0) for y in middles for x in middles]
    if bits[0] != 1 or bits[1] != 0:
        return 0, Kind.SOUND  # none of our pictures
    values = bits[2:]
    kind = Kind(sum(bit << i for i, bit in enumerate(values[:_KIND_BITS])))
    number = sum(bit << i for i, bit in enumerate(values[_KIND_BITS : _KIND_BITS + _NUMBER_BITS]))
    return number, kind


def scores_for(number: int) -> list[float]:
    """Return the 18 scores that the harness' model gives to an image: others for every number."""
    return [round(0.05 + 0.9 * ((number * 37 + finding * 101) % 9973) / 9973, 7) for finding in range(18)]


def _attributes(number: int) -> dict[str, Any]:
    return {
        "SOPInstanceUID": _uid(3, number),
        "SeriesInstanceUID": _uid(2, number),
        "StudyInstanceUID": _uid(1, number),
        "PatientID": f"CHAOS{number:012d}",
    }


def write_backlog(path: Path, count: int, *, poison: float = 0.0) -> list[Image]:
    """Write a zip of images and return its manifest, in the zip's order.

    Parameters
    ----------
    poison
        The share of images that are poison, spread evenly, the three kinds in turn.
    """
    every = round(1 / poison) if poison else 0
    kinds = (Kind.KILLER, Kind.GREEDY, Kind.BROKEN)
    template = _attributes(0)
    whole = dicom(squares(0, Kind.SOUND), EXPLICIT, **template)
    pixels = squares(0, Kind.SOUND).tobytes()
    assert whole.endswith(pixels)
    sound = whole[: -len(pixels)]
    broken = dicom(squares(0, Kind.BROKEN), JPEG_2000, stream=b"\xff\x4f\xff\x51" + bytes(400), **template)
    images = []
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for number in range(count):
            poisonous = every and number % every == every // 2
            kind = kinds[number // every % 3] if poisonous else Kind.SOUND
            file = broken if kind is Kind.BROKEN else sound + squares(number, kind).tobytes()
            for keyword, value in _attributes(number).items():
                file = file.replace(template[keyword].encode(), value.encode())
            archive.writestr(f"{number:08d}.dcm", file)
            images.append(Image(number, kind))
    return images
