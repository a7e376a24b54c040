"""The PACS that images come from and reports go to: Orthanc or a folder of DICOM files."""
