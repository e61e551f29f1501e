#!/bin/sh
# Builds the images with docker, podman or buildah, whichever works here; `make images`.
# ENGINE names one of them, PREFIX a registry and path before the names, TAG the tag (the project's version without it).
set -eu
cd "$(dirname "$0")/.."
version=$(sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml)
tag=${TAG:-$version}

works() {
    command -v "$1" > /dev/null && case $1 in
    buildah) buildah --version ;;
    *) "$1" info ;;
    esac > /dev/null 2>&1
}

engine=
for name in ${ENGINE:-docker podman buildah}; do
    if works "$name"; then
        engine=$name
        break
    fi
done
if [ -z "$engine" ]; then
    echo "make images needs docker with its daemon running, podman or buildah; none of ${ENGINE:-them} works here" >&2
    exit 2
fi
for target in ${TARGETS:-serve serve-cuda train client}; do
    "$engine" build --file deploy/Dockerfile --target "$target" --tag "${PREFIX:-}eagerly-$target:$tag" \
        --build-arg VERSION="$version" --build-arg REVISION="$(git rev-parse HEAD 2> /dev/null || echo unknown)" .
done
