#!/bin/sh
# Start Redis with one user. What holds the password goes in through standard input, hashed: it stands in no
# file, and not in the list of processes.
set -eu
: "${CXR_REDIS_PASSWORD:?is not set: run 'make env' first}"
hash=$(printf %s "$CXR_REDIS_PASSWORD" | sha256sum | cut -d' ' -f1)
# The default user may not log in, yet keeps its rights: while Redis loads its append-only file at a start it checks
# them for each MULTI and each script that writes twice, and discards those that this user may not do.
exec redis-server "${1:-/etc/cxr/redis.conf}" - <<CONF
user default off ~* &* +@all
user cxr on #$hash ~* &* +@all -@admin -@dangerous +info
maxmemory ${CXR_REDIS_MAXMEMORY:-512mb}
CONF
