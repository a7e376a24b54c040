#!/bin/sh
# Back the stack up into a folder: sh deploy/backup.sh FOLDER. Orthanc is stopped while it is copied (the workers wait),
# and the runner with it, so that images, reports and runs are of one moment.
set -eu
umask 077
folder=${1:?is where the backup goes: backup.sh FOLDER}
compose=${COMPOSE:-docker compose}
[ ! -e "$folder/orthanc.tar" ] || { echo "$folder holds a backup already: choose another folder" >&2; exit 2; }
mkdir -p "$folder"
folder=$(cd "$folder" && pwd)
running=$($compose ps --services --status running | grep -x -e orthanc -e runner || true)
# shellcheck disable=SC2086  # a list of services
again() { [ -z "$running" ] || $compose start $running; }
trap again EXIT
# dash runs no EXIT trap when it is killed by a signal, and what was stopped would stay so.
trap 'exit 129' HUP; trap 'exit 130' INT; trap 'exit 143' TERM
$compose stop runner orthanc
$compose run --rm -T --no-deps --user 0:0 --cap-add DAC_READ_SEARCH --entrypoint tar volumes \
  -C /volumes -cf - orthanc-storage orthanc-index >"$folder/orthanc.tar.part"
$compose run --rm -T --no-deps --entrypoint tar producer -C /out -cf - . >"$folder/out.tar.part"
mv "$folder/out.tar.part" "$folder/out.tar"
mv "$folder/orthanc.tar.part" "$folder/orthanc.tar"
echo "wrote $folder/orthanc.tar and $folder/out.tar; keep .env and tls as well, encrypted, and weights of your own in models"
