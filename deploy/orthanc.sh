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
# Left out of the log, of which it would be most: a line for each time that a client has read an image's header and lets
# go of the rest, as the workers do on purpose.
pipe=${TMPDIR:-/tmp}/orthanc-log
rm -f "$pipe"
mkfifo -m 600 "$pipe"
grep --line-buffered -v 'HttpOutput.cpp:.*has not sent the proper number of bytes in its body' <"$pipe" >&2 &
exec Orthanc /etc/cxr/ 2>"$pipe"
