#!/bin/sh
# Have a built OHIF live below a path instead of at a server's root: below.sh FOLDER /viewer/
# It is built for the root: the page, each bundle with workers of its own and the style say so.
set -eu
folder=$1 path=$2
cd "$folder"
root='__webpack_require__.p = "/";'
grep -q 'window.PUBLIC_URL="/"' index.html
bundles=$(grep -lF "$root" ./*.js) # none: another OHIF than this was written for
sed -i -e "s#window.PUBLIC_URL=\"/\"#window.PUBLIC_URL=\"$path\"#" -e "s#\(src\|href\|content\)=\"/#\1=\"$path#g" \
  -e 's#<link rel="manifest"[^>]*>##' index.html # which browsers fetch without the log-in
# shellcheck disable=SC2086  # a list of files
sed -i "s#$root#__webpack_require__.p = \"$path\";#" $bundles
sed -i "s#url(/#url($path#g" ./*.css
# Segmentation tools that run a network in the browser: 110 MB that nothing here asks for.
rm -rf ort
