# Starts a containerd with all state in $dir, with runc and, if available, CRIU. Sourced after step.bash.
# shellcheck shell=bash disable=SC2154,SC2034 # assigned by step.bash, used by steps

# The image of the containers, also used for the sandboxes, which only have to keep running.
image=checkpoint-conformance.dev/test-workload:1

# containerd of ci/tool; its socket in $endpoint, its ctr with arguments in the array "ctr".
start_containerd() { # tool: containerd or containerd-1.6
    local path=$PATH
    need "$1"
    local containerd=$tool
    need runc
    path=$(dirname "$tool"):$path
    mkdir "$dir/ctrd"
    local=() # the arguments of an import that the daemon would otherwise do, for its default snapshotter alone
    if [ "$1" = containerd ]; then
        local=(--local)
        need criu
        path=$(dirname "$tool"):$path
        # restrict_oom_score_adj is for machines without CAP_SYS_RESOURCE, the native snapshotter for those whose root is
        # an overlayfs.
        cat > "$dir/ctrd/config.toml" << TOML
version = 3
root = "$dir/ctrd/root"
state = "$dir/ctrd/state"
[grpc]
address = "$dir/ctrd/sock"
[plugins."io.containerd.cri.v1.images"]
snapshotter = "native"
[plugins."io.containerd.cri.v1.images".pinned_images]
sandbox = "$image"
[plugins."io.containerd.cri.v1.runtime"]
restrict_oom_score_adj = true
[plugins."io.containerd.cri.v1.runtime".cni]
conf_dir = "$dir/ctrd/cni"
TOML
        # A node is not ready without a network; all Pods use the network of the host.
        mkdir "$dir/ctrd/cni"
        echo '{"cniVersion": "1.0.0", "name": "none", "plugins": [{"type": "none"}]}' > "$dir/ctrd/cni/none.conflist"
    else
        cat > "$dir/ctrd/config.toml" << TOML
version = 2
root = "$dir/ctrd/root"
state = "$dir/ctrd/state"
[grpc]
address = "$dir/ctrd/sock"
[plugins."io.containerd.grpc.v1.cri"]
restrict_oom_score_adj = true
sandbox_image = "$image"
[plugins."io.containerd.grpc.v1.cri".containerd]
snapshotter = "native"
TOML
    fi
    endpoint=unix://$dir/ctrd/sock
    ctr=("$(dirname "$containerd")/ctr" --address "$dir/ctrd/sock" --namespace k8s.io)
    PATH=$(dirname "$containerd"):$path start containerd "$containerd" --config "$dir/ctrd/config.toml"
    before_stop[$pid]=remove_containers
    until_true 30 "containerd does not come up" "${ctr[@]}" version
    "$containerd" --version
}

# Containers survive containerd, so they are removed first. A frozen container cannot be killed, so it is unfrozen.
remove_containers() {
    local container
    for container in $("${ctr[@]}" tasks list --quiet); do
        "${ctr[@]}" tasks resume "$container"
        "${ctr[@]}" tasks delete --force "$container"
    done > /dev/null 2>&1
    rmdir /sys/fs/cgroup/{,*/}k8s.io/* /sys/fs/cgroup/{,*/}k8s.io 2> /dev/null
}

# Builds the image of the harness and imports it.
import_image() {
    ci/image "$dir/image.tar"
    "${ctr[@]}" images import "${local[@]}" --snapshotter native "$dir/image.tar" > /dev/null
}
