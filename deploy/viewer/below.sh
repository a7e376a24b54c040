#!/bin/sh
# Have a built OHIF live below a path instead of at a server's root: below.sh FOLDER /viewer/
# It is built for the root; each place that says so is replaced, and missing ones are an error rather than a blank page.
set -eu
folder=$1 path=$2
cd "$folder"
bundle=$(ls app.bundle.*.js)
grep -q 'window.PUBLIC_URL="/"' index.html
grep -q '__webpack_require__.p = "/";' "$bundle"
sed -i -e "s#window.PUBLIC_URL=\"/\"#window.PUBLIC_URL=\"$path\"#" -e "s#\(src\|href\|content\)=\"/#\1=\"$path#g" index.html
sed -i "s#__webpack_require__.p = \"/\";#__webpack_require__.p = \"$path\";#" "$bundle"
# Segmentation tools that run a network in the browser: 110 MB that nothing here asks for.
rm -rf ort
