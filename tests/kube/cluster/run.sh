#!/bin/bash
# `make cluster`: a whole one-node Kubernetes in a network namespace, the image and the chart on it, the scenarios, and
# all of it taken away again, whatever happened. Root, Linux; some minutes once everything is built.
#   run.sh shell    instead of the scenarios a shell with KUBECONFIG, to look around
#   CLUSTER_ENDS    seconds since 1970 by which it is over, whatever is not done then; without it there is no hurry
# Exit code 75: the machine, not the chart: the cluster never came up, or too slowly, or the time was over before a scenario
# failed. What ran it said is then in $KEEP_LOGS, if that is set.
set -euo pipefail
SCENARIOS_S=720   # for all of them, a third of it for a slower machine
START_S=45        # 13 s are usual: what needs more carries no 200 calls a second beside Kubernetes
HERE=$(cd "$(dirname "$0")" && pwd)
ROOT=$(cd "$HERE/../../.." && pwd)
"$HERE/possible.sh" || exit 75

in_time() {   # a part of the build; 75 when the scenarios would come too late
    [ -n "${CLUSTER_ENDS:-}" ] || { "$@"; return; }
    local code=124 limit_s=$((CLUSTER_ENDS - SCENARIOS_S - $(date +%s)))
    if [ $limit_s -gt 0 ]; then
        code=0
        timeout --kill-after=10 $limit_s "$@" || code=$?
        [ $code = 124 ] || [ $code = 137 ] || return $code
    fi
    echo "OUT OF TIME: $(basename "$1") had ${limit_s} s, and $SCENARIOS_S s are kept for the scenarios" >&2
    exit 75
}

in_time go -C "$ROOT/tests/kube/toolchain" list -deps . >/dev/null || { echo "Kubernetes' Go modules are not to be had" >&2; exit 75; }
in_time "$ROOT/tests/kube/toolchain/build.sh" cluster
CACHE=${ARRIERO_CACHE:-$HOME/.cache/arriero-kube}
K=$CACHE/bin/kube
IP=192.0.2.10
N="nsenter --net=/run/netns/kube"
export PATH=$CACHE/bin:$PATH STORAGE_DRIVER=overlay
exec 9> "$CACHE/cluster.lock"
flock -n 9 || { echo "another make cluster is running on this machine" >&2; exit 75; }
T=$(mktemp -d "$CACHE/cluster.XXXXXX")
declare -a PIDS=()
CONTAINERD=""
OURS=yes   # whose fault it is if what runs now fails

down() {
    local code=$?
    trap - EXIT INT TERM
    set +e
    [ "$code" = 0 ] || [ -z "${KEEP_LOGS:-}" ] || cp -r "$T/log" "$KEEP_LOGS"
    [ "${#PIDS[@]}" = 0 ] || kill -9 "${PIDS[@]}" 2>/dev/null
    if [ -n "$CONTAINERD" ]; then
        local C="ctr -a $T/ctrd.sock -n k8s.io"
        for task in $($C tasks ls -q); do $C tasks rm -f "$task" >/dev/null 2>&1; done
        kill "$CONTAINERD"
        wait "$CONTAINERD" 2>/dev/null
    fi
    awk -v t="$T" 'index($2, t) == 1 {print $2}' /proc/mounts | sort -r | xargs -r umount -l
    ip netns list | awk '/^cni-/{print $1}' | xargs -r -n1 ip netns del
    ip netns del kube 2>/dev/null
    find /sys/fs/cgroup -depth -type d -path '*kubepods*' -exec rmdir {} + 2>/dev/null
    sysctl -qw vm.overcommit_memory=0 kernel.panic=1 kernel.panic_on_oops=0
    rm -rf "$T"
    [ "$code" = 0 ] || [ "$code" = 130 ] || [ -n "$OURS" ] || code=75
    exit "$code"
}
trap down EXIT
trap 'exit 130' INT TERM

images() {
    local image=localhost/arriero:cluster
    IMAGE=$image in_time "$ROOT/.ci/image.sh"
    mkdir -p "$CACHE/image"
    cd "$CACHE/image"
    if [ ! -s pause.tar ]; then
        cp "$HERE/pause.c" .
        gcc -static -O2 -o pause pause.c
        printf 'FROM scratch\nCOPY pause /pause\nENTRYPOINT ["/pause"]\n' > pause.Dockerfile
        buildah bud --quiet --isolation chroot -f pause.Dockerfile -t localhost/pause:1 . >/dev/null
        buildah push --quiet localhost/pause:1 docker-archive:pause.tar:localhost/pause:1 >/dev/null
    fi
    if [ ! -s redis.tar ]; then   # this machine's own Redis, with the libraries it needs
        rm -rf redis && mkdir -p redis/lib
        cp "$(command -v redis-server)" "$(command -v redis-cli)" redis/
        ldd redis/redis-server redis/redis-cli | awk '$3 ~ /^\// && $1 !~ /^lib(c|m|dl|pthread|rt)\.so/ {print $3}' |
            sort -u | xargs -I{} cp -L {} redis/lib/
        printf 'FROM localhost/python:3.13-slim\nCOPY redis/redis-server redis/redis-cli /usr/bin/\nCOPY redis/lib /opt/lib\nENV LD_LIBRARY_PATH=/opt/lib\n' > redis.Dockerfile
        buildah bud --quiet --isolation chroot --pull-never -f redis.Dockerfile -t localhost/redis:7.4 . >/dev/null
        buildah push --quiet localhost/redis:7.4 docker-archive:redis.tar:localhost/redis:7.4 >/dev/null
    fi
    buildah push --quiet $image docker-archive:"$T/arriero.tar":localhost/arriero:0.1.0 >/dev/null
    cd "$T"
}

