#!/bin/sh
# Makes /opt/eagerly in an image's build: `install.sh client`, `install.sh cuda`, and after that one `install.sh prune`.
# Its files are in /build, with dpkg's database of the last stage; the project is the working folder. TARGET and BUILD
# name other places, for tests.
set -eu
target=${TARGET:-/opt/eagerly}
build=${BUILD:-/build}
scratch=$(mktemp -d)
site=$target/lib/python3.11/site-packages

install() { # what the lock file names, by its hashes, and nothing that is to be built or that another package asks for
    "$1/bin/python" -m pip install --no-cache-dir --no-deps --only-binary :all: --require-hashes -r "$2"
}

case $1 in
client | cuda)
    lock=$build/requirements.lock
    awk '/^[a-zA-Z]/ { keep = /^setuptools==/ } keep' "$lock" > "$scratch/setuptools.lock"
    python3.11 -m venv "$scratch/builder"
    install "$scratch/builder" "$scratch/setuptools.lock"
    "$scratch/builder/bin/python" -m pip wheel --no-cache-dir --no-deps --no-build-isolation --wheel-dir "$scratch/wheels" .

    [ "$1" = cuda ] || lock=$build/requirements-client.lock
    python3.11 -m venv "$target"
    install "$target" "$lock"
    "$target/bin/python" -m pip install --no-cache-dir --no-deps --no-index "$scratch"/wheels/eagerly-*.whl
    "$target/bin/python" -m pip check
    [ "$1" = cuda ] || "$target/bin/python" -m pip uninstall --yes setuptools
    "$target/bin/python" -m pip uninstall --yes pip
    ;;
prune)
    "$target/bin/python" "$build/prune_cuda.py" "$site"
    ;;
*)
    echo "install.sh: $1 is none of client, cuda and prune" >&2
    exit 2
    ;;
esac
"$target/bin/python" "$build/sbom.py" "$build/requirements.lock" "$site" "$build/dpkg-status" > "$target/sbom.cdx.json"
rm -rf "$scratch"
