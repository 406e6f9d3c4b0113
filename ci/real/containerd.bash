# Starts a real containerd that keeps to $dir, with runc and, where there is one, CRIU. Sourced after step.bash.
# shellcheck shell=bash disable=SC2154,SC2034 # assigned by step.bash, used by steps

# containerd of this machine's tool, its socket in $endpoint, its ctr (with its arguments) in the array "ctr".
start_containerd() { # tool: containerd or containerd-1.6
    local path=$PATH
    need "$1"
    local containerd=$tool
    need runc
    path=$(dirname "$tool"):$path
    mkdir "$dir/ctrd"
    if [ "$1" = containerd ]; then
        need criu
        path=$(dirname "$tool"):$path
        # restrict_oom_score_adj and the native snapshotter are for machines in containers and small virtual ones,
        # which lack CAP_SYS_RESOURCE or stack overlayfs on overlayfs.
        cat > "$dir/ctrd/config.toml" << TOML
version = 3
root = "$dir/ctrd/root"
state = "$dir/ctrd/state"
[grpc]
address = "$dir/ctrd/sock"
[plugins."io.containerd.cri.v1.images"]
snapshotter = "native"
[plugins."io.containerd.cri.v1.images".pinned_images]
sandbox = "$pause"
[plugins."io.containerd.cri.v1.runtime"]
restrict_oom_score_adj = true
TOML
    else
        cat > "$dir/ctrd/config.toml" << TOML
version = 2
root = "$dir/ctrd/root"
state = "$dir/ctrd/state"
[grpc]
address = "$dir/ctrd/sock"
[plugins."io.containerd.grpc.v1.cri"]
restrict_oom_score_adj = true
sandbox_image = "$pause"
[plugins."io.containerd.grpc.v1.cri".containerd]
snapshotter = "native"
TOML
    fi
    endpoint=unix://$dir/ctrd/sock
    ctr=("$(dirname "$containerd")/ctr" --address "$dir/ctrd/sock" --namespace k8s.io)
    PATH=$(dirname "$containerd"):$path start containerd "$containerd" --config "$dir/ctrd/config.toml"
    containerd_pid=$pid
    until_true 30 "containerd does not come up" "${ctr[@]}" version
    "$containerd" --version
}
