#!/usr/bin/env bash
# How fast a node computes MD5, against openssl, and what that costs the GETs of another device.
#
#     contrib/bench/md5.sh [BINARY]
#
# Without BINARY the release build is made and used. A file of SIZE MiB (default 1024) in the page
# cache is digested in ROUNDS rounds (default 5), by openssl and by the node in turns. Then GETs of
# a 4 KiB file on another device are counted, without and with digests going on, in turns. The
# digests have one processor, the GETs and their client another one: it takes two. Needs openssl,
# taskset and wrk, and SIZE MiB of memory to spare. Fails when MD5 is below 0.95 of openssl's
# speed, or the GETs are below 0.9 of what they are without digests. The median of the rounds'
# ratios counts: the machine's own speed changes from one round to the next.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

SIZE=${SIZE:-1024}
ROUNDS=${ROUNDS:-5}
SECONDS_OF_GETS=${SECONDS_OF_GETS:-3}
LEAST_MD5=0.95
LEAST_GETS=0.90
DIGEST_CPU=0
GET_CPU=1

scratch=$(mktemp -d)
node=
digests=

main() {
    local tool
    for tool in openssl taskset wrk; do
        command -v "$tool" >/dev/null || fail "'$tool' is not installed"
    done
    (($(nproc) >= 2)) || fail "two processors are needed"
    binary=${1:-}
    if [[ -z $binary ]]; then
        cargo build --release --locked
        binary=target/release/rmogstored
    fi
    start_node
    compare_digests
    compare_gets
    finish
}

fail() {
    printf 'md5.sh: %s\n' "$*" >&2
    exit 1
}

clean_up() {
    for process in $digests $node; do
        kill -TERM "$process" 2>/dev/null || true
        wait "$process" 2>/dev/null || true
    done
    rm -rf "$scratch"
}
trap clean_up EXIT

# --- the node ------------------------------------------------------------------------------

start_node() {
    mkdir -p "$scratch"/docroot/{dev1,dev2}
    head -c "${SIZE}M" /dev/urandom >"$scratch/docroot/dev1/big"
    head -c 4096 /dev/urandom >"$scratch/docroot/dev2/small"
    "$binary" --docroot="$scratch/docroot" --workers=device --status-fd=9 \
        --httplisten=127.0.0.1:0 --mgmtlisten=127.0.0.1:0 \
        9>"$scratch/events" 2>"$scratch/log" &
    node=$!
    local deadline=$((SECONDS + 10))
    until grep -q '"event":"ready"' "$scratch/events"; do
        ((SECONDS < deadline)) || fail "the node does not start: $(cat "$scratch/log")"
        sleep 0.05
    done
    http=$(port http)
    mgmt=$(port mgmt)
    pin dev1 "$DIGEST_CPU"
    pin dev2 "$GET_CPU"
    taskset -cp "$GET_CPU" $$ >/dev/null # this shell, and what it starts from now on
}

port() {
    sed -n "s/.*\"service\":\"$1\",\"address\":\"[^\"]*:\([0-9]*\)\".*/\1/p" "$scratch/events"
}

# Threads that the worker starts later inherit where it may run.
pin() {
    local worker
    worker=$(sed -n "s/.*\"event\":\"worker_started\".*\"pid\":\([0-9]*\),\"devices\":\[\"$1\"\].*/\1/p" \
        "$scratch/events")
    taskset -acp "$2" "$worker" >/dev/null
}

# --- digests -------------------------------------------------------------------------------

compare_digests() {
    local round theirs ours
    node_md5 >/dev/null # everything is in the page cache, the disk thread is there
    [[ $(node_md5) == $(openssl_md5) ]] || fail "the digests differ"
    for ((round = 1; round <= ROUNDS; round++)); do
        theirs=$(timed openssl_md5)
        ours=$(timed node_md5)
        printf '%s %s\n' "$(speed "$ours")" "$(speed "$theirs")" >>"$scratch/md5"
        printf 'round %d: node %s MiB/s, openssl %s MiB/s\n' "$round" \
            "$(speed "$ours")" "$(speed "$theirs")"
    done
}

openssl_md5() {
    local line
    line=$(taskset -c "$DIGEST_CPU" openssl dgst -r -md5 "$scratch/docroot/dev1/big")
    printf '%s\n' "${line%% *}"
}

node_md5() {
    local line
    exec 8<>"/dev/tcp/127.0.0.1/$mgmt"
    printf 'MD5 /dev1/big\n' >&8
    IFS= read -r -t 120 -u 8 line || fail "no digest"
    exec 8>&-
    line=${line%$'\r'}
    printf '%s\n' "${line##*=}"
}

# Microseconds.
timed() {
    local begun=${EPOCHREALTIME/./}
    "$@" >/dev/null
    printf '%d\n' $((${EPOCHREALTIME/./} - begun))
}

speed() {
    awk -v mib="$SIZE" -v us="$1" 'BEGIN { printf "%.0f", mib * 1e6 / us }'
}

# --- GETs meanwhile ------------------------------------------------------------------------

compare_gets() {
    local round alone beside
    gets >/dev/null
    for ((round = 1; round <= ROUNDS; round++)); do
        alone=$(gets)
        keep_digesting &
        digests=$!
        beside=$(gets)
        kill "$digests"
        wait "$digests" 2>/dev/null || true
        digests=
        node_md5 >/dev/null # behind the one that was under way
        printf '%s %s\n' "$beside" "$alone" >>"$scratch/gets"
        printf 'round %d: %s GET/s beside digests, %s alone\n' "$round" "$beside" "$alone"
    done
}

keep_digesting() {
    while node_md5 >/dev/null; do :; done
}

gets() {
    taskset -c "$GET_CPU" wrk -t1 -c8 -d"${SECONDS_OF_GETS}s" "http://127.0.0.1:$http/dev2/small" |
        awk '/Non-2xx/ { exit 1 } /^Requests\/sec/ { printf "%.0f\n", $2 }'
}

# --- the verdict ---------------------------------------------------------------------------

finish() {
    local md5 gets
    md5=$(ratio "$scratch/md5")
    gets=$(ratio "$scratch/gets")
    printf 'MD5: %s of openssl (at least %s wanted)\n' "$md5" "$LEAST_MD5"
    printf 'GET beside it: %s of GET alone (at least %s wanted)\n' "$gets" "$LEAST_GETS"
    awk -v a="$md5" -v b="$LEAST_MD5" -v c="$gets" -v d="$LEAST_GETS" \
        'BEGIN { exit !(a >= b && c >= d) }'
}

# The median over the rounds of the first column by the second.
ratio() {
    awk '{ print $1 / $2 }' "$1" | sort -n |
        awk '{ r[NR] = $1 } END { printf "%.3f\n", (r[int((NR + 1) / 2)] + r[int(NR / 2) + 1]) / 2 }'
}

main "$@"
