#!/bin/sh
# Start nginx with Orthanc's own user and password as the one log-in. They stand in no file of the image, only in this
# container's /tmp, hashed; towards Flower and Grafana nginx logs in by itself.
set -eu
umask 077
: "${CXR_PACS_USERNAME:?is not set: run 'make env' first}" "${CXR_PACS_PASSWORD:?is not set: run 'make env' first}"
case $CXR_PACS_USERNAME in *:*) echo "CXR_PACS_USERNAME holds a colon" >&2; exit 2 ;; esac
conf=/tmp/cxr
mkdir -p "$conf"
hash=$(printf %s "$CXR_PACS_PASSWORD" | openssl passwd -6 -stdin)
printf '%s:%s\n' "$CXR_PACS_USERNAME" "$hash" >"$conf/users"
basic() { printf %s "$1:$2" | base64 -w 0; }
cat >"$conf/logins.conf" <<CONF
map \$request_method \$flower_login { default "Basic $(basic "${CXR_FLOWER_USERNAME:-cxr}" "${CXR_FLOWER_PASSWORD-}")"; }
map \$request_method \$grafana_login { default "Basic $(basic "${CXR_GRAFANA_USERNAME:-cxr}" "${CXR_GRAFANA_PASSWORD-}")"; }
CONF
case ${CXR_VIEWER_TLS:-false} in
  true) cp /etc/cxr/tls.conf "$conf/listen.conf" ;;
  *) cp /etc/cxr/plain.conf "$conf/listen.conf" ;;
esac
# Names are looked up for each connection: a service that was started again has another address, and one that isn't
# part of the stack is no reason not to start.
sed -n 's/^nameserver \([0-9.]*\)$/resolver \1 valid=10s ipv6=off;/p' /etc/resolv.conf | head -n 1 >"$conf/resolver.conf"
exec nginx -c /etc/cxr/nginx.conf
