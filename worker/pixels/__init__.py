"""From a DICOM file to the array that the model sees."""
