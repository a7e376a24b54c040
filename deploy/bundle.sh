#!/bin/sh
# Pack what a machine without internet needs into one archive: sh deploy/bundle.sh [FILE]. It holds the images, the model
# as the stack uses it, the compose files, an example of .env and the script that loads it all. Other images come along by
# their profile, as in COMPOSE="docker compose --profile viewer". No password, image or run goes in.
set -eu
compose=${COMPOSE:-docker compose}
version=$(sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml)
name=cxr-backlog-$version
file=${1:-dist/$name.tar}
[ ! -e "$file" ] || { echo "$file is there already: choose another name" >&2; exit 2; }
mkdir -p "$(dirname "$file")"
work=$(mktemp -d "$(dirname "$file")/.bundle.XXXXXX")
trap 'rm -rf "$work"' EXIT
mkdir "$work/$name"

compose="$compose --profile producer --profile modality"
$compose build
$compose run --rm -T model >/dev/null || { echo "there is no model to pack: put the weights into models" >&2; exit 2; }
$compose run --rm -T --entrypoint tar model -C /models -cf - . >"$work/$name/models.tar"
images=$($compose config --images | sort -u)
# What is not built here is fetched, where it isn't here yet.
for image in $images; do docker image inspect "$image" >/dev/null 2>&1 || docker pull "$image"; done
# shellcheck disable=SC2086  # a list of images
docker save $images | gzip -1 >"$work/$name/images.tar.gz"
cp docker-compose.yml orthanc.json README.md README.pt-BR.md LICENSE "$work/$name"
cp -r docs "$work/$name/docs"
cp -rL deploy "$work/$name/deploy"
cp deploy/env.example "$work/$name/env.example"
cp deploy/load.sh "$work/$name/load.sh"
(cd "$work/$name" && find . -type f ! -name "SHA256SUMS*" | LC_ALL=C sort | xargs sha256sum >SHA256SUMS.new && mv SHA256SUMS.new SHA256SUMS)
tar -C "$work" -cf "$work/bundle.tar" "$name"
mv "$work/bundle.tar" "$file"
echo "wrote $file ($(du -h "$file" | cut -f1)): unpack it on the other machine, and there: sh load.sh"
