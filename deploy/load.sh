#!/bin/sh
# In an unpacked bundle, on the machine without internet: check the files, load the images into the engine, put the model in
# its place and write .env. Nothing that is there is overwritten.
set -eu
cd "$(dirname "$0")"
sha256sum --quiet -c SHA256SUMS || { echo "this bundle is damaged: copy it again" >&2; exit 2; }
gzip -dc images.tar.gz | docker load
sh deploy/env.sh
owner=$(sed -n 's/^CXR_UID=//p' .env):$(sed -n 's/^CXR_GID=//p' .env)
tar -C models --skip-old-files --no-same-owner -xf models.tar
[ "$(id -u)" != 0 ] || chown -R "$owner" models
echo "loaded; start it with: docker compose up -d --wait"
