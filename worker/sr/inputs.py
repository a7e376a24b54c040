"""What a report is made from, besides the image's header and its scores."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from backlog.model import OPERATING_POINT
from backlog.report_uids import IOD

#: SOP Class UID and name of each document that can hold a TID 1500 report (PS3.4 annex B.5).
SOP_CLASSES: Final = {
    "comprehensive3d": "1.2.840.10008.5.1.4.1.1.88.34",
    "comprehensive": "1.2.840.10008.5.1.4.1.1.88.33",
    "enhanced": "1.2.840.10008.5.1.4.1.1.88.22",
}


@dataclass(frozen=True)
class Model:
    """What made the scores.

    Parameters
    ----------
    name
        For example ``densenet121-res224-all``. At most 64 characters.
    version
        Of the software that defines it, for example ``torchxrayvision 1.5.7``. At most 64 characters.
    weights_sha256
        SHA-256 of the weights file, as 64 hexadecimal digits.
    preprocessing
        Version of the preprocessing (`backlog.model.PREPROCESSING`) that made the scores. It may be an earlier one than
        this program's: the worker that writes reports may have been upgraded meanwhile.
    meaningful
        False for seeded weights: the report then says that its scores mean nothing.
    """

    name: str
    version: str
    weights_sha256: str
    preprocessing: str
    meaningful: bool = True


@dataclass(frozen=True)
class OperatingPoints:
    """Thresholds that a site chose for some findings, and the file that they come from.

    Parameters
    ----------
    sha256
        Of the file, as 64 hexadecimal digits; part of the reports' UIDs.
    thresholds
        By label, in (0, 1); the other findings keep the model's own point.
    """

    sha256: str
    thresholds: Mapping[str, float]


@dataclass(frozen=True)
class Options:
    """How reports are written, the same for a whole run; part of their UIDs.

    Parameters
    ----------
    language
        ``en`` or ``pt-BR``: of code meanings and sentences. Codes are the same.
    coding
        ``open`` or ``snomed``: which codes the findings get.
    iod
        ``comprehensive3d``, ``comprehensive`` or ``enhanced``: the kind of SR document.
    operating_points
        Where findings count as present; None: at the model's own point.
    regions
        What is drawn in the image, of `backlog.settings.REGIONS`: ``activation``, where the evidence of each finding
        that is present lies; ``frame``, the square that the model saw; ``none``.
    """

    language: str = "en"
    coding: str = "open"
    iod: str = IOD
    operating_points: OperatingPoints | None = None
    regions: str = "none"

    def point(self, label: str) -> float:
        """Return from which score on a finding counts as present."""
        chosen = self.operating_points
        return OPERATING_POINT if chosen is None else chosen.thresholds.get(label, OPERATING_POINT)


@dataclass(frozen=True)
class Predecessor:
    """An earlier report of the same image, by other weights, that a new report refers to."""

    sop_class_uid: str
    sop_instance_uid: str
    series_instance_uid: str
    study_instance_uid: str
