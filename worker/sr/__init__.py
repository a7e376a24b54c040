"""The DICOM structured report."""
