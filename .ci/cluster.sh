#!/usr/bin/env bash
# The real cluster on CI, when what it proves may have changed. Where this machine can have none it is skipped, and says so
# loudly; a scenario that fails fails the run. ARRIERO_CLUSTER=always|never decides by hand. It is over 50 minutes after
# $ARRIERO_CI_BEGAN (else after now), whatever it has not come to: .ci/run is to end within the hour.
set -euo pipefail
cd "$(dirname "$0")/.."
PROVEN='^(helm/|Dockerfile$|\.dockerignore$|\.ci/|tests/kube/|requirements-image\.lock$|pyproject\.toml$)'
SHUTDOWN='^gateway/((front|vitals)/.*|(.*/)?(app|cli|cycle|http|inference|lane|listener|live|operations|probe|reload|serve|succession|worker|workers)\.py)$'
NOT_UP=75
CLUSTER_ENDS=$((${ARRIERO_CI_BEGAN:-$(date +%s)} + 50 * 60))
export CLUSTER_ENDS

skipped() {
    printf '\n%s\nTHE CLUSTER RUN WAS SKIPPED, nothing of it is proven: %s\n%s\n' "$(printf '!%.0s' {1..100})" "$1" \
        "$(printf '!%.0s' {1..100})" >&2
    exit 0
}

landed() {   # the last commit that is on the branch this one goes to; nothing where that is not to be known
    local name found
    for name in origin/HEAD origin/main; do
        found=$(git merge-base HEAD "$name" 2>/dev/null) || continue
        [ "$found" = "$(git rev-parse HEAD)" ] || { echo "$found"; return; }
    done
}

case ${ARRIERO_CLUSTER:-changed} in
    never) skipped "ARRIERO_CLUSTER=never" ;;
    always) ;;
    *)
        base=$(landed)
        if [ -n "$base" ] && ! git diff --name-only "$base" | grep -E "$PROVEN|$SHUTDOWN" >/dev/null; then
            echo "No cluster run: since $(git rev-parse --short "$base") neither the chart, the image nor the shutdown changed" >&2
            exit 0
        fi ;;
esac
why=$(tests/kube/cluster/possible.sh 2>&1) || skipped "$why"
code=0
nice -n 5 tests/kube/cluster/run.sh || code=$?
[ $code != $NOT_UP ] || skipped "the cluster came too late or not at all on this machine; what it said is above"
exit $code
