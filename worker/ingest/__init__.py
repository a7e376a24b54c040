"""What a file of the source becomes before it is stored: a DICOM object that a report can name."""
