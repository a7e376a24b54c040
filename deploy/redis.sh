#!/bin/sh
# Start Redis with one user. What holds the password goes in through standard input, hashed: it stands in no
# file, and not in the list of processes. CXR_REDIS_TLS names a folder with ca.crt, server.crt and server.key.
set -eu
: "${CXR_REDIS_PASSWORD:?is not set: run 'make env' first}"
hash=$(printf %s "$CXR_REDIS_PASSWORD" | sha256sum | cut -d' ' -f1)
tls=
if [ -n "${CXR_REDIS_TLS:-}" ]; then
  tls="port 0
tls-port 6379
tls-cert-file $CXR_REDIS_TLS/server.crt
tls-key-file $CXR_REDIS_TLS/server.key
tls-ca-cert-file $CXR_REDIS_TLS/ca.crt
tls-auth-clients no"
fi
exec redis-server /etc/cxr/redis.conf - <<CONF
user default off
user cxr on #$hash ~* &* +@all -@admin -@dangerous +info
maxmemory ${CXR_REDIS_MAXMEMORY:-512mb}
$tls
CONF