background() { $N "$@" > "log/$(basename "$1")-$(basename "$2")" 2>&1 9>&- & PIDS+=($!); disown; }

until_ok() {
    while [ $((SECONDS - began)) -lt $START_S ]; do
        if timeout 10 "$@" >/dev/null 2>&1; then return; fi
        sleep 0.2
    done
    echo "not up after $START_S s: $*" >&2
    tail -n 5 log/* >&2
    return 1
}

network() {
    ip netns add kube
    $N ip link set lo up
    $N ip link add eth0 type veth peer name eth0p
    $N ip link set eth0p up
    $N ip addr add $IP/24 dev eth0
    $N ip link set eth0 up
    $N ip route add default dev eth0
    $N sysctl -qw net.ipv4.ip_forward=1 net.bridge.bridge-nf-call-iptables=1
}

control_plane() {
    openssl genrsa -out sa.key 2>/dev/null
    openssl rsa -in sa.key -pubout -out sa.pub 2>/dev/null
    TOKEN=$(openssl rand -hex 16)
    echo "$TOKEN,admin,admin,system:masters" > tokens
    sed "s/TOKEN/$TOKEN/; s/IP/$IP/" "$HERE/kubeconfig.yaml" > kubeconfig
    export KUBECONFIG=$T/kubeconfig
    openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=front -keyout front.key -out front.crt 2>/dev/null
    background "$K" etcd --unsafe-no-fsync --listen-peer-urls http://127.0.0.1:2380
    background "$K" apiserver --etcd-servers=http://127.0.0.1:2379 --bind-address=$IP --cert-dir=. --token-auth-file=tokens \
        --authorization-mode=Node,RBAC --service-account-issuer=https://k --service-account-key-file=sa.pub \
        --service-account-signing-key-file=sa.key --service-cluster-ip-range=10.96.0.0/16 \
        --kubelet-preferred-address-types=InternalIP --proxy-client-cert-file=front.crt --proxy-client-key-file=front.key \
        --requestheader-client-ca-file=front.crt --requestheader-username-headers=X-Remote-User \
        --requestheader-group-headers=X-Remote-Group --requestheader-extra-headers-prefix=X-Remote-Extra-
    until_ok $N kubectl get --raw /readyz
    local as="--kubeconfig=kubeconfig --authentication-kubeconfig=kubeconfig --authorization-kubeconfig=kubeconfig --leader-elect=false"
    background "$K" controllers $as --cert-dir=. --use-service-account-credentials --service-account-private-key-file=sa.key \
        --horizontal-pod-autoscaler-sync-period=2s --horizontal-pod-autoscaler-initial-readiness-delay=1s \
        --horizontal-pod-autoscaler-cpu-initialization-period=10s
    background "$K" scheduler $as
}

runtime() {
    sed "s|FOLDER|$T|" "$HERE/containerd.toml" > ctrd.toml
    sed "s|FOLDER|$T|" "$HERE/cni.json" > cni/1.conflist
    $N containerd -c ctrd.toml > log/containerd 2>&1 9>&- &
    CONTAINERD=$!
    until_ok ctr -a ctrd.sock version
    for tar in "$CACHE"/image/pause.tar "$CACHE"/image/redis.tar arriero.tar; do
        timeout $START_S ctr -a ctrd.sock -n k8s.io images import "$tar" >/dev/null
    done
    ctr -a ctrd.sock -n k8s.io images tag localhost/arriero:0.1.0 localhost/arriero:next >/dev/null
}

node() {
    sed "s|FOLDER|$T|; s|ADDRESS|$IP|" "$HERE/kubelet.yaml" > kubelet.yaml
    background "$K" kubelet --config=kubelet.yaml --kubeconfig=kubeconfig --root-dir="$T/kubelet" --cert-dir=pki \
        --hostname-override=node1 --node-ip=$IP
    background "$K" proxy --kubeconfig=kubeconfig --hostname-override=node1 --cluster-cidr=10.244.0.0/16 \
        --conntrack-max-per-core=0 --conntrack-tcp-timeout-established=0 --conntrack-tcp-timeout-close-wait=0
    background python3 "$HERE/names.py" $IP
    until_ok $N kubectl wait --for=condition=Ready node/node1 --timeout=1s
    sed "s/ADDRESS/$IP/" "$HERE/metrics.yaml" | $N kubectl apply -f - >/dev/null
    background "$K" metrics --kubeconfig=kubeconfig --authentication-kubeconfig=kubeconfig --authorization-kubeconfig=kubeconfig \
        --secure-port=4443 --cert-dir=metrics --kubelet-insecure-tls --kubelet-preferred-address-types=InternalIP \
        --metric-resolution=10s --kubelet-request-timeout=5s
}

mkdir -p "$T/log" "$T/cni"
cd "$T"
images
OURS=""
began=$SECONDS
network
runtime
control_plane
node
OURS=yes
echo "Kubernetes is up ($((SECONDS - began)) s)" >&2
cd "$ROOT"
if [ "${1:-}" = shell ]; then
    $N "${SHELL:-/bin/bash}"
else
    $N "${PYTHON:-.venv-dev/bin/python}" -m pytest -p no:cacheprovider -vv -s -x --durations 50 \
        tests/kube/cluster/scenarios.py tests/kube/cluster/examples.py "$@"
fi
