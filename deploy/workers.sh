#!/bin/sh
# Keep the number of inference workers in .env: workers.sh 4. Without a number .env stays as it is.
set -eu
[ -n "${1-}" ] || exit 0
case $1 in *[!0-9]*) echo "N=$1 is no number of workers" >&2; exit 2 ;; esac
[ -e .env ] || { echo "there is no .env: run 'make env' first" >&2; exit 2; }
umask 077
{ grep -v '^CXR_INFERENCE_WORKERS=' .env || true; echo "CXR_INFERENCE_WORKERS=$1"; } >.env.new
chown --reference=.env .env.new
mv .env.new .env
