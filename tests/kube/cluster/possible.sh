#!/bin/sh
# Whether this machine can have the cluster; if not, why, and exit code 1. Quick, and leaves nothing.
set -u
no() { echo "$1" >&2; exit 1; }
[ "$(uname)" = Linux ] || no "the cluster needs Linux"
[ "$(id -u)" = 0 ] || no "the cluster needs root: it makes a network namespace and containers"
command -v go >/dev/null || no "there is no go to build Kubernetes with"
command -v gcc >/dev/null || no "there is no gcc for the pause image"
for program in kubectl ip nsenter openssl redis-server; do
    command -v $program >/dev/null || no "there is no $program"
done
command -v containerd >/dev/null || command -v apt-get >/dev/null || no "there is no containerd, and no apt-get to install it"
unshare --net --mount --pid --fork true 2>/dev/null || no "this machine makes no namespaces"
name=arriero-$$
ip netns add $name 2>/dev/null || no "ip netns: this machine makes no named network namespace"
ip -n $name link add eth0 type veth peer name eth1 2>/dev/null
made=$?
ip netns del $name
[ $made = 0 ] || no "this machine makes no virtual network interfaces"
at=/sys/fs/cgroup
[ ! -d $at/memory ] || at=$at/memory
mkdir $at/$name 2>/dev/null || no "control groups are not to be written here"
rmdir $at/$name
folder=$(mktemp -d)
mount -t tmpfs none "$folder" 2>/dev/null
made=$?
[ $made != 0 ] || umount "$folder"
rmdir "$folder"
[ $made = 0 ] || no "this machine mounts nothing"
[ "$(awk '/MemAvailable/{print int($2 / 1024)}' /proc/meminfo)" -ge 2500 ] || no "less than 2.5 GB of memory is free"
[ "$(df -Pm "${TMPDIR:-/tmp}" | awk 'NR==2{print $4}')" -ge 6000 ] || no "less than 6 GB of disk is free"
