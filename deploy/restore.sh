#!/bin/sh
# Bring a backup of deploy/backup.sh back into a new stack: sh deploy/restore.sh FOLDER, before the first 'make up'.
# Refuses an Orthanc that holds anything, and an out that holds runs: nothing is overwritten.
set -eu
folder=${1:?is where the backup lies: restore.sh FOLDER}
compose=${COMPOSE:-docker compose}
for file in orthanc.tar out.tar; do
  [ -s "$folder/$file" ] || { echo "$folder/$file is missing or empty" >&2; exit 2; }
done
[ -z "$($compose ps --services --status running | grep -x -e orthanc -e runner || true)" ] || {
  echo "stop the stack first: docker compose down" >&2; exit 2; }
$compose run --rm -T volumes
$compose run --rm -T --no-deps --user 0:0 --cap-add DAC_OVERRIDE --entrypoint sh volumes -c \
  '[ -z "$(ls -A /volumes/orthanc-index)" ]' || { echo "this stack's Orthanc holds data already" >&2; exit 2; }
$compose run --rm -T --no-deps --entrypoint sh producer -c '[ -z "$(ls /out)" ]' || {
  echo "out holds runs already" >&2; exit 2; }
$compose run --rm -T --no-deps --user 0:0 --cap-add DAC_OVERRIDE --cap-add FOWNER --entrypoint tar volumes \
  -C /volumes -xpf - <"$folder/orthanc.tar"
$compose run --rm -T --no-deps --entrypoint tar producer -C /out -xf - <"$folder/out.tar"
echo "restored; go on with: make up"
