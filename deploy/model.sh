#!/bin/sh
# Fetch and verify the weights, and export them for the workers: ./models then holds all that they need, offline.
# $1 is a Python with cxr-backlog[inference,model]. CXR_WEIGHTS, CXR_WEIGHTS_SHA256 and CXR_MODELS count as they do
# for the services; a path under /models, the folder's name in the containers, is found in the folder itself.
set -eu
for name in CXR_MODELS CXR_WEIGHTS CXR_WEIGHTS_SHA256; do
  eval "given=\${$name-}"
  if [ -z "$given" ] && [ -e .env ]; then given=$(sed -n "s/^$name=//p" .env | tail -1); fi
  eval "$name=\$given"
done
models=${CXR_MODELS:-./models}
case $CXR_WEIGHTS in /models/*) CXR_WEIGHTS=$models/${CXR_WEIGHTS#/models/} ;; esac
unset CXR_MODELS
umask 022
export CXR_WEIGHTS CXR_WEIGHTS_SHA256 CXR_CACHE="$models" CXR_ENGINE=onnxruntime
exec "$1" -m worker.prepare
