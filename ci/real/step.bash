# Shared by all steps with real tools; sourced from ci/real-*. Sets $dir, a temporary directory, $programs, the directory of our
# programs, and $repository. At exit, also after a signal, it stops what it started and removes $dir.
# shellcheck shell=bash disable=SC2034 # used by steps
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
repository=$PWD
programs=${CHECKPOINT_BIN:-${CARGO_TARGET_DIR:-target}/release}
programs=$(cd "$programs" && pwd)
conformance=$programs/checkpoint-conformance
dir=$(mktemp -d)
started=()

# Ends the step as skipped.
skip() {
    echo "skipped: $1"
    exit 0
}

# Ends the step as failed, with the last lines of the logs.
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
    started=("$pid" "${started[@]}") # stopped in reverse order
}

# Stops a started program and waits for its end; SIGKILL after ten seconds.
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

# Functions to call before a process is stopped, by pid.
declare -A before_stop=()

end() {
    local status=$?
    trap - EXIT
    set +e
    for pid in "${started[@]}"; do
        ${before_stop[$pid]:-:}
        stop "$pid"
    done
    # Mounts below belong to containers that no longer exist.
    awk -v dir="$dir/" 'index($2, dir) == 1 { print $2 }' /proc/self/mounts | sort -r | while read -r mount; do
        umount -l "$mount"
    done
    rm -rf "$dir"
    exit "$status"
}
trap end EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# Waits until a command succeeds while the last started program runs: until_true SECONDS WHAT COMMAND...
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

# Sets $tool to the path of a real tool, or $why to the reason why it is not available.
try() {
    local status=0
    tool=$(ci/tool "$1" 2> "$dir/why") || status=$?
    why=$(tail -n 1 "$dir/why")
    [ "$status" = 0 ] || [ "$status" = 3 ] || fail "ci/tool $1: $(cat "$dir/why")"
    return "$status"
}

# Sets $tool to the path of a real tool; skips the step if it is not available.
need() {
    try "$1" || skip "$why"
}

free_port() {
    # Bash cannot bind a port, so this takes a port of the ephemeral range that nobody listens on. A program that loses
    # the race for the port fails to start with an error.
    local port
    while :; do
        port=$((RANDOM % 16384 + 16384))
        (exec 3<> "/dev/tcp/127.0.0.1/$port") 2> /dev/null || break
    done
    echo "$port"
}
