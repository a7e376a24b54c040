"""What the model sees of a file, for tests that hold its bytes."""

from __future__ import annotations

from backlog.dicom.file import DicomFile
from worker.pixels import preprocess
from worker.pixels.preprocess import ModelInput

__all__ = ["ModelInput", "model_input"]


def model_input(dicom: bytes | memoryview, side: int = 0, **more: int) -> ModelInput:
    """Preprocess a file that nobody has looked at yet."""
    return preprocess.model_input(DicomFile(bytes(dicom)), side, **more)
