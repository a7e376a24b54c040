"""What PS3.3 asks of each kind of invented object, beyond its patient, its study and its pixels."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pydicom import Dataset


def describe_cr(header: Dataset, view: str) -> None:
    """Add the CR Series and CR Image modules (PS3.3 C.8.1)."""
    header.BodyPartExamined = "CHEST"
    header.ViewPosition = view
    header.PatientOrientation = _orientation(view)
    header.ImageType = ["ORIGINAL", "PRIMARY"]


def describe_dx(header: Dataset, view: str) -> None:
    """Add the modules of a DX image for presentation (PS3.3 A.26)."""
    header.BodyPartExamined = "CHEST"
    header.ViewPosition = view
    header.PatientOrientation = _orientation(view)
    header.ImageType = ["ORIGINAL", "PRIMARY", ""]
    header.PresentationIntentType = "FOR PRESENTATION"
    header.ImageLaterality = "U"
    header.AcquisitionContextSequence = []
    header.AnatomicRegionSequence = [_code("51185008", "SCT", "Chest")]
    views = {
        "PA": ("272479007", "postero-anterior"),
        "AP": ("399348003", "antero-posterior"),
        "LL": ("399173006", "left lateral"),
    }
    view_code = _code(views[view][0], "SCT", views[view][1])
    view_code.ViewModifierCodeSequence = []
    header.ViewCodeSequence = [view_code]
    header.ImagerPixelSpacing = [round(350 / header.Rows, 6)] * 2
    header.PixelIntensityRelationship = "LOG"
    # Of the values as they are stored: with MONOCHROME1 more X-rays give larger ones (PS3.3 C.8.11.3.1.2).
    inverse = header.PhotometricInterpretation == "MONOCHROME1"
    header.PixelIntensityRelationshipSign = 1 if inverse else -1
    header.PresentationLUTShape = "INVERSE" if inverse else "IDENTITY"
    header.RescaleIntercept, header.RescaleSlope, header.RescaleType = 0, 1, "US"
    header.WindowCenter, header.WindowWidth = 2 ** (header.BitsStored - 1), 2**header.BitsStored
    header.LossyImageCompression = "00"
    header.BurnedInAnnotation = "NO"
    header.DetectorType = "DIRECT"
    header.PositionerType = "NONE"


def describe_ct(header: Dataset, _view: str) -> None:
    """Add the frame of reference, the plane and the CT Image module (PS3.3 A.3)."""
    header.BodyPartExamined = "CHEST"
    header.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    header.FrameOfReferenceUID = header.SeriesInstanceUID + "1"
    header.PositionReferenceIndicator = ""
    header.PatientPosition = "HFS"
    header.PixelSpacing = [round(350 / header.Rows, 6)] * 2
    header.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    header.ImagePositionPatient = [-175, -175, 0]
    header.SliceThickness = 5
    header.RescaleIntercept, header.RescaleSlope, header.RescaleType = -1024, 1, "HU"
    header.KVP = 120
    header.AcquisitionNumber = 1


def describe_report(header: Dataset) -> None:
    """Add a radiologist's report of one sentence, as a Basic Text SR (PS3.3 A.35.1)."""
    from pydicom.dataset import Dataset

    header.ReferencedPerformedProcedureStepSequence = []
    header.PerformedProcedureCodeSequence = []
    header.CompletionFlag = "COMPLETE"
    header.VerificationFlag = "UNVERIFIED"
    header.ValueType = "CONTAINER"
    header.ConceptNameCodeSequence = [_code("18782-3", "LN", "Radiology Study observation")]
    header.ContinuityOfContent = "SEPARATE"
    text = Dataset()
    text.RelationshipType = "CONTAINS"
    text.ValueType = "TEXT"
    text.ConceptNameCodeSequence = [_code("121071", "DCM", "Finding")]
    text.TextValue = "An invented report of an invented patient."
    header.ContentSequence = [text]


def _orientation(view: str) -> list[str]:
    return {"PA": ["L", "F"], "AP": ["L", "F"], "LL": ["P", "F"]}[view]


def _code(value: str, scheme: str, meaning: str) -> Dataset:
    from pydicom.dataset import Dataset

    code = Dataset()
    code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = value, scheme, meaning
    return code
