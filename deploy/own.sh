#!/bin/sh
# Give new volumes to the user that the services run as. Once: what is owned already is left alone, since a large
# Orthanc holds millions of files.
set -eu
for folder in /volumes/*; do
  [ "$(stat -c %u:%g "$folder")" = "$OWNER" ] || chown -R "$OWNER" "$folder"
done
