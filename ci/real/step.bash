# What every step with real tools shares. Sourced from ci/real-*; gives $dir, a folder of its own that is gone at the
# end, $programs, where ours are, and $repository; and stops at the end, however that comes, all that it started.
# shellcheck shell=bash disable=SC2034 # used by steps
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
repository=$PWD
programs=${CHECKPOINT_BIN:-${CARGO_TARGET_DIR:-target}/release}
programs=$(cd "$programs" && pwd)
conformance=$programs/checkpoint-conformance
dir=$(mktemp -d)
started=()

# Ends the step as one that could not judge.
skip() {
    echo "skipped: $1"
    exit 0
}

# Ends the step as failed, with the ends of the logs.
fail() {
    echo "failed: $1" >&2
    for log in "$dir"/*.log; do
        [ ! -s "$log" ] || { echo "-- $(basename "$log")" && tail -n "${log_lines:-8}" "$log"; } >&2
    done
    exit 1
}

# Starts a program in the background, its output in $dir/NAME.log; its pid is $pid.
start() { # name, command...
    local log=$dir/$1.log
    shift
    "$@" >> "$log" 2>&1 < /dev/null &
    pid=$!
    started=("$pid" "${started[@]}") # the last that came is the first that goes
}

# Stops one of them, and waits for it: gently, and after ten seconds not.
stop() { # pid
    local left=100
    kill "$1" 2> /dev/null || true
    while kill -0 "$1" 2> /dev/null && [ "$left" -gt 0 ]; do
        sleep 0.1
        left=$((left - 1))
    done
    kill -KILL "$1" 2> /dev/null || true
    wait "$1" 2> /dev/null || true
}

# What is to be done before a process is stopped: the name of a function, by pid.
declare -A before_stop=()

end() {
    local status=$?
    trap - EXIT
    set +e
    for pid in "${started[@]}"; do
        ${before_stop[$pid]:-:}
        stop "$pid"
    done
    # What is still mounted below belongs to containers that are gone.
    awk -v dir="$dir/" 'index($2, dir) == 1 { print $2 }' /proc/self/mounts | sort -r | while read -r mount; do
        umount -l "$mount"
    done
    rm -rf "$dir"
    exit "$status"
}
trap end EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# Waits until a command succeeds, as long as what was started last runs: until_true SECONDS WHAT COMMAND...
until_true() {
    local until=$((SECONDS + $1)) what=$2
    shift 2
    until "$@" > /dev/null 2>&1; do
        { [ "$SECONDS" -lt "$until" ] && kill -0 "$pid" 2> /dev/null; } || fail "$what"
        sleep 0.2
    done
}

needs_root() {
    [ "$(uname -s)" = Linux ] || skip "$1 needs Linux"
    [ "$(id -u)" = 0 ] || skip "$1 needs root"
}

# Finds a real tool: its path in $tool, or why it cannot be had in $why.
try() {
    local status=0
    tool=$(ci/tool "$1" 2> "$dir/why") || status=$?
    why=$(tail -n 1 "$dir/why")
    [ "$status" = 0 ] || [ "$status" = 3 ] || fail "ci/tool $1: $(cat "$dir/why")"
    return "$status"
}

# The path of a real tool, in $tool; skips the step when it cannot be had.
need() {
    try "$1" || skip "$why"
}

free_port() {
    # Bash cannot bind a port; what the kernel would hand out and nobody listens at is near enough, and whoever loses
    # the race for it fails to start, aloud.
    local port
    while :; do
        port=$((RANDOM % 16384 + 16384))
        (exec 3<> "/dev/tcp/127.0.0.1/$port") 2> /dev/null || break
    done
    echo "$port"
}
