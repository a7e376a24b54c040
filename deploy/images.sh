#!/bin/sh
# Print, for .env, the base images that this engine has instead of the pinned ones: only where it has not these and reaches
# no registry, and has another of the same series, as python:3.13-slim-trixie for python:3.13.12-slim-trixie.
set -eu
command -v docker >/dev/null && docker info >/dev/null 2>&1 || exit 0
has() { docker image inspect "$1" >/dev/null 2>&1; }
sed -n 's/.*\${\(CXR_[A-Z]*_IMAGE\):-\([^}]*\)}.*/\1 \2/p' "$(dirname "$0")/../docker-compose.yml" | sort -u |
  while read -r name pinned; do
    ! has "$pinned" || continue
    series=$(echo "$pinned" | sed 's/\(:[0-9]*\.[0-9]*\)\.[0-9]*/\1/')
    major=$(echo "$pinned" | sed 's/\(:[0-9]*\)\.[0-9]*\.[0-9]*/\1/')
    for other in "$series" "$major"; do
      has "$other" || continue
      ! docker pull --quiet "$pinned" >/dev/null 2>&1 || break
      echo "$pinned is not here and can't be fetched: .env names $other" >&2
      echo "$name=$other"
      break
    done
  done
