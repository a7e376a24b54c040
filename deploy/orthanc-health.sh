#!/bin/bash
# Ask Orthanc for /system as the workers do, with nothing but bash: not every Orthanc image has curl.
set -eu
login=$(printf %s "$CXR_PACS_USERNAME:$CXR_PACS_PASSWORD" | base64 -w 0)
exec 3<>"/dev/tcp/127.0.0.1/$CXR_ORTHANC_PORT"
printf 'GET /system HTTP/1.0\r\nAuthorization: Basic %s\r\n\r\n' "$login" >&3
# Read to the end: Orthanc calls it an error when an answer isn't taken whole.
mapfile -t -u 3 lines
case ${lines[0]-} in *" 200 "*) ;; *) echo "${lines[0]-no answer}"; exit 1 ;; esac
