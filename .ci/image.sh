#!/bin/sh
# `make image`: builds the image as $IMAGE (default arriero:dev). With docker it is built from python:3.13-slim; where only
# buildah is to be had, and no registry, from a stand-in for that image which Debian's packages make.
set -eu
cd "$(dirname "$0")/.."
IMAGE=${IMAGE:-localhost/arriero:dev}
EXTRAS=${EXTRAS:-}
if command -v docker >/dev/null && docker info >/dev/null 2>&1; then
    exec docker build --build-arg "EXTRAS=$EXTRAS" --tag "$IMAGE" .
fi
command -v buildah >/dev/null || { echo "make image needs docker or buildah: apt-get install buildah mmdebstrap" >&2; exit 1; }
CACHE=${ARRIERO_CACHE:-$HOME/.cache/arriero-kube}/image
mkdir -p "$CACHE"
export STORAGE_DRIVER=overlay
BASE=${PYTHON_IMAGE:-localhost/python:3.13-slim}
if ! buildah inspect --type image "$BASE" >/dev/null 2>&1; then
    if [ ! -s "$CACHE/base.tar" ]; then
        echo "No registry: making a stand-in for python:3.13-slim of Debian's packages (once, a minute or more)" >&2
        mmdebstrap --quiet --variant=minbase --include=python3,python3-venv,ca-certificates \
            --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/man/*' \
            --dpkgopt='path-exclude=/usr/share/locale/*' trixie "$CACHE/base.part"
        mv "$CACHE/base.part" "$CACHE/base.tar"
    fi
    # One program with the setuid bit, as the real one has several: the image must take it away.
    printf 'FROM scratch\nADD base.tar /\nRUN ln -s python3 /usr/bin/python && chmod u+s /usr/bin/passwd\n' > "$CACHE/base.Dockerfile"
    buildah bud --quiet --isolation chroot -f "$CACHE/base.Dockerfile" -t "$BASE" "$CACHE" >/dev/null
fi
# pip in the build reads certificates and settings of this machine, if it has its own.
CA=/etc/ssl/certs/ca-certificates.crt
printf '[global]\ncert = %s\n' "$CA" > "$CACHE/pip.conf"
buildah bud --quiet --layers --isolation chroot --pull-never --format docker --build-arg "PYTHON_IMAGE=$BASE" --build-arg "EXTRAS=$EXTRAS" \
    -v "$CA:$CA:ro" -v "$CACHE/pip.conf:/etc/pip.conf:ro" -t "$IMAGE" . >/dev/null
echo "$IMAGE: $(buildah inspect --type image --format '{{.FromImageID}}' "$IMAGE" | cut -c8-19)," \
    "$(podman image inspect --format '{{.Size}}' "$IMAGE" 2>/dev/null | awk '{printf "%.0f MB", $1 / 1e6}')" >&2
