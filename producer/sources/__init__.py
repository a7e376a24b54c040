"""Where images are listed from: a zip archive, a folder, an Orthanc server."""
