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
# SQLite finds a UID by its index only where it has statistics; else it walks over all instances (docs/scaling.md). Nobody
# has the index open yet, and a sample of each of its indexes is enough. Without either program it stays as it is.
index=$CXR_ORTHANC_INDEX/index
sample='PRAGMA analysis_limit=1000; ANALYZE;'
if [ -s "$index" ]; then
  if command -v sqlite3 >/dev/null; then
    sqlite3 "$index" "$sample" >/dev/null
  elif command -v python3 >/dev/null; then
    python3 -c 'import sqlite3, sys; sqlite3.connect(sys.argv[1]).executescript(sys.argv[2])' "$index" "$sample"
  fi || echo "Orthanc's index has no new statistics: finding a UID may be slow" >&2
fi
# Left out of the log, of which it would be most: a line for each time that a client has read an image's header and lets
# go of the rest, as the workers do on purpose.
pipe=${TMPDIR:-/tmp}/orthanc-log
rm -f "$pipe"
mkfifo -m 600 "$pipe"
grep --line-buffered -v 'HttpOutput.cpp:.*has not sent the proper number of bytes in its body' <"$pipe" >&2 &
# DICOMweb is what viewers read by. Others by name in CXR_ORTHANC_PLUGINS, as "OrthancOHIF OrthancExplorer2", where
# the image has them: Debian's keeps its plug-ins in the first folder, the official one in the second until asked for.
conf=${TMPDIR:-/tmp}/orthanc
rm -rf "$conf"
mkdir -m 700 "$conf"
cp /etc/cxr/*.json "$conf"
found=
for plugin in OrthancDicomWeb ${CXR_ORTHANC_PLUGINS-}; do
  for folder in /usr/share/orthanc/plugins /usr/share/orthanc/plugins-available; do
    [ ! -e "$folder/lib$plugin.so" ] || { found=$found,\"$folder/lib$plugin.so\"; continue 2; }
  done
  [ "$plugin" = OrthancDicomWeb ] || { echo "this image has no plug-in $plugin (CXR_ORTHANC_PLUGINS)" >&2; exit 2; }
  echo "this image has no DICOMweb plug-in: viewers will find nothing" >&2
done
echo "{ \"Plugins\": [${found#,}] }" >"$conf/plugins.json"
exec Orthanc "$conf" 2>"$pipe"
