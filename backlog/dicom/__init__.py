"""DICOM headers: a bounded parser, the values that we use, and which images may be scored."""
