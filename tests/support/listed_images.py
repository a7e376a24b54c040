"""Small images that a list can name: two a study, four a patient."""

from __future__ import annotations

from typing import Any

from tests.support.dicom_images import chest, dicom


def image(number: int, **attributes: Any) -> bytes:
    """Return the image of a number."""
    values = {
        "SOPInstanceUID": f"1.2.{number}.9",
        "SeriesInstanceUID": f"1.2.{number}.8",
        "StudyInstanceUID": f"1.2.{number // 2}",
        "AccessionNumber": f"A{number // 2}",
        "PatientID": f"P{number // 4}",
        "StudyDate": "20240102",
    }
    return dicom(chest(32, 32), **(values | attributes))
