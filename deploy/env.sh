#!/bin/sh
# Write .env with random passwords, and make the folders that the services are given. Changes nothing that is there.
set -eu
umask 077
secret() { od -An -N24 -tx1 /dev/urandom | tr -d ' \n'; }

uid=$(id -u) gid=$(id -g)
if [ "$uid" = 0 ]; then uid=${SUDO_UID:-10001} gid=${SUDO_GID:-10001}; fi
[ "$uid" != 0 ] || { uid=10001; gid=10001; }

if [ -e .env ]; then
  echo ".env is there already: left as it is"
else
  cat >.env.new <<ENV
# Passwords of this stack, made by 'make env'. Keep this file to yourself; docs/operations.md lists what may stand here.
CXR_PACS_USERNAME=cxr
CXR_PACS_PASSWORD=$(secret)
CXR_REDIS_PASSWORD=$(secret)
CXR_FLOWER_USERNAME=cxr
CXR_FLOWER_PASSWORD=$(secret)
CXR_GRAFANA_PASSWORD=$(secret)
# How many inference workers there are: one for each core. 'make up N=4' changes it.
CXR_INFERENCE_WORKERS=$(nproc)
# Who the services run as, and who owns the runs' folders.
CXR_UID=$uid
CXR_GID=$gid
ENV
  sh "$(dirname "$0")/images.sh" >>.env.new
  [ -z "${SUDO_UID:-}" ] || chown "$uid:$gid" .env.new
  mv .env.new .env
  echo "wrote .env"
fi

umask 022
for folder in inbox out out/.targets models; do
  [ -d "$folder" ] || { mkdir "$folder"; [ "$(id -u)" != 0 ] || chown "$uid:$gid" "$folder"; }
done
