#!/bin/sh
# Start Redis with one user. What holds the password goes in through standard input, hashed: it stands in no
# file, and not in the list of processes.
set -eu
: "${CXR_REDIS_PASSWORD:?is not set: run 'make env' first}"
hash=$(printf %s "$CXR_REDIS_PASSWORD" | sha256sum | cut -d' ' -f1)
exec redis-server /etc/cxr/redis.conf - <<CONF
user default off
user cxr on #$hash ~* &* +@all -@admin -@dangerous +info
maxmemory ${CXR_REDIS_MAXMEMORY:-512mb}
CONF
