#!/bin/sh
# What keepalived calls a notify script: runs COMMAND for each change of state from now on, one after the other, in order.
#
#   notify.sh RUN_DIR COMMAND [ARGUMENT...]
#
# COMMAND gets what keepalived's gets, with our words: INSTANCE INTERFACE-VRID STATE TERM, where STATE is initialize, fault, backup or
# active, and TERM is 0 unless active; the whole event, one line of JSON, is in KRATER_EVENT. AMPHORA is the program, `amphora` by default.
set -u
if [ $# -lt 2 ]; then
    echo "usage: $0 RUN_DIR COMMAND [ARGUMENT...]" >&2
    exit 2
fi
run=$1
shift
# A number or a word of the event's own fields.
field() {
    printf '%s\n' "$KRATER_EVENT" | sed -n 's/.*[{,]"'"$1"'":"\{0,1\}\([^",}]*\).*/\1/p'
}
"${AMPHORA:-amphora}" ctl --run-dir "$run" --json vrrp events --follow --new | while read -r KRATER_EVENT; do
    case $KRATER_EVENT in
    *'"event":"state_changed"'*)
        export KRATER_EVENT
        term=$(field term)
        # A hook that fails or reads its input must not end the others.
        "$@" INSTANCE "$(field interface)-$(field vrid)" "$(field to)" "${term:-0}" </dev/null ||
            echo "$0: $1 failed for $KRATER_EVENT" >&2
        ;;
    esac
done
