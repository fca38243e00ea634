#!/bin/sh
# Installs the programs that tests use, where there is apt-get and the right to use it; a test without its program says so.
set -eu
"$(dirname "$0")/kube/toolchain/build.sh" image || echo "not all of the chart's programs could be made: their tests say which" >&2
wanted=""
command -v wrk >/dev/null || wanted="$wanted wrk"
command -v nginx >/dev/null || [ -x /usr/sbin/nginx ] || wanted="$wanted nginx"
ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1 || command -v initdb >/dev/null || wanted="$wanted postgresql"
command -v npm >/dev/null || wanted="$wanted nodejs npm"
command -v redis-server >/dev/null || wanted="$wanted redis-server"
[ -n "$wanted" ] || exit 0
if ! command -v apt-get >/dev/null || [ "$(id -u)" != 0 ]; then
    echo "not installed:$wanted (install them, or the tests that use them are skipped)" >&2
    exit 0
fi
echo "Installing$wanted" >&2
apt-get -qq update
DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends $wanted >/dev/null
