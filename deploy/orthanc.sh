#!/bin/sh
# Start Orthanc with an identity that belongs to its data. Orthanc otherwise derives it from the host's name, which is
# another one each time a container is made, and a run refuses to go on with what looks like another PACS.
set -eu
identifier=$CXR_ORTHANC_INDEX/identifier
if [ ! -s "$identifier" ]; then
  od -An -N16 -tx1 /dev/urandom | tr -d ' \n' >"$identifier.new"
  mv "$identifier.new" "$identifier"
fi
CXR_ORTHANC_IDENTIFIER=$(cat "$identifier")
export CXR_ORTHANC_IDENTIFIER
exec Orthanc /etc/cxr/
