#!/bin/sh
# Make a certificate authority and a certificate in ./tls, for the names and addresses that other machines reach this
# one by: sh deploy/tls.sh 10.0.0.5 pacs.example.org. With a certificate of your own, put it there under these names.
# Again with further names, or in the certificate's last month: the same authority issues another, for all names so far.
set -eu
umask 077
mkdir -p tls
cd tls
names=DNS:localhost,IP:127.0.0.1
if [ -e server.crt ]; then
  names=$(openssl x509 -in server.crt -noout -ext subjectAltName | sed -n '2{s/ //g;s/IPAddress:/IP:/g;p}')
fi
before=$names
for name; do
  case $name in *[!0-9.]*) name=DNS:$name ;; *) name=IP:$name ;; esac
  case ,$names, in *,$name,*) ;; *) names=$names,$name ;; esac
done
if [ -e server.crt ] && [ "$names" = "$before" ] && openssl x509 -in server.crt -noout -checkend 2592000 >/dev/null; then
  echo "tls/server.crt is there already, for $names: left as it is"
  exit 0
fi
if [ ! -e ca.key ] && { [ -e server.crt ] || [ -e ca.crt ]; }; then
  echo "tls/server.crt is not for all of $names, or runs out, and tls/ca.key is not here: put it back, and try again" >&2
  exit 2
fi
[ -e ca.crt ] || openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 3650 -subj "/CN=cxr-backlog CA" \
  -addext basicConstraints=critical,CA:TRUE -addext keyUsage=critical,keyCertSign,cRLSign \
  -keyout ca.key -out ca.crt 2>/dev/null
openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj "/CN=cxr-backlog" \
  -keyout server.key.new -out server.csr 2>/dev/null
printf 'subjectAltName=%s\nextendedKeyUsage=serverAuth\nbasicConstraints=CA:FALSE\n' "$names" >server.ext
openssl x509 -req -in server.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 825 -extfile server.ext \
  -out server.crt.new 2>/dev/null
mv server.key.new server.key
mv server.crt.new server.crt
rm server.csr server.ext ca.srl
chmod 755 .
chmod 644 ca.crt server.crt
owner=$(sed -n 's/^CXR_UID=//p' ../.env):$(sed -n 's/^CXR_GID=//p' ../.env)
[ "$(id -u)" != 0 ] || chown "$owner" server.crt server.key
echo "wrote a certificate for $names; who has tls/ca.crt trusts it. Restart what uses an earlier one"
