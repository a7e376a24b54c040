#!/bin/sh
# Make a certificate authority and a certificate in ./tls, for the names and addresses that other machines reach this
# one by: sh deploy/tls.sh 10.0.0.5 pacs.example.org. With a certificate of your own, put it there under these names.
set -eu
umask 077
mkdir -p tls
cd tls
[ ! -e ca.crt ] || { echo "tls/ca.crt is there already: left as it is"; exit 0; }
names=DNS:localhost,IP:127.0.0.1
for name; do
  case $name in *[!0-9.]*) names=$names,DNS:$name ;; *) names=$names,IP:$name ;; esac
done
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 3650 -subj "/CN=cxr-backlog CA" \
  -addext basicConstraints=critical,CA:TRUE -addext keyUsage=critical,keyCertSign,cRLSign \
  -keyout ca.key -out ca.crt 2>/dev/null
openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj "/CN=cxr-backlog" \
  -keyout server.key -out server.csr 2>/dev/null
printf 'subjectAltName=%s\nextendedKeyUsage=serverAuth\nbasicConstraints=CA:FALSE\n' "$names" >server.ext
openssl x509 -req -in server.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 825 -extfile server.ext \
  -out server.crt 2>/dev/null
rm server.csr server.ext ca.srl
chmod 755 .
chmod 644 ca.crt server.crt
owner=$(sed -n 's/^CXR_UID=//p' ../.env):$(sed -n 's/^CXR_GID=//p' ../.env)
[ "$(id -u)" != 0 ] || chown "$owner" server.crt server.key
echo "wrote tls/ca.crt and a certificate for $names"
