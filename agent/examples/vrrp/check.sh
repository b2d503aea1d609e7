#!/bin/sh
# What keepalived calls a vrrp_script: makes a check again and again and reports what came out to vrrp, which counts `rise`
# and `fall` itself. A check that hangs is ended after TIMEOUT; when this script dies, vrrp takes the check for down after `fresh`.
#
#   check.sh RUN_DIR NAME INTERVAL TIMEOUT COMMAND [ARGUMENT...]      (seconds)
#
# As root, or as the user that vrrp runs as. AMPHORA is the program, `amphora` by default.
set -u
if [ $# -lt 5 ]; then
    echo "usage: $0 RUN_DIR NAME INTERVAL TIMEOUT COMMAND [ARGUMENT...]" >&2
    exit 2
fi
run=$1 name=$2 interval=$3 timeout=$4
shift 4
while :; do
    if timeout "$timeout" "$@" >/dev/null 2>&1; then result=up; else result=down; fi
    # Without an answer, as while vrrp starts, the next one counts.
    "${AMPHORA:-amphora}" ctl --run-dir "$run" vrrp check "$name" "$result"
    sleep "$interval"
done
